"""How many decisions does one server worker on one core make, and how fast, beside the bare limit of its HTTP server?

The flights model (five nearline and three batch views, request features, 200 trees) decides over HTTP from a state of
nine months of real flights; the peer is an echo on the same connections and event loop, which does nothing else. Both
are pinned to one core in turn, `wrk` loads them from the other, and each pair of runs is taken back to back.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from harness import BENCH, ROOT, Load, Result, arguments, load, report, serving

from examples.flights.prepare import prepare
from examples.flights.running import Up, caught_up, command, free_port
from trilane.errors import SetupError

NOW = dt.datetime(2013, 10, 4, 21, 0, tzinfo=dt.UTC)  # five in the afternoon in New York: the airports are busy
SOURCES = {"departures": "departed_at", "arrivals": "arrived_at", "weather": "published_at"}
INPUTS = ("origin", "dest", "carrier", "tailnum", "scheduled_at", "distance")
WORK = [(1, 1), (1, 64), (10, 1), (10, 64), (100, 1), (100, 64)]  # rows in a request, connections


def set_up() -> Path:
    """A flights project with events up to `NOW` and a trained, deployed model; made once, then kept."""
    project, made_by = BENCH / "flights", _code()
    if (project / "made_by").exists() and (project / "made_by").read_text() == made_by:
        return project
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    for name in ("definitions.py", "trilane.toml"):
        shutil.copy(ROOT / "examples" / "flights" / name, project)
    prepare(ROOT / ".cache", project / "data")
    command(project, "apply")
    for source, time in SOURCES.items():
        events = pq.read_table(project / "data" / f"{source}.parquet")
        known = events.filter(pc.less(events[time], pa.scalar(NOW, events[time].type)))
        pq.write_table(known, project / "data" / f"{source}_known.parquet")
        command(project, "ingest", source, str(project / "data" / f"{source}_known.parquet"), "--history")
    command(project, "train", "late_arrival", "--until", "2013-10-01T00:00:00Z")
    command(project, "apply")
    up = Up(project, start=NOW.isoformat(), workers=1)
    try:
        connection = up.connect()
        caught_up(connection, NOW.isoformat())
    finally:
        up.stop()
    (project / "made_by").write_text(made_by)
    return project


def _code() -> str:
    """Digest of the code that makes the project: what other code made may be laid out otherwise."""
    files = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("examples/flights/*.py"), Path(__file__)])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def bodies(project: Path, rows: int) -> list[str]:
    """Request bodies of `rows` real questions each, from around `NOW`."""
    asks = pq.read_table(project / "data" / "asks.parquet", columns=["asked_at", *INPUTS])
    near = [pa.scalar(NOW + dt.timedelta(minutes=minutes), asks["asked_at"].type) for minutes in (-45, 45)]
    chosen = asks.filter(pc.and_(pc.greater_equal(asks["asked_at"], near[0]), pc.less(asks["asked_at"], near[1])))
    questions = [_question(row) for row in chosen.to_pylist()]
    if rows == 1:
        return [json.dumps(question) for question in questions]
    step = len(questions) // 8
    return [
        json.dumps({"rows": [questions[(start * step + row) % len(questions)] for row in range(rows)]})
        for start in range(8)
    ]


def _question(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name].isoformat() if isinstance(row[name], dt.datetime) else row[name] for name in INPUTS}


def measure(project: Path, *, rounds: int, seconds: float) -> list[Result]:
    """Runs every work `rounds` times on both servers, one after the other."""
    pairs: dict[tuple[int, int], list[tuple[Load, Load]]] = {work: [] for work in WORK}
    asked = {rows: bodies(project, rows) for rows in {rows for rows, _ in WORK}}
    ours_port, echo_port = free_port(), free_port()
    ours = f"http://127.0.0.1:{ours_port}/v1/decide/flight_delay"
    echo = f"http://127.0.0.1:{echo_port}/"
    us = [sys.executable, "-m", "trilane", "serve", "--replay", "--port", str(ours_port), "--project", str(project)]
    them = [sys.executable, str(Path(__file__).parent / "echo.py"), str(echo_port)]
    with serving(us, url=f"http://127.0.0.1:{ours_port}/health/ready"), serving(them, url=echo):
        for _ in range(rounds):
            for (rows, connections), found in pairs.items():
                mine = load(ours, asked[rows], connections=connections, seconds=seconds)
                bare = load(echo, asked[rows], connections=connections, seconds=seconds)
                found.append((mine, bare))
    results = []
    for (rows, connections), found in pairs.items():
        work = f"{rows} rows, {connections} connections"
        for metric, unit, field, better in (
            ("throughput", "requests/s", "rate", True),
            ("latency p50", "ms", "p50_ms", False),
            ("latency p99", "ms", "p99_ms", False),
        ):
            numbers = [(getattr(mine, field), getattr(bare, field)) for mine, bare in found]
            results.append(Result.of("decide", work, metric, unit, peer="echo", pairs=numbers, more_is_better=better))
    return results


def main() -> None:
    """Sets up, measures, reports."""
    options = arguments(__doc__ or "")
    project = set_up()
    results = measure(project, rounds=3 if options.quick else 5, seconds=1 if options.quick else 5)
    report("One worker on one core, deciding over HTTP, beside the bare echo", results, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
