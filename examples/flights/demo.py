"""Shows the whole of Trilane on a real year: `python -m examples.flights.demo`, or `make demo`.

Ingests January to September, trains, starts the real processes, replays a week of October through the HTTP API with
the worker killed in its middle, and checks that what was served is what training sees and that nothing was lost.
Fails (exit status 1) if a value differs or an event is missing. All it makes lies below one folder, `.demo`.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.parquet as pq

from examples.flights import proof
from examples.flights.client import Load, closed_loop
from examples.flights.closing import Live, Proved, Results, tell
from examples.flights.prepare import prepare
from examples.flights.replay import SOURCES, Outage, Replayed, Script, between, read_script, replay
from examples.flights.running import Up, caught_up, command, refuse_if_up
from examples.flights.show import Show
from trilane import SetupError, TrilaneError, duration, format_instant, instant
from trilane.apps.config import load_config
from trilane.apps.project import Project

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODELS = ("late_arrival", "late_arrival_baseline")
START = "2013-10-01T00:00:00Z"  # where training ends and the replay starts
DAY = duration("1d")
KILLED_AFTER, DOWN_FOR = duration("16h"), duration("3h")  # from noon in New York, on the middle day of the replay


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the year the demo takes."""

    days: int = 7
    ingest_from: str | None = None
    train_from: str = "2013-01-01T00:00:00Z"
    test_until: str = "2014-01-01T00:00:00Z"
    load_seconds: float = 5.0
    workers: int = 1

    @property
    def end(self) -> str:
        """Where the replay ends."""
        return format_instant(instant(START) + self.days * DAY)


QUICK = Size(
    days=1,
    ingest_from="2013-09-01T00:00:00Z",
    train_from="2013-09-08T00:00:00Z",
    test_until="2013-10-15T00:00:00Z",
    load_seconds=1.0,
)


@dataclass(frozen=True)
class Demo:
    """The demo's parts, in the order in which they run."""

    folder: Path
    size: Size
    show: Show

    @property
    def files(self) -> Path:
        """Where the prepared files lie."""
        return self.folder / "data"

    def prepare(self) -> None:
        """Gets the flights, and lays a fresh project around them."""
        with self.show.phase("Make events of the flights of 2013") as phase:
            counts = prepare(ROOT / ".cache", self.files)
            phase.told = (
                f"{counts.departures:,} departures, {counts.arrivals:,} arrivals, {counts.weather:,} hours of weather"
            )
        refuse_if_up(self.folder / "state")
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        for name in ("definitions.py", "trilane.toml"):
            shutil.copy(HERE / name, self.folder / name)
        command(self.folder, "apply")

    def ingest(self, text: str, start: str | None, end: str) -> dict[str, int]:
        """Puts the events of a time into the log, as having arrived when they happened; how many were accepted."""
        accepted = {}
        with self.show.phase(text, whole=len(SOURCES)) as phase:
            refused = 0
            for number, (source, column) in enumerate(SOURCES.items()):
                part = self.files / f"part-{source}.parquet"
                pq.write_table(between(pq.read_table(self.files / f"{source}.parquet"), column, start, end), part)
                done = command(self.folder, "ingest", source, str(part), "--history")
                part.unlink()
                accepted[source], refused = done["accepted"], refused + done["rejected"]
                phase.tick(number + 1)
            phase.told = f"{sum(accepted.values()):,} events"
            if refused:
                phase.told += f"; {refused} that cannot be true was refused"
        return accepted

    def train(self) -> None:
        """Trains both models on what was known before the replay, and deploys the endpoint."""
        for model in MODELS:
            with self.show.phase(f"Train {model}") as phase:
                done = command(self.folder, "train", model, "--since", self.size.train_from, "--until", START)
                phase.told = f"{done['rows']:,} rows, artifact {done['digest'][:16]}"
        command(self.folder, "apply")

    def live(self, script: Script) -> Live:
        """All that the running processes are asked for."""
        killed_at = instant(START) + self.size.days // 2 * DAY + KILLED_AFTER
        outage = Outage(at=killed_at, until=killed_at + DOWN_FOR)
        up = Up(self.folder, start=START, workers=self.size.workers)
        try:
            events_per_s = self._catch_up(up)
            done = self._replay(up, script, outage)
            connection = up.connect()
            status = connection.ask("GET", "/v1/status")
            explained = up.explain(connection, done.ids[-1])
            load = self._load(up, script)
        finally:
            up.stop()
        return Live(done=done, outage=outage, load=load, events_per_s=events_per_s, status=status, explained=explained)

    def prove(self, script: Script, live: Live, accepted: dict[str, int]) -> Proved:
        """Holds what was served against what training sees, now and in the months that follow."""
        with Project(load_config(self.folder)) as project:
            with self.show.phase("Compare what was served with what training sees") as phase:
                proof.archive(project)
                lost = proof.lost_events(project, live.status["lanes"], accepted)
                parity = proof.parity(project, script, live.done)
                phase.told = f"{parity.checked:,} values, {parity.mismatched} differ; {lost} events lost"
            self.ingest("Ingest what follows", self.size.end, self.size.test_until)
            with self.show.phase("Score the flights that no model has seen") as phase:
                proof.archive(project)
                unseen = proof.auc_of_the_unseen(
                    project,
                    MODELS,
                    since=START,
                    until=self.size.test_until,
                    out=self.folder / "state" / "unseen",
                    progress=lambda _stage, part, whole: phase.tick(part, whole),
                )
                phase.told = f"AUC {unseen[MODELS[0]]:.3f}, without the events {unseen[MODELS[1]]:.3f}"
        served = proof.auc_of_the_served(script, live.done)
        return Proved(
            parity=parity, lost=lost, three_lanes=unseen[MODELS[0]], baseline=unseen[MODELS[1]], served=served
        )

    def _catch_up(self, up: Up) -> float:
        with self.show.phase("Start server, worker and control; catch up") as phase:
            connection = up.connect()
            samples: list[tuple[float, int]] = []
            whole = 0
            for _ in up.patiently("the worker did not catch up"):
                lanes: list[dict[str, Any]] = list(connection.ask("GET", "/v1/status")["lanes"].values())
                whole = sum(sum(lane["end"].values()) for lane in lanes)
                samples.append((time.perf_counter(), sum(sum(lane["applied"].values()) for lane in lanes)))
                phase.tick(samples[-1][1], whole)
                if samples[-1][1] == whole:
                    break
            caught_up(connection, START)
            busy = [sample for sample in samples if sample[1]]
            took, applied = busy[-1][0] - busy[0][0], busy[-1][1] - busy[0][1]
            # If all was done between two looks, its start-up counts too: too low is better than made up.
            rate = applied / took if took else whole / (samples[-1][0] - up.started)
            phase.told = f"{whole:,} events, {rate:,.0f} a second"
        return rate

    def _replay(self, up: Up, script: Script, outage: Outage) -> Replayed:
        days = f"{self.size.days} days" if self.size.days > 1 else "a day"
        with self.show.phase(f"Replay {days} of October over HTTP", whole=len(script.rows)) as phase:
            done = replay(up, script, outage, tick=phase.tick)
            phase.told = f"{len(done.ids):,} decisions, {sum(done.accepted.values()):,} events"
        return done

    def _load(self, up: Up, script: Script) -> Load:
        with self.show.phase("Ask as fast as 8 callers can") as phase:
            load = closed_loop(up.port, script.requests(), connections=8, seconds=self.size.load_seconds)
            phase.told = f"{load.answers / load.seconds:,.0f} decisions a second"
        return load


def run(demo: Demo) -> Results:
    """The whole demo."""
    began = time.perf_counter()
    demo.prepare()
    accepted = demo.ingest("Ingest what was before October", demo.size.ingest_from, START)
    demo.train()
    script = read_script(demo.files, START, demo.size.end)
    live = demo.live(script)
    for source, number in live.done.accepted.items():
        accepted[source] += number
    proved = demo.prove(script, live, accepted)
    return Results.of(live, proved, events=sum(accepted.values()), seconds=time.perf_counter() - began)


def main(words: Sequence[str] | None = None) -> int:
    """The demo as a command; its exit status."""
    folder, size = _options(words)
    show = Show()
    show.say(
        "\n[bold]Trilane on a year of flights[/]: will a flight arrive late? Asked half an hour before it leaves.\n"
    )
    try:
        results = run(Demo(folder, size, show))
    except TrilaneError as error:
        show.say(f"[red]✗[/] {error}")
        return error.exit_code
    except OSError as error:
        show.say(f"[red]✗[/] {error}")
        return SetupError.exit_code
    except KeyboardInterrupt:
        show.say("Stopped; nothing was left running.")
        return 130
    results.write(folder / "summary.json")
    tell(show, results, folder=folder, until=size.test_until)
    return 0 if results.holds else 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options(words: Sequence[str] | None) -> tuple[Path, Size]:
    parser = argparse.ArgumentParser(prog="python -m examples.flights.demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--days", type=int, metavar="N", choices=range(1, 31), help="days of October to replay (7)")
    parser.add_argument("--quick", action="store_true", help="one day, after a month of history; proves, impresses not")
    parser.add_argument("--workers", type=int, metavar="N", choices=range(1, 65), help="server processes (1)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where everything is put (.demo)")
    chosen = parser.parse_args(words)
    size = QUICK if chosen.quick else Size()
    size = dataclasses.replace(size, days=chosen.days or size.days, workers=chosen.workers or size.workers)
    return chosen.folder.absolute(), size


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
