"""Servers end and are replaced while clients ask them without a pause: every question is answered."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import Running, command, running, trained, until
from tests.shop import make_project

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("journeys")]
CLIENTS = 4


@contextmanager
def asking(up: Running) -> Iterator[Counter[str]]:
    """What clients that ask without a pause are told, by kind, for the length of a block."""
    told: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=up.client.base_url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/decide/is_big", json={"shop": "a", "basket": 10.0})
                    told[str(answer.status_code)] += 1
                except httpx.TransportError as error:
                    told[type(error).__name__] += 1
                    return

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: sum(told.values()) > 100, "answers")
        yield told
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_is_dropped_when_the_workers_are_replaced(tmp_path: Path, workers: int) -> None:
    make_project(tmp_path).close()
    trained(tmp_path, "big")
    with running(tmp_path, {"serve": ["--workers", str(workers)]}) as up:
        with asking(up) as told:
            for turn in (2, 3):
                said = command(tmp_path, "reload", "--port", str(up.port), "--json")
                assert said.returncode == 0, said.stderr
                assert f'"round":{turn}' in said.stdout.replace(" ", "")
            before = sum(told.values())
            until(lambda: sum(told.values()) > before + 100, "answers of the new workers")
        assert set(told) == {"200"}
        assert up.processes["serve"].poll() is None


def test_a_server_that_is_told_to_stop_says_that_it_is_not_ready_and_answers_meanwhile(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    trained(tmp_path, "big")
    with (tmp_path / "trilane.toml").open("a") as file:
        file.write('\ndrain = "2s"\n')
    with running(tmp_path, {"serve": []}) as up:
        until(lambda: up.client.get("/health/ready").status_code == httpx.codes.OK, "readiness")
        with asking(up) as told:
            up.processes["serve"].send_signal(signal.SIGTERM)
            ready = until(lambda: _not_ready(up), "readiness to be taken back")
            assert ready["ready"] is False
            assert "about to end" in ready["reason"]
            before = told["200"]
            until(lambda: told["200"] > before + 50, "answers in spite of it")
        assert set(told) == {"200"}
        assert up.processes["serve"].wait(60) == 0


def _not_ready(up: Running) -> dict[str, Any]:
    answer = up.client.get("/health/ready")
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else {}


def test_a_reload_without_a_server_says_so(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    said = command(tmp_path, "reload", "--json")
    assert said.returncode == 6
    assert "no server of this project" in said.stdout
