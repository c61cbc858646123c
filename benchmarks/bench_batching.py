"""Is one untuned rule of batching as good at every load as the best fixed setting at that load?

A model takes alpha + beta rows. Trilane's batcher, with no setting, runs beside fixed windows of 1, 2, 5 and 10 ms with
8, 32 and 128 rows that are sealed early (Ray Serve, MLServer), late binding without waiting (greedy; Triton's default),
BentoML's rule and no batching; first on a virtual clock, all of them at all loads, then live: a server on one core, an
open-loop Poisson caller on the other, the policies in turn. A load of 100 % is what batches of 128 rows can answer.
Requests have a deadline of four such batches; one that is not answered in time counts with its deadline as its latency.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from batching_live import Setting, Shown, ask, live_server, peer
from harness import Result, arguments, report

from trilane.errors import SetupError
from trilane.serving.dispatch import Dispatcher
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import poisson, simulate

ROWS = 128
WINDOWS = [f"{window}x{rows}" for window in (1, 2, 5, 10) for rows in (8, 32, 128)]
PEERS = [*WINDOWS, "greedy", "cork", "none"]
LOADS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0, 1.2)
ALPHA = 0.010
LIVE = ["greedy", "cork", "none", "1x8", "5x32", "10x128"]
LIVE_LOADS = (0.1, 0.5, 0.8, 1.2)
QUICK_LOADS = (0.05, 0.2, 0.5, 0.8, 1.0, 1.2)
QUICK_LIVE, QUICK_LIVE_LOADS = ["greedy", "cork", "none", "5x32"], (0.2, 1.2)  # below and above what it can answer


class Figures(NamedTuple):
    """Of one run: the mean and the 99th percentile of all latencies in seconds, and answers in time a second."""

    mean: float
    p99: float
    goodput: float


def _setting(policy: str, ratio: float) -> Setting:
    beta = ALPHA / ratio
    return Setting(policy, ALPHA, beta, ROWS, 4 * (ALPHA + beta * ROWS))


def _capacity(ratio: float) -> float:
    return ROWS / (ALPHA + ALPHA / ratio * ROWS)


def simulated(policy: str, ratio: float, load: float, *, requests: int, seed: int) -> Figures:
    """One policy at one load on the virtual clock."""
    setting, rate = _setting(policy, ratio), load * _capacity(ratio)
    asked = poisson(rate, requests / rate, seed=seed, patience=setting.patience)

    def cost(rows: int) -> float:
        return setting.alpha + setting.beta * rows

    known = LatencyModel.of({rows: cost(rows) for rows in (1, 8, 64)})
    outcome = simulate(asked, Dispatcher[int](known, max_rows=ROWS) if policy == "ours" else peer(setting), cost)
    in_time = np.isfinite(outcome.latencies)
    return _figures(np.where(in_time, outcome.latencies, setting.patience), in_time, asked[-1].at)


def _figures(latencies: np.ndarray, in_time: np.ndarray, seconds: float) -> Figures:
    p99 = float(np.quantile(latencies, 0.99, method="higher"))
    return Figures(float(latencies.mean()), p99, float(in_time.sum()) / seconds)


def live(
    folder: Path, peers: list[str], loads: Sequence[float], *, rounds: int, seconds: float
) -> dict[tuple[float, float, str], list[Figures]]:
    """Every policy at every load, in turn, as often as there are rounds."""
    found: dict[tuple[float, float, str], list[Figures]] = defaultdict(list)
    with live_server(folder) as path:
        for number in range(rounds):
            for ratio in (10.0, 100.0):
                for load in loads:
                    due = np.array([one.at for one in poisson(load * _capacity(ratio), seconds, seed=number)])
                    for policy in ["ours", *peers]:
                        shown: Shown = ask(path, _setting(policy, ratio), due)
                        found[ratio, load, policy].append(_figures(shown.latencies, shown.in_time, shown.seconds))
    return found


def results(found: dict[tuple[float, float, str], list[Figures]], kind: str, peers: list[str]) -> list[Result]:
    """Ours beside each peer where the peer is worst, and beside the best fixed window of each load."""
    lines = []
    windows = [name for name in peers if name in WINDOWS]
    for ratio in sorted({ratio for ratio, _, _ in found}):
        loads = sorted({load for one, load, _ in found if one == ratio})
        for load in loads:
            ours = found[ratio, load, "ours"]
            for metric, unit, place, more in _METRICS:
                if (metric == "goodput") == (load < 0.9):
                    continue  # below capacity all is about latency, above it about what is answered at all
                best = min(windows, key=lambda name: _worth(found[ratio, load, name], place, more))
                for name, shown in ((best, f"best window, {_name(best)}"), ("greedy", "greedy")):
                    work = f"{kind}, alpha/beta {ratio:g}, load {load:.0%}"
                    lines.append(_line(work, metric, unit, place, more, ours, found[ratio, load, name], shown))
        lines += [_worst(found, kind, ratio, loads, name) for name in peers]
        lines.append(_capacity_line(found, kind, ratio, loads))
    return lines


_METRICS = (("mean latency", "ms", 0, False), ("p99", "ms", 1, False), ("goodput", "requests/s", 2, True))


def _worth(runs: list[Figures], place: int, more: bool) -> float:
    middle = float(np.median([run[place] for run in runs]))
    return -middle if more else middle


def _line(
    work: str, metric: str, unit: str, place: int, more: bool, ours: list[Figures], other: list[Figures], name: str
) -> Result:
    scale = 1e3 if unit == "ms" else 1.0
    least = 1.0 if more else 1e-9  # a peer that answers nothing in time counts as one answer a second
    pairs = [(scale * mine[place], max(scale * its[place], least)) for mine, its in zip(ours, other, strict=True)]
    return Result.of("batching", work, metric, unit, peer=name, pairs=pairs, more_is_better=more)


def _worst(
    found: dict[tuple[float, float, str], list[Figures]], kind: str, ratio: float, loads: list[float], name: str
) -> Result:
    """The load and the metric at which this peer loses most to us."""
    lines = [
        _line(
            f"{kind}, alpha/beta {ratio:g}, its worst load ({load:.0%})",
            metric,
            unit,
            place,
            more,
            found[ratio, load, "ours"],
            found[ratio, load, name],
            _name(name),
        )
        for load in loads
        for metric, unit, place, more in _METRICS
    ]
    return max(lines, key=lambda line: line.ratio)


def _capacity_line(
    found: dict[tuple[float, float, str], list[Figures]], kind: str, ratio: float, loads: list[float]
) -> Result:
    """Our most answers a second at any load beside those of no batching."""
    most = {
        name: [
            max(found[ratio, load, name][run].goodput for load in loads)
            for run in range(len(found[ratio, loads[0], name]))
        ]
        for name in ("ours", "none")
    }
    pairs = list(zip(most["ours"], most["none"], strict=True))
    work = f"{kind}, alpha/beta {ratio:g}, most at any load"
    return Result.of("batching", work, "goodput", "requests/s", peer="no batching", pairs=pairs, more_is_better=True)


def _name(policy: str) -> str:
    if policy in WINDOWS:
        window, rows = policy.split("x")
        return f"window {window} ms x {rows}"
    return {"cork": "BentoML's rule", "none": "no batching"}.get(policy, policy)


def main() -> None:
    """Simulates, measures, reports."""
    options = arguments(__doc__ or "")
    quick = options.quick
    virtual = {
        (ratio, load, policy): [
            simulated(policy, ratio, load, requests=2_500 if quick else 20_000, seed=seed) for seed in range(3)
        ]
        for ratio in ((10.0, 100.0) if quick else (0.1, 1.0, 10.0, 100.0))
        for load in (QUICK_LOADS if quick else LOADS)
        for policy in ["ours", *PEERS]
    }
    peers, loads = (QUICK_LIVE, QUICK_LIVE_LOADS) if quick else (LIVE, LIVE_LOADS)
    with tempfile.TemporaryDirectory() as folder:
        real = live(Path(folder), peers, loads, rounds=2 if quick else 5, seconds=0.4 if quick else 2.0)
    lines = results(virtual, "simulated", PEERS) + results(real, "live", peers)
    report("One untuned rule of batching beside fixed ones, by load", lines, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
