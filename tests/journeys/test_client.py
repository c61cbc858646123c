"""The Python clients against a real server, worker and control: three ways to ask, and one answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

import trilane as tl
from tests.servers import Running, command, running, trained, until
from tests.shop import MINUTE, T0, event, make_project
from trilane.clock import SECOND, format_instant

ASKS = [{"shop": shop, "basket": basket} for shop, basket in (("a", 60.0), ("z", 1.0), ("a", 7.25))]
REPLAY = {"worker": ["--replay"], "control": ["--replay"], "serve": ["--replay"]}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shop")
    make_project(folder, replay=True).close()
    (folder / "trilane.toml").write_text("replay = true\nfeature_rows = 1000\n")
    trained(folder, "big")
    with running(folder, REPLAY) as found:
        found.move_clock(format_instant(T0))
        yield found


@pytest.fixture(scope="module")
def client(up: Running) -> Iterator[tl.Client]:
    with tl.Client(f"http://127.0.0.1:{up.port}", timeout=60.0) as found:
        yield found


def _same(one: Any, other: Any) -> None:
    assert one.names == other.names
    assert one.values.tobytes() == other.values.tobytes()
    assert (one.statuses == other.statuses).all()
    assert (one.ages == other.ages).all()
    assert one.why == other.why


def test_events_are_sent_and_read_as_features_and_decisions_by_any_client(up: Running, client: tl.Client) -> None:
    up.move_clock(format_instant(T0 + MINUTE))
    sent = client.send("orders", [event(n, at=T0 + n, amount=2.0 * n) for n in range(5)])
    assert (sent.accepted, sent.rejected) == (5, ())
    again = client.send("orders", [event(n, at=T0 + n, amount=2.0 * n) for n in range(5)])
    assert again.accepted == 5  # the door lets them in; the lane counts each once
    up.move_clock(format_instant(T0 + MINUTE + 1))

    found = client.features("is_big", ASKS)
    assert found["shop_now.n_10m"].tolist() == [5, 0, 5]
    assert found["basket.basket"].tolist() == [60.0, 1.0, 7.25]
    table = pa.table({"shop": ["a", "z", "a"], "basket": [60.0, 1.0, 7.25]})
    shops, baskets = ["a", "z", "a"], [60.0, 1.0, 7.25]
    several: list[Any] = [table, {"shop": shops, "basket": np.array(baskets)}, {"shop": shops, "basket": baskets}]
    for rows in (*several, table.to_pandas()):
        _same(client.features("is_big", rows), found)
    assert found.to_arrow().column("shop_now.n_10m").to_pylist() == [5, 0, 5]

    decisions = client.decide("is_big", ASKS)
    assert len({one.id for one in decisions}) == 3
    by_table = client.decide("is_big", table)
    assert [one.score for one in by_table] == [one.score for one in decisions]
    assert all(one.positive is (one.score >= 0.5) for one in decisions)

    def explained() -> dict[str, object] | None:
        try:
            return client.explain(decisions[0].id)
        except tl.ContractError:
            return None  # it is not written yet

    record = until(explained, "the record")
    assert record is not None
    assert record["identical"] is True
    assert client.ready()


def test_the_client_in_process_answers_as_the_server_does(up: Running, client: tl.Client) -> None:
    with tl.open(up.folder) as local:
        assert local.ready()
        for name, rows in (("is_big", ASKS), ("shop_now.n_10m,shop_daily", {"shop": ["a", "b"]})):
            _same(local.features(name, rows), client.features(name, rows))
        decisions = local.decide("is_big", ASKS)
        assert [one.score for one in decisions] == [one.score for one in client.decide("is_big", ASKS)]
        assert decisions[0].bundle == client.decide("is_big", ASKS[0])[0].bundle
        before = client.features("shop_now", {"shop": "a"})["shop_now.n_10m"][0]
        now = local.project.clock.now()
        sent = local.send("orders", [event(50, at=now), b'{"order_id":7}', event(51, at=now)])
        assert (sent.accepted, [one.index for one in sent.rejected]) == (2, [1])
        up.move_clock(format_instant(now + SECOND))
        for one in (local, client):
            assert one.features("shop_now", {"shop": "a"})["shop_now.n_10m"][0] == before + 2
        identical = until(lambda: _explained(local, decisions[0].id), "the record")
        assert identical["identical"] is True


def _explained(local: Any, id: str) -> dict[str, Any]:
    try:
        return dict(local.explain(id))
    except tl.ContractError:
        return {}


def test_a_value_is_explained_while_everything_runs(up: Running, client: tl.Client) -> None:
    served = client.features("shop_now", {"shop": "a"})["shop_now.n_10m"][0]
    told = command(up.folder, "explain", "shop_now.n_10m", "a", "--json")
    assert told.returncode == 0, told.stderr
    facts = json.loads(told.stdout)
    assert facts["served"]["value"] == facts["recomputed"]["value"] == served
    assert facts["recomputed"]["identical"] is True
    assert sum(tile["value"] for tile in facts["tiles"]) == served
    assert "identical: yes" in command(up.folder, "explain", "shop_now.n_10m", "a").stdout


def test_errors_are_the_same_over_http_and_in_process(up: Running, client: tl.Client) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("features", ("nosuch", {"shop": "a"})),
        ("features", ("shop_now.nosuch", {"shop": "a"})),
        ("features", ("shop_now", [{"shop": "a"}, {"shop": 7}])),
        ("features", ("shop_now", {"shop": ["a"], "shopp": ["b"]})),
        ("features", ("shop_now", pa.table({"shop": [1]}))),
        ("features", ("shop_now", [])),
        ("decide", ("is_big", [{"shop": "a"}])),
        ("decide", ("nosuch", [{"shop": "a"}])),
        ("send", ("nosuch", [{}])),
        ("explain", ("0-0",)),
        ("explain", ("nonsense",)),
    ]
    with tl.open(up.folder) as local:
        for method, words in calls:
            with pytest.raises(tl.TrilaneError) as remote:
                getattr(client, method)(*words)
            with pytest.raises(tl.TrilaneError) as here:
                getattr(local, method)(*words)
            assert type(remote.value) is type(here.value), (method, words)
            if words[0] != "nosuch":  # the server names views and endpoints at once
                assert (remote.value.what, remote.value.where) == (here.value.what, here.value.where)
            assert remote.value.facts["status"] in (400, 404, 413, 422)


def test_thousands_of_rows_are_read_as_one(client: tl.Client, up: Running) -> None:
    shops = ["a", "z", "b"] * 4_000  # more than the server takes at once, and than the client believes it takes
    found = client.features("shop_now", {"shop": shops})
    assert len(found) == 12_000
    few = client.features("shop_now", {"shop": shops[:3]})
    assert found.values.tobytes() == np.tile(few.values, (4_000, 1)).tobytes()
    assert len(client.decide("is_big", [ASKS[0]] * 4_500)) == 4_500

    async def ask() -> Any:
        async with tl.AsyncClient(client.url, timeout=60.0, connections=2) as asked:
            return await asyncio.gather(*(asked.features("shop_now", {"shop": shops}) for _ in range(2)))

    for one in asyncio.run(ask()):
        assert one.values.tobytes() == found.values.tobytes()


def test_the_time_that_a_caller_has_is_told_in_whole_milliseconds(up: Running) -> None:
    def ask(header: str) -> httpx.Response:
        return up.client.post("/v1/decide/is_big", json=ASKS[0], headers={"x-request-timeout-ms": header})

    assert ask("60000").json()["decisions"][0]["why"] == []
    for wrong in ("0", "-1", "1.5", "soon"):
        assert ask(wrong).status_code == 400
        assert ask(wrong).json()["error"]["where"] == "x-request-timeout-ms"


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tl.SetupError, match="no trilane"):
        tl.open(tmp_path)
