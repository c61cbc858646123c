"""A remote store whose answers take long: who needs them waits, and nobody else in the same worker."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.proxy import Proxy, proxy
from tests.remote import valkey_server
from tests.servers import Running, running, trained, until
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps import deploy
from trilane.apps.control import Scheduler
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock, format_instant

pytest.importorskip("hiredis", reason="the package hiredis is not installed")

NOW = T0 + 36 * 60 * MINUTE
PLAIN = """

@tl.request(inputs={"basket": tl.Float64}, features={"size": tl.Float64})
def size(request):
    return {"size": request["basket"]}


plain = tl.Model("plain", features=[size], spine=asks, label="big", train=train)
tl_plain = tl.Endpoint("is_plain", model=plain, deadline="60s")
"""
ASKED: dict[str, tuple[str, object]] = {
    "decision": ("/v1/decide/is_big", {"rows": [{"shop": shop, "basket": 5.0} for shop in "ab"]}),
    "features": ("/v1/features/is_big", {"rows": [{"shop": shop, "basket": 5.0} for shop in "bca"]}),
    "one view": ("/v1/features/shop_now", {"columns": {"shop": ["c", "a"]}, "statuses": True}),
    "many rows": ("/v1/features/shop_daily", {"columns": {"shop": [*"abc"] * 1_000}, "statuses": True}),
}


def _make(folder: Path, online: str) -> None:
    with make_project(
        folder, apply=False, replay=True, clock=SimulatedClock(NOW), online=online, read_limit="30s"
    ) as project:
        definitions = (folder / "definitions.py").read_text().replace('deadline="5s"', 'deadline="60s"')
        (folder / "definitions.py").write_text(definitions + PLAIN)
        deploy.apply(project)
        instants = [start + n * MINUTE for start in (T0, NOW - 90 * MINUTE) for n in range(90)]
        orders = [event(n, shop="abc"[n % 3], at=at, amount=n / 7) for n, at in enumerate(instants)]
        append(project, orders, arrived_at=NOW)
        worker = Worker(project)
        while worker.step():
            pass
        worker.close()
        Scheduler(project).step(0.0)
    for model in ("big", "plain"):
        trained(folder, model)


@pytest.fixture
def between(tmp_path: Path) -> Iterator[Proxy]:
    with valkey_server(tmp_path / "valkey") as server, proxy(server.port) as found:
        yield found


@contextlib.contextmanager
def _serving(folder: Path, between: Proxy) -> Iterator[Running]:
    _make(folder, f"valkey://127.0.0.1:{between.port}?timeout=60s")
    with running(folder, {"serve": ["--replay"]}) as up:
        until(lambda: up.get("/health/ready").status_code == httpx.codes.OK, "both endpoints")
        up.move_clock(format_instant(NOW), wait=False)
        yield up


def _told(answer: httpx.Response) -> dict[str, Any]:
    """What was answered but for its name, which no other has."""
    found: dict[str, Any] = answer.json()
    assert answer.status_code == httpx.codes.OK, found
    for decision in found.get("decisions", []):
        decision.pop("id", None)
    return found


def _ask(up: Running, name: str, *, by: httpx.Client | None = None) -> dict[str, Any]:
    path, body = ASKED[name]
    post = httpx.post if by is None else by.post
    return _told(post(f"{up.client.base_url}{path}", json=body, timeout=60.0))


def _needs_no_store(up: Running) -> bool:
    """Whether the endpoint without stored features answers as promised."""
    [decision] = _told(up.post("/v1/decide/is_plain", {"basket": 5.0}))["decisions"]
    return bool(decision["rung"] == "fresh")


def test_while_reads_are_held_back_who_needs_none_is_answered_and_who_waits_gets_the_same_values(
    between: Proxy, tmp_path: Path
) -> None:
    with _serving(tmp_path / "shop", between) as up, ThreadPoolExecutor(8) as others:
        expected = {name: _ask(up, name) for name in ASKED}
        assert {decision["rung"] for decision in expected["decision"]["decisions"]} == {"fresh"}
        assert {name for name, one in expected.items() if one.get("why")} == set()
        for _ in range(2):  # first while the store is taken to be quick, then while it is known to be slow
            between.hold()
            waiting = {name: others.submit(_ask, up, name) for name in ASKED}
            scrape = others.submit(up.get, "/metrics")
            until(lambda: between.held >= 4, "a read of each, but those of the endpoint, which go one by one")
            for _ in range(50):
                assert _needs_no_store(up)
                assert not any(one.done() for one in waiting.values())
            between.release()
            assert {name: one.result() for name, one in waiting.items()} == expected
            assert scrape.result().status_code == httpx.codes.OK
        assert up.get("/health/ready").json()["breakers"] == []


def test_values_of_a_store_that_is_always_slow_are_those_of_a_quick_one(between: Proxy, tmp_path: Path) -> None:
    with _serving(tmp_path / "shop", between) as up, ThreadPoolExecutor(8) as others:
        expected = {name: _ask(up, name) for name in ASKED}
        for seconds in (0.02, 0.0):
            between.delay = seconds
            for _ in range(5):
                asked = [(name, others.submit(_ask, up, name)) for name in [*ASKED, *ASKED]]
                assert _needs_no_store(up)
                for name, one in asked:
                    assert one.result() == expected[name]
        assert up.get("/health/ready").json()["breakers"] == []


def test_a_server_that_ends_waits_for_the_reads_that_are_under_way(between: Proxy, tmp_path: Path) -> None:
    with (
        contextlib.ExitStack() as clients,
        _serving(tmp_path / "shop", between) as up,
        ThreadPoolExecutor(8) as others,
    ):
        # Each has its connection before the port is closed.
        own = {name: clients.enter_context(httpx.Client()) for name in ASKED}
        expected = {name: _ask(up, name, by=own[name]) for name in ASKED}
        between.hold()
        waiting = {name: others.submit(_ask, up, name, by=own[name]) for name in ASKED}
        until(lambda: between.held >= 3, "reads to be under way")
        up.processes["serve"].send_signal(signal.SIGTERM)
        until(lambda: not _listens(up), "the server to take no more")
        between.release()
        assert {name: one.result() for name, one in waiting.items()} == expected
        assert up.processes.pop("serve").wait(60) == 0


def _listens(up: Running) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", up.port), timeout=60):
        return True
    return False
