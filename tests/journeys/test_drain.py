"""Servers end and are replaced while clients ask them without a pause: every question is answered."""

from __future__ import annotations

import json
import signal
import socket
import sys
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
ASK = {"shop": "a", "basket": 10.0}


@contextmanager
def asking(up: Running) -> Iterator[Counter[str]]:
    """What clients that ask without a pause are told, by kind, for the length of a block."""
    told: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=up.client.base_url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/decide/is_big", json=ASK)
                    told[str(answer.status_code)] += 1
                    told["ready" if client.get("/health/ready").status_code == httpx.codes.OK else "not ready"] += 1
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
def test_nobody_is_dropped_or_sent_elsewhere_when_the_workers_are_replaced(tmp_path: Path, workers: int) -> None:
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
        assert set(told) == {"200", "ready"}
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
        assert set(told) == {"200", "ready", "not ready"}
        assert up.processes["serve"].wait(60) == 0


def test_who_comes_too_late_is_refused_at_once_while_others_are_still_answered(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    trained(tmp_path, "big")
    with running(tmp_path, {"serve": []}) as up:
        until(lambda: up.client.get("/health/ready").status_code == httpx.codes.OK, "readiness")
        body = json.dumps(ASK).encode()
        head = f"POST /v1/decide/is_big HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", up.port), timeout=30) as early:
            early.sendall(head + body[:1])
            assert up.client.get("/health/live").status_code == httpx.codes.OK  # by now it is begun
            up.processes["serve"].send_signal(signal.SIGTERM)
            until(lambda: _is_refused(up.port), "the port to be closed")
            assert up.processes["serve"].poll() is None
            early.sendall(body[1:])
            assert early.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert up.processes["serve"].wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only there the kernel keeps others out while a port is closed")
@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_was_let_in_by_the_port_is_answered_though_the_server_ends(tmp_path: Path, workers: int) -> None:
    make_project(tmp_path).close()
    told: Counter[str] = Counter()

    def knock(port: int) -> None:
        """Asks once on each connection, until there are none any more."""
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", port), timeout=30)
            except OSError as error:
                told[type(error).__name__] += 1
                return
            with client:
                try:
                    client.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                    told["answers" if client.recv(1 << 12).startswith(b"HTTP/1.1 200 ") else "nothing"] += 1
                except OSError as error:
                    told[f"lost: {error}"] += 1

    with running(tmp_path, {"serve": ["--workers", str(workers)]}) as up:
        clients = [threading.Thread(target=knock, args=(up.port,)) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: told["answers"] > 300, "answers")
        up.processes["serve"].send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert up.processes["serve"].wait(60) == 0
    assert set(told) == {"answers", "ConnectionRefusedError"}


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def _not_ready(up: Running) -> dict[str, Any]:
    answer = up.client.get("/health/ready")
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else {}


def test_a_reload_without_a_server_says_so(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    said = command(tmp_path, "reload", "--json")
    assert said.returncode == 6
    assert "no server of this project" in said.stdout
