"""The nearline worker is really killed, at random points, again and again: no value changes, none is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock

EVENTS = 1_500
KILLS = 8

WORKER = """
import sys
from pathlib import Path
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from dataclasses import replace
from trilane.clock import SimulatedClock

project = Project(load_config(Path(sys.argv[1]), environment={}), clock=SimulatedClock(int(sys.argv[2])))
worker = Worker(project)
worker._tools = replace(worker._tools, limit=17)  # many small transactions, so that kills fall between and inside
print("ready", flush=True)
while worker.step():
    print("step", flush=True)
print("drained", flush=True)
"""


def _history() -> list[bytes]:
    """Events in some disorder, some repeated, some broken."""
    chance = random.Random(7)
    events = []
    for number in range(EVENTS):
        at = T0 + number * 1_000_000 + chance.randint(-60, 60) * 1_000_000
        shop = chance.choice("abcd")
        events.append(event(number, shop=shop, at=at, amount=round(chance.uniform(-5, 500), 2)))
        if chance.random() < 0.05:
            events.append(chance.choice(events))
        if chance.random() < 0.02:
            events.append(b'{"order_id": "broken"}')
    return events


def _state(project: Project) -> tuple[dict[bytes, bytes], dict[tuple[str, str], int]]:
    rows = dict(project.online.scan(project.definitions.views["shop_now"].space))
    return rows, project.dead_letters.count()


def _kill_at_random(folder: Path, chance: random.Random) -> bool:
    """Runs a worker and kills it after a random number of steps; true if it had drained the log before."""
    command = [sys.executable, "-c", WORKER, str(folder), str(T0 + 60 * MINUTE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        steps = chance.randint(0, 20)
        for line in worker.stdout:
            if line == "drained\n":
                break
            steps -= line == "step\n"
            if steps < 0:
                break
        else:
            raise AssertionError("the worker ended by itself")
        drained = line == "drained\n"
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGKILL)
    return drained


def test_a_worker_killed_at_any_point_leaves_the_state_that_an_undisturbed_one_leaves(tmp_path: Path) -> None:
    clock = SimulatedClock(T0 + 60 * MINUTE)
    events = _history()
    with make_project(tmp_path / "calm", clock=clock) as calm:
        append(calm, events, arrived_at=T0 + 60 * MINUTE)
        worker = Worker(calm)
        while worker.step():
            pass
        expected = _state(calm)
    folder = tmp_path / "killed"
    with make_project(folder, clock=clock) as project:
        append(project, events, arrived_at=T0 + 60 * MINUTE)
    chance = random.Random(11)
    for _ in range(KILLS):
        if _kill_at_random(folder, chance):
            break
    with make_project(folder, clock=clock, apply=False) as project:
        survivor = Worker(project)
        while survivor.step():
            pass
        assert _state(project) == expected
