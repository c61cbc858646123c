"""What is left of a server's capacity, and of its critical answers, while ten times as much is asked of it?

One worker on one core answers with a model of some milliseconds; an open loop on the other core asks first what it can
answer, then ten times as much for a while, in four tiers, then half of it. The peer is the same server without
admission: everybody is let in, in one tier, and only who is late already is not worked on. Goodput counts answers
within the endpoint's deadline, measured by the client from the instant at which a request was due.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from harness import BENCH, Result, arguments, report, serving

from examples.flights.running import command, free_port
from trilane.errors import SetupError
from trilane.serving.policy import TIERS

HERE = Path(__file__).parent
DEADLINE = 0.5
MIX = (0.04, 0.26, 0.4, 0.3)  # of the burst, by tier
TIMES = 10
_BODY = '{"amount": 12.5}'


@dataclass(frozen=True)
class Burst:
    """What became of the requests of one phase, by when they were due."""

    due: npt.NDArray[np.float64]
    tiers: npt.NDArray[np.int64]
    status: npt.NDArray[np.int32]
    latency: npt.NDArray[np.float64]

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        return (self.status == 200) & (self.latency <= DEADLINE)

    def goodput(self, since: float, until: float) -> float:
        """Answers within the deadline a second, of the requests due in a span."""
        return float((self.good & self.within(since, until)).sum() / (until - since))

    def within(self, since: float, until: float) -> npt.NDArray[np.bool_]:
        return (self.due >= since) & (self.due < until)

    def recovery(self, since: float) -> float:
        """Seconds after `since` from which all requests are answered in time."""
        missed = self.due[(self.due >= since) & ~self.good]
        return float(missed.max() - since) if len(missed) else 0.0


def set_up() -> Path:
    """The project, its model packed and deployed; made once, then kept."""
    project, definitions = BENCH / "burst", (HERE / "burst" / "definitions.py").read_text()
    made = project / "made_of"
    if made.exists() and made.read_text() == definitions:
        return project
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    (project / "trilane.toml").write_text("")
    (project / "definitions.py").write_text(definitions)
    rows, day = 64, 86_400_000_000
    table = {
        "user": [f"u{i}" for i in range(rows)],
        "asked_at": pa.array([i * day // rows for i in range(rows)], pa.timestamp("us", "UTC")),
        "amount": [float(i) for i in range(rows)],
        "bad": [i % 2 == 0 for i in range(rows)],
    }
    pq.write_table(pa.table(table), project / "asks.parquet")
    command(project, "apply")
    command(project, "train", "deep")
    command(project, "apply")
    made.write_text(definitions)
    return project


def ask(port: int, phases: Sequence[tuple[float, float]], *, seed: int) -> Burst:
    """Asks at each phase's rate for its seconds, from the other core."""
    random = np.random.default_rng(seed)
    start, due = 0.0, []
    for rate, seconds in phases:
        gaps = random.exponential(1 / rate, int(rate * seconds * 1.3) + 64).cumsum()
        due.append(gaps[gaps < seconds] + start)
        start += seconds
    instants = np.concatenate(due)
    tiers = random.choice(len(TIERS), len(instants), p=MIX)
    requests = [
        f"POST /v1/decide/check HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"x-trilane-tier: {tier}\r\ncontent-length: {len(_BODY)}\r\n\r\n{_BODY}"
        for tier in TIERS
    ]
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "found.npz")
        task: dict[str, Any] = {"host": "127.0.0.1", "port": port, "requests": requests, "output": output}
        task |= {"due": instants.tolist(), "kinds": tiers.tolist()}
        line = ["taskset", "-c", "1", sys.executable, str(HERE / "open_loop.py")]
        subprocess.run(line, input=msgspec.json.encode(task), check=True)
        found = np.load(output)
        return Burst(instants, tiers, found["status"], found["latency"])


def capacity(port: int) -> float:
    """What is answered in time of the best rate, of rates that rise to four times that; asked again, and for longer,
    for the most of several short looks is more than can be held.
    """
    found, rate = dict[float, float](), 50.0
    while rate < 4 * max([*found.values(), 50.0]):
        found[rate] = ask(port, [(rate, 2.0)], seed=int(rate)).goodput(0.5, 2.0)
        rate *= 2
    best = max(found, key=found.__getitem__)
    return ask(port, [(best, 6.0)], seed=7).goodput(1.0, 6.0)


def run(project: Path, *, protected: bool, seconds: float, seed: int, most: float | None) -> tuple[Burst, float]:
    """A burst on a fresh server, and the capacity it is a multiple of."""
    port = free_port()
    words = [sys.executable, "-m", "trilane", "serve", "--port", str(port), "--project", str(project)]
    paths = [*([] if protected else [str(HERE / "burst" / "unprotected")]), os.environ.get("PYTHONPATH", "")]
    extra = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with serving(words, url=f"http://127.0.0.1:{port}/health/ready", environment=extra):
        ask(port, [(50.0, 2.0)], seed=seed)  # learns what batches take
        most = capacity(port) if most is None else most
        return ask(port, [(0.5 * most, 2.0), (TIMES * most, seconds), (0.5 * most, 3.0)], seed=seed), most


def measure(project: Path, *, rounds: int, seconds: float) -> list[Result]:
    """Bursts on both servers, one after the other."""
    pairs: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
    for seed in range(rounds):
        told, most = [], None
        for protected in (True, False):
            burst, most = run(project, protected=protected, seconds=seconds, seed=seed, most=most)
            told.append(_facts(burst, most, seconds))
        for key, value in told[0].items():
            pairs.setdefault(key, []).append((value, told[1][key]))
    work = f"{TIMES} times the capacity for {seconds:g} s"
    return [
        Result.of("burst", work, metric, unit, peer="no admission", pairs=found, more_is_better=better)
        for (metric, unit, better), found in pairs.items()
    ]


def _facts(burst: Burst, most: float, seconds: float) -> dict[tuple[str, str, bool], float]:
    during = burst.within(2.0, 2.0 + seconds)
    critical, answered = during & (burst.tiers == 0), during & (burst.status == 200)
    failed = (burst.status >= 500) | (burst.status <= 0)
    return {
        ("capacity", "answers/s", True): most,
        ("goodput in the burst", "of the capacity", True): max(burst.goodput(2.5, 2.0 + seconds), 1e-3) / most,
        ("critical in time", "share", True): max(float(burst.good[critical].mean()), 1e-3),
        ("answers in time", "of those given", True): max(float(burst.good[answered].mean()), 1e-3),
        ("recovery", "s", False): max(burst.recovery(2.0 + seconds), 0.01),
        ("server errors or none", "of all, plus 0.1 %", False): float(failed.mean()) + 1e-3,
    }


def main() -> None:
    """Sets up, measures, reports."""
    options = arguments(__doc__ or "")
    project = set_up()
    results = measure(project, rounds=1 if options.quick else 3, seconds=5.0 if options.quick else 30.0)
    report("One worker on one core, asked for ten times what it can answer", results, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
