"""The worker is really killed while it builds a redefined view beside the live one, which answers throughout."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.servers import Running, command, environment, running, until
from tests.shop import MINUTE, append, event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.filling import Filling, fillings
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import WallClock

SHOPS = ("a", "b", "c")
KILLS = 2
OLD, NEW = '"sum_1h": tl.sum("amount", window="1h")', '"sum_3h": tl.sum("amount", window="3h")'

# The real worker on the real clock; small batches, so that a build has a middle.
WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
from trilane.apps.config import load_config
from trilane.apps.processes import stop_flag
from trilane.apps.project import Project
from trilane.apps.worker import Worker

with stop_flag() as stop, Project(load_config(Path(sys.argv[1]), environment={})) as project:
    worker = Worker(project)
    worker._tools = replace(worker._tools, limit=100)
    worker.work(stop)
"""


def _orders(now: int) -> tuple[list[bytes], dict[str, list[float]], dict[str, list[float]]]:
    """Events in order of time; the amounts by shop that the last hour sees, and those that three hours see."""
    chance = random.Random(5)
    # For as long as the test may take, the first stay out of every hour and the others in each.
    times = sorted(chance.randint(100 * MINUTE, 130 * MINUTE) for _ in range(2_000))[::-1]
    times += sorted(chance.randint(MINUTE, 30 * MINUTE) for _ in range(2_000))[::-1]
    events, hour, all_ = [], {shop: list[float]() for shop in SHOPS}, {shop: list[float]() for shop in SHOPS}
    for number, ago in enumerate(times):
        shop, amount = chance.choice(SHOPS), chance.uniform(0, 1e6)
        events.append(event(number, shop=shop, at=now - ago, amount=amount))
        all_[shop].append(amount)
        if ago <= 30 * MINUTE:
            hour[shop].append(amount)
    return events, hour, all_


def _sums(up: Running, name: str) -> list[float] | None:
    """The served sums, by shop; None while the name is not known."""
    answer = up.post(f"/v1/features/{name}", {"columns": {"shop": list(SHOPS)}})
    columns = answer.json().get("columns", {}) if answer.status_code == 200 else {}
    found: list[float] | None = columns.get(name)
    return found


def _exact(amounts: Mapping[str, list[float]]) -> list[float]:
    """What exact sums come to once they are rounded to a float."""
    return [math.fsum(amounts[shop]) for shop in SHOPS]


def _filling(project: Project) -> Filling:
    [found] = fillings(project, [project.definitions.views["shop_now"]])
    return found


def _start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], stderr=log, env=environment())


def _calm(folder: Path, events: list[bytes], now: int) -> dict[bytes, bytes]:
    """The rows that one undisturbed worker leaves of the new definitions."""
    with make_project(folder, apply=False) as project:
        path = folder / "definitions.py"
        path.write_text(path.read_text().replace(OLD, NEW))
        deploy.apply(project)
        append(project, events, arrived_at=now)
        worker = Worker(project)
        while worker.step():
            pass
        rows = dict(project.online.scan(project.definitions.views["shop_now"].space))
        worker.close()
        return rows


def test_a_worker_killed_while_it_builds_a_redefined_view_leaves_the_live_one_and_goes_on(tmp_path: Path) -> None:
    now = WallClock().now()
    events, hour, three = _orders(now)
    folder = tmp_path / "shop"
    with make_project(folder) as project:
        append(project, events, arrived_at=now)
    with running(folder, {"worker": [], "serve": []}) as up:
        until(lambda: _sums(up, "shop_now.sum_1h") == _exact(hour), "the live view")
        assert up.stop("worker") == 0
        path = folder / "definitions.py"
        path.write_text(path.read_text().replace(OLD, NEW))
        assert command(folder, "apply", "--hold").returncode == 0
        done = 0
        with Project(load_config(folder, environment={})) as project:
            for _ in range(KILLS):
                worker = _start(folder)
                try:
                    until(partial(_further, project, done), "the build to go on")
                finally:
                    worker.kill()
                assert worker.wait() == -signal.SIGKILL
                found = _filling(project)
                assert done < found.done < found.whole == len(events), "it was killed in the middle, and goes on"
                done = found.done
                assert _sums(up, "shop_now.sum_1h") == _exact(hour), "the live view answers"
                assert _sums(up, "shop_now.sum_3h") is None
            refused = command(folder, "swap", "--json")
            assert "filled" in json.loads(refused.stdout)["error"]["what"]
            up.start("worker")
            until(lambda: _filling(project).filled, "the successor to fill it")
            assert _sums(up, "shop_now.sum_1h") == _exact(hour)
            rows = dict(project.online.scan(project.definitions.views["shop_now"].space))
        swapped = command(folder, "swap", "--within", "0", "--json")
        assert swapped.returncode == 0, swapped.stdout + swapped.stderr
        until(lambda: _sums(up, "shop_now.sum_3h"), "the swap to be followed")
        assert _sums(up, "shop_now.sum_3h") == _exact(three)
    assert rows == _calm(tmp_path / "calm", events, now), "as if nobody had been killed, byte for byte"


def _further(project: Project, done: int) -> bool:
    return _filling(project).done >= done + 500
