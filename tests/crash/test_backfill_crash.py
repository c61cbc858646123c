"""`trilane backfill` is really killed, within a load and between two: it goes on where it was, and ends alike."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.servers import command, environment, until
from tests.shop import append, event, make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import WallClock, format_instant
from trilane.stores.online.versions import Version, versions

DAY = 24 * 3_600 * 1_000_000
SHOPS = 30_000  # so that a load takes several transactions


def _make(folder: Path, today: int) -> None:
    """Three days of orders, of many shops."""
    with make_project(folder) as project:
        for day in range(3, 0, -1):
            began = today - day * DAY
            orders = [event(day * SHOPS + n, shop=f"s{n}", at=began + n, amount=n / 7) for n in range(SHOPS)]
            append(project, orders, arrived_at=began + SHOPS)


def _words(today: int) -> list[str]:
    span = ["--since", format_instant(today - 2 * DAY), "--until", format_instant(today + DAY)]
    return ["backfill", "shop_daily", *span, "--json"]


def _listed(project: Project) -> tuple[Version, ...]:
    return versions(project.online, project.definitions.views["shop_daily"].space)


def _state(folder: Path) -> list[tuple[int, tuple[int, ...], bool, dict[bytes, bytes]]]:
    """What landed: each version with its rows."""
    with Project(load_config(folder, environment={})) as project:
        return [(v.boundary, v.ends, v.final, dict(project.online.scan(v.space))) for v in _listed(project)]


def _is_loading(project: Project) -> bool:
    """Whether rows of the first version are there that nobody reads yet, or it has landed meanwhile."""
    name = project.definitions.views["shop_daily"].space
    [[noted]] = project.online.read([("batch/landings", [name.encode()])])
    if noted is None or _listed(project):
        return noted is not None
    [space] = msgspec.msgpack.decode(noted)["unlisted"]
    return next(project.online.scan(space), None) is not None


def test_a_backfill_killed_in_its_middle_goes_on_where_it_was_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    today = WallClock().now() // DAY * DAY
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        _make(folder, today)
    whole = command(calm, *_words(today))
    assert whole.returncode == 0, whole.stderr
    expected = _state(calm)
    assert [len(rows) for *_, rows in expected] == [SHOPS] * 3

    line = [sys.executable, "-m", "trilane", *_words(today), "--project", str(killed)]
    with Project(load_config(killed, environment={})) as project:
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment()) as first:
            until(lambda: _is_loading(project), "the first load to begin")
            first.send_signal(signal.SIGKILL)
        assert first.returncode == -signal.SIGKILL
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment()) as second:
            assert second.stdout is not None
            landed = json.loads(second.stdout.readline())
            second.send_signal(signal.SIGKILL)
        assert second.returncode == -signal.SIGKILL
        before = _listed(project)
        assert 1 <= len(before) < 3, landed
    done = command(killed, *_words(today))
    assert done.returncode == 0, done.stderr
    told = [json.loads(text) for text in done.stdout.splitlines()]
    left = [format_instant(today + n * DAY) for n in range(-2, 1)][len(before) :]
    assert [(one["boundary"], one["done"], one["whole"]) for one in told] == [
        (boundary, number, len(left)) for number, boundary in enumerate(left, start=1)
    ]
    with Project(load_config(killed, environment={})) as project:
        assert _listed(project)[: len(before)] == before, "what had landed was not computed again"
        runs = project.metadata.runs(kind="materialize")
        assert [dict(run.error or {}).get("code") for run in runs].count("abandoned") >= 1
    assert _state(killed) == expected
