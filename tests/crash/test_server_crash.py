"""The server is really killed while clients post events: what it acknowledged is in the log, each event once."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.servers import Running, running
from tests.shop import T0, event, make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project

CLIENTS = 4
KILL_AFTER = 120  # acknowledged events


class Poster(threading.Thread):
    """Posts events, a few at a time, until the server is gone; keeps what was acknowledged."""

    def __init__(self, up: Running, number: int, enough: threading.Event) -> None:
        super().__init__()
        self._up, self._number, self._enough = up, number, enough
        self.acknowledged: list[str] = []
        self.sent: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._up.client.base_url, timeout=60) as client:
            for turn in range(100_000):
                numbers = [self._number * 10_000_000 + turn * 10 + i for i in range(1 + turn % 3)]
                self.sent += [f"o{number}" for number in numbers]
                body = b"\n".join(event(number, at=T0) for number in numbers)
                try:
                    answer = client.post("/v1/events/orders", content=body)
                except httpx.TransportError:
                    return
                if answer.status_code == httpx.codes.ACCEPTED:
                    self.acknowledged += [f"o{number}" for number in numbers]
                if len(self.acknowledged) >= KILL_AFTER:
                    self._enough.set()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_acknowledged_event_is_in_the_log_exactly_once(tmp_path: Path, workers: int) -> None:
    make_project(tmp_path).close()
    with running(tmp_path, {"serve": ["--workers", str(workers)]}) as up:
        enough = threading.Event()
        posters = [Poster(up, number, enough) for number in range(CLIENTS)]
        for poster in posters:
            poster.start()
        assert enough.wait(60)
        up.kill("serve")
        for poster in posters:
            poster.join()
    with Project(load_config(tmp_path, environment={})) as project:
        batch = project.log.read("orders", 0, 0, 1_000_000)
        kept = Counter(json.loads(value)["order_id"] for value in batch.column("value").to_pylist())
        offsets = batch.column("offset").to_pylist()
    acknowledged = [number for poster in posters for number in poster.acknowledged]
    assert len(acknowledged) >= KILL_AFTER
    assert {kept[number] for number in acknowledged} == {1}
    assert set(kept) <= {number for poster in posters for number in poster.sent}
    assert set(kept.values()) == {1}
    assert offsets == list(range(len(offsets)))
