"""`trilane up --nearline-workers 2`: one is killed while events come in; each counts once where it is served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers import environment, free_port, until
from tests.shop import event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import WallClock

SHOPS = [f"s{n}" for n in range(24)]
PARTITIONS = 4
WORKERS = {"worker-1", "worker-2"}


class Up:
    """A project under `trilane up`, and a client of its server."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0)
        self.sent = 0

    def is_live(self) -> bool:
        try:
            return self.client.get("/health/live").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.folder / ".trilane" / "pids.json").read_bytes())
        return found

    def partitions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/v1/status").json()["partitions"]
        return found

    def owners(self) -> set[str | None]:
        """The processes that have the partitions."""
        return {one["process"] for one in self.partitions()}

    def share(self) -> bool:
        """Whether both workers have something, and all is theirs."""
        pids = self.pids()
        return set(pids) >= WORKERS and self.owners() == {f"process {pids[name]}" for name in WORKERS}

    def send(self, each: int) -> None:
        """`each` orders of each shop, in one request."""
        now, lines = WallClock().now(), []
        for _ in range(each):
            for shop in SHOPS:
                lines.append(event(self.sent, shop=shop, at=now - 1, amount=0.1))
                self.sent += 1
        assert self.client.post("/v1/events/orders", content=b"\n".join(lines)).status_code == 202

    def counts(self) -> list[float]:
        answer = self.client.post("/v1/features/shop_now.n_3h", json={"columns": {"shop": SHOPS}})
        assert answer.status_code == 200, answer.text
        found: list[float] = answer.json()["columns"]["shop_now.n_3h"]
        return found

    def all_counted(self) -> bool:
        """Whether all is applied; then each event counts once."""
        if any(one["lag"] != 0 for one in self.partitions()):
            return False
        counts = self.counts()
        assert max(counts) <= self.sent / len(SHOPS), "none counts twice"
        return counts == [self.sent / len(SHOPS)] * len(SHOPS)


@contextmanager
def _up(folder: Path) -> Iterator[tuple[Up, subprocess.Popen[bytes]]]:
    port = free_port()
    line = [sys.executable, "-m", "trilane", "up", "--nearline-workers", "2", "--json", "--project", str(folder)]
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [*line, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=log, env=environment()
        )
    up = Up(folder, port)
    try:
        until(up.is_live, "the server")
        yield up, process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)
        up.client.close()


def _make(folder: Path) -> None:
    make_project(folder, apply=False).close()
    path, wide = folder / "definitions.py", f'event_id="order_id", partitions={PARTITIONS}'
    text = path.read_text().replace('event_id="order_id"', wide)
    # A window that nothing leaves while the test runs.
    path.write_text(text.replace('"n_10m": tl.count(window="10m")', '"n_3h": tl.count(window="3h")'))
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)


def test_of_two_workers_one_is_killed_and_each_event_counts_once_in_what_is_served(tmp_path: Path) -> None:
    _make(tmp_path)
    with _up(tmp_path) as (up, supervisor):
        until(up.share, "two workers to share")
        first, second = (up.pids()[name] for name in sorted(WORKERS))
        up.send(20)
        # Nobody brings the first back while the supervisor stands still: so the second has to take all.
        supervisor.send_signal(signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        up.send(20)
        until(lambda: up.owners() == {f"process {second}"}, "the other to take over")
        up.send(20)
        until(up.all_counted, "all to be counted by the one that is left")
        supervisor.send_signal(signal.SIGCONT)
        until(lambda: up.pids().get("worker-1") not in (None, first), "the supervisor to bring it back")
        until(up.share, "two workers to share again")
        # And now the other, while events come.
        for number in range(10):
            up.send(10)
            if number == 3:
                os.kill(second, signal.SIGKILL)
        until(up.all_counted, "all to be counted")
        until(lambda: up.pids().get("worker-2") not in (None, second), "the supervisor to bring it back")
        until(up.share, "two workers to share again")
        assert up.all_counted()
