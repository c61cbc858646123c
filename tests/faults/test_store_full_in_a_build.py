"""The online store gets full in the middle of a build: what answers stays, and all goes on once there is room."""

from __future__ import annotations

import math
import signal
from functools import partial
from pathlib import Path

from tests.crash.test_build_crash import NEW, OLD, _exact, _filling, _further, _orders, _start, _sums
from tests.faults.test_full_disk import _fill, _metric, small
from tests.servers import command, running, until
from tests.shop import append, event, make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import WallClock

__all__ = ["small"]


def test_a_store_that_gets_full_in_the_middle_of_a_build_leaves_the_live_view_and_goes_on(
    small: Path, tmp_path: Path
) -> None:
    now = WallClock().now()
    events, hour, three = _orders(now)
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / ".trilane").mkdir()
    (folder / ".trilane" / "online").symlink_to(small)
    with make_project(folder) as project:
        append(project, events, arrived_at=now)
    with running(folder, {"worker": [], "serve": []}) as up:
        until(lambda: _sums(up, "shop_now.sum_1h") == _exact(hour), "the live view")
        assert up.stop("worker") == 0
        path = folder / "definitions.py"
        path.write_text(path.read_text().replace(OLD, NEW))
        assert command(folder, "apply", "--hold").returncode == 0
        worker = _start(folder)
        try:
            with Project(load_config(folder, environment={})) as project:
                until(partial(_further, project, 0), "the build to begin")
                worker.send_signal(signal.SIGSTOP)
                _fill(small / "ballast")
                # So that the live lane has something to apply too.
                late = [event(100_000 + n, shop="a", at=WallClock().now() - 1, amount=0.5) for n in range(500)]
                assert up.post("/v1/events/orders", b"\n".join(late)).status_code == 202
                worker.send_signal(signal.SIGCONT)
                until(lambda: "orders/0 stands" in up.said("worker"), "the worker to tell it")
                assert "the disk does not take the write" in up.said("worker")
                assert not _filling(project).filled
                assert str(project.config.root / ".trilane" / "online") in up.said("worker")
                found, (a, *others) = _sums(up, "shop_now.sum_1h") or [], _exact(hour)
                assert found[1:] == others, "the live view answers"
                assert found[0] in [a, *(math.fsum([*hour["a"], *[0.5] * n]) for n in range(1, 501))], "whole batches"
                assert _metric(up, "trilane_lane_age_seconds", source="orders") > 0
                (small / "ballast").unlink()
                hour["a"] += [0.5] * 500
                three["a"] += [0.5] * 500
                until(lambda: _filling(project).filled, "the build to go on by itself")
                until(lambda: _sums(up, "shop_now.sum_1h") == _exact(hour), "the live lane to go on by itself")
                assert _metric(up, "trilane_partition_failing", source="orders") == 0
            swapped = command(folder, "swap", "--within", "0", "--json")
            assert swapped.returncode == 0, swapped.stdout + swapped.stderr
            until(lambda: _sums(up, "shop_now.sum_3h") == _exact(three), "the exact values of the new version")
        finally:
            worker.kill()
            worker.wait()
