"""A broker that answers slowly: the lane lags and says so, the server answers by the cascade, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.proxy import proxy
from tests.remote import free_port, kafka_server
from tests.servers import Running, command, running, until
from tests.shop import event, make_project
from trilane.clock import WallClock

pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

EVENTS = 30
SLOW = 4.0  # seconds by which each answer of the broker is late: more than the view's freshness


def _make(folder: Path, log: str) -> None:
    make_project(folder, apply=False, log=log).close()
    path = folder / "definitions.py"
    text = path.read_text().replace('freshness="60s"', 'freshness="3s"').replace('max_age="10m"', 'max_age="1h"')
    # A window that nothing leaves while the test runs.
    path.write_text(text.replace('"n_10m": tl.count(window="10m")', '"n_3h": tl.count(window="3h")'))
    done = command(folder, "apply")
    assert done.returncode == 0, done.stderr


def _told(up: Running) -> tuple[str, float]:
    """The status and the value of a count."""
    name = "shop_now.n_3h"
    answer = up.post("/v1/features/shop_now", {"columns": {"shop": ["a"]}, "statuses": True}).json()
    return next(iter(answer["statuses"].get(name, ["fresh"]))), answer["columns"][name][0]


def _send(up: Running, first: int, number: int = EVENTS) -> None:
    """Events, one a request: this broker tells the end of its log by the first of what came together."""
    for each in range(first, first + number):
        one = event(each, shop="a", at=WallClock().now() - 1_000_000, amount=2.0)
        assert up.post("/v1/events/orders", one).status_code == 202


def _metric(text: str, name: str) -> float:
    [line] = [one for one in text.splitlines() if one.startswith(f"{name}{{") and 'source="orders"' in one]
    return float(line.rpartition(" ")[2])


def test_a_slow_broker_makes_the_lane_lag_and_holds_up_no_answer_and_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    with proxy(port) as between, kafka_server(tmp_path / "broker", port=port, advertised=between.port):
        folder = tmp_path / "shop"
        _make(folder, f"kafka://127.0.0.1:{between.port}?timeout=60")
        with running(folder, {"worker": [], "serve": []}) as up, ThreadPoolExecutor(4) as others:
            _send(up, 0)
            until(lambda: _told(up) == ("fresh", EVENTS), "the lane")
            until(lambda: up.status()["partitions"][0]["lag"] == 0, "the lag to be told")
            between.delay = SLOW
            until(lambda: _told(up) == ("stale", EVENTS), "the lane to lag, and the cascade to step in")
            # Who asks the broker waits for it, and nobody else with them.
            waiting = [others.submit(_get, up, path) for path in ("/v1/status", "/metrics")]
            taken = others.submit(_send, up, 500, 1)
            answered = 0
            while not all(one.done() for one in waiting):
                assert _told(up)[0] == "stale"
                answered += 1
            assert answered > 5, "the server went on answering"
            ready = up.get("/health/ready").json()
            assert "did not answer within 1 s" in ready["waiting_for"][0]
            status, metrics = (one.result() for one in waiting)
            assert status.json()["partitions"][0]["age_s"] > 3
            assert _metric(metrics.text, "trilane_lane_age_seconds") > 3
            taken.result()
            between.delay = 0.0
            _send(up, 1_000)
            until(lambda: _told(up) == ("fresh", 2 * EVENTS + 1), "the lane to catch up")
            until(lambda: up.status()["partitions"][0]["lag"] == 0, "the lag to be told")
            assert _told(up)[1] == 2 * EVENTS + 1
            assert "stands" not in up.said("worker"), "slow is not broken"


def _get(up: Running, path: str) -> httpx.Response:
    return httpx.get(f"{up.client.base_url}{path}", timeout=60.0)
