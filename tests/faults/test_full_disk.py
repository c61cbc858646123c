"""A disk that is really full: writes are refused whole, reads go on, and all else by itself once there is space."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.scored import make_scored_shop, write_rows
from tests.servers import Running, running, until
from tests.shop import event, make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.scoring.scoring_job import Asking, score
from trilane.clock import WallClock
from trilane.errors import SetupError


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may mount nothing")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(path: Path) -> None:
    """Leaves no byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def _metric(up: Running, name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [one for one in up.get("/metrics").text.splitlines() if one.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))


def _count(up: Running) -> float | None:
    body = {"columns": {"shop": ["a"]}}
    found: float | None = up.post("/v1/features/shop_now.n_10m", body).json()["columns"]["shop_now.n_10m"][0]
    return found


def _events(first: int, number: int, *, shops: int = 0) -> bytes:
    now = WallClock().now()
    names = [f"s{n}" for n in range(shops)] or ["a"]
    return b"\n".join(event(first + n, shop=names[n % len(names)], at=now - 1_000_000 + n) for n in range(number))


def test_a_full_disk_stops_writes_alone_and_all_goes_on_when_there_is_space(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / ".trilane").symlink_to(small)
    make_project(folder).close()
    with running(folder, {"worker": [], "serve": []}) as up:
        until(lambda: up.post("/v1/events/orders", _events(0, 10)).status_code == 202, "the definitions")
        until(lambda: _count(up) == 10, "the lane")
        worker = up.processes["worker"].pid
        os.kill(worker, signal.SIGSTOP)  # so that there is something to apply, and no space for it
        assert up.post("/v1/events/orders", _events(20_000, 2_000, shops=500)).status_code == 202
        _fill(small / "ballast")
        refused = until(lambda: _refused(up), "a refusal") or {}
        os.kill(worker, signal.SIGCONT)
        assert "Free space on the disk" in refused["remedy"]
        assert refused["where"].endswith("orders.sqlite")
        until(lambda: "orders/0 stands" in up.said("worker"), "the worker to tell it")
        assert "the disk does not take the write" in up.said("worker")
        assert _count(up) == 10, "serving goes on"
        assert _metric(up, "trilane_store_failures_total", store="log") >= 1
        assert _metric(up, "trilane_partition_lag_events", source="orders") >= 2_000
        (small / "ballast").unlink()
        until(lambda: up.post("/v1/events/orders", _events(5_000, 7)).status_code == 202, "space to be used")
        with Project(load_config(folder, environment={})) as project:
            taken = project.log.read("orders", 0, 0, 100_000).column("value").to_pylist()
        numbers = {int(json.loads(text)["order_id"][1:]) for text in taken}
        begun = [n for n in range(1_000, 5_000, 50) if numbers & set(range(n, n + 50))]
        assert all(set(range(n, n + 50)) <= numbers for n in begun), "a request is taken whole or not at all"
        of_shop_a = sum(1 for number in numbers if number < 20_000)
        until(lambda: _count(up) == of_shop_a, "the lane to go on by itself")
        assert _metric(up, "trilane_partition_failing", source="orders") == 0


_SENT = iter(range(1_000, 5_000, 50))


def _refused(up: Running) -> dict[str, str] | None:
    """Sends events, of which the last page may still take a few."""
    answer = up.post("/v1/events/orders", _events(next(_SENT), 50))
    if answer.status_code == 202:
        return None
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    found: dict[str, str] = answer.json()["error"]
    return found


def test_a_scoring_job_stops_and_goes_on_once_there_is_space(small: Path, tmp_path: Path) -> None:
    with make_scored_shop(tmp_path / "shop") as project:
        write_rows(tmp_path / "in" / "a.parquet", 50)
        write_rows(tmp_path / "in" / "b.parquet", 50, seed=4)
        asking = Asking(endpoint="is_big", input=str(tmp_path / "in"), output=tmp_path / "whole", workers=1)
        score(project, asking)
        filler = small / "filler"
        output = small / "out"
        output.mkdir()
        _fill(filler)
        with pytest.raises(SetupError, match=r"the output cannot be written: .*No space left"):
            score(project, replace(asking, output=output))
        filler.unlink()
        assert score(project, replace(asking, output=output)).scored == 100
    scores = [path.read_bytes() for path in sorted(output.glob("*.parquet"))]
    assert scores == [path.read_bytes() for path in sorted((tmp_path / "whole").glob("*.parquet"))]
