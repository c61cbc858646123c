"""Events at the door: each is accepted or told back with its index, path and reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import SECOND, format_instant, instant
from trilane.errors import ContractError
from trilane.sources.hot_keys import HotKeys, partition_of
from trilane.sources.ingest import sort_events, split_body
from trilane.sources.log.sqlite import SqliteLog

NOW = instant("2026-03-02T00:00:00Z")
SOURCE = tl.EventSource(
    "orders",
    schema={"id": tl.Int64, "shop": tl.String, "at": tl.Timestamp, "amount": tl.Float64 | None},
    event_time="at",
    event_id="id",
    future="1m",
    partitions=4,
    partition_by="shop",
)


def _event(number: int, *, shop: str = "a", at: int = NOW, **more: object) -> bytes:
    return json.dumps({"id": number, "shop": shop, "at": format_instant(at), **more}).encode()


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> HotKeys:
    return HotKeys(SqliteLog(tmp_path_factory.mktemp("log")), SOURCE)


@pytest.mark.parametrize("ndjson", [True, False])
def test_a_body_is_one_object_or_lines(ndjson: bool) -> None:
    assert split_body(b' {"a": 1}\n ', ndjson=ndjson) == [b'{"a": 1}']
    assert split_body(b'{"a": 1}\n\n{"a": 2}\r\n{"a":\n', ndjson=ndjson) == [b'{"a": 1}', b'{"a": 2}\r', b'{"a":']


def test_a_body_is_an_array_whose_elements_keep_their_bytes() -> None:
    assert split_body(b'[{"a": 1.50}, 7 ,\n["x"]]', ndjson=False) == [b'{"a": 1.50}', b"7", b'["x"]']
    assert split_body(b"[]", ndjson=False) == []


def test_an_object_over_several_lines_is_one_event() -> None:
    assert split_body(b'{\n "a": 1\n}', ndjson=False) == [b'{\n "a": 1\n}']


@pytest.mark.parametrize(
    "body", [b"", b" \n ", b"{", b"[1,", b"[1]]", b"hello", b"\xff", b"[" * 100_000, b"[" + b"[" * 100_000 + b"]"]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ContractError, match=r"malformed JSON|the body is empty") as refused:
        split_body(body, ndjson=False)
    assert refused.value.facts["status"] == 400
    assert refused.value.where == "$"
    assert refused.value.remedy


def test_the_good_are_accepted_in_order_and_the_bad_told_with_path_and_reason(hot: HotKeys) -> None:
    texts = [
        _event(0),
        b'{"id": 1}',
        _event(2, amount="much"),
        b"{",
        _event(4, at=NOW + 60 * SECOND),
        _event(5, at=NOW + 61 * SECOND),
        b'{"id": 6, "shop": "a", "at": "2026-03-02T00:00:00"}',
        b'{"id": 7, "x": ' + b"[" * 100_000,
        _event(8, amount=None, unknown=1),
    ]
    found = sort_events(SOURCE, texts, hot, now=NOW)
    assert [t for values in found.accepted.values() for t in values] == [texts[0], texts[4], texts[8]]
    told = [(r.index, r.code, r.path) for r in found.rejected]
    assert told == [
        (1, "type", "$"),
        (2, "type", "$.amount"),
        (3, "json", "$"),
        (5, "future", "$.at"),
        (6, "type", "$.at"),
        (7, "json", "$"),
    ]
    assert "missing required field `shop`" in found.rejected[0].reason
    assert found.rejected[3].reason == "the event lies 61 s in the future"


def test_texts_that_are_broken_alone_do_not_pass_together(hot: HotKeys) -> None:
    # Joined by commas they are three sound events, as many as there are texts.
    one, two = _event(1, note="[").replace(b'"["', b"[1"), b"2]}"
    both = _event(2) + b"," + _event(3)
    found = sort_events(SOURCE, [one, two, both], hot, now=NOW)
    assert not found.accepted
    assert [r.index for r in found.rejected] == [0, 1, 2]


@given(st.lists(st.text(max_size=5), max_size=20))
def test_all_events_of_a_key_go_to_one_partition_in_order(hot: HotKeys, shops: list[str]) -> None:
    texts = [_event(number, shop=shop) for number, shop in enumerate(shops)]
    found = sort_events(SOURCE, texts, hot, now=NOW)
    assert not found.rejected
    for partition, values in found.accepted.items():
        assert 0 <= partition < 4
        assert values == [t for t, shop in zip(texts, shops, strict=True) if partition_of(shop, 4) == partition]


def test_one_partition_takes_everything() -> None:
    assert partition_of("anything", 1) == 0


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_no_text_is_lost_between(hot: HotKeys, texts: list[bytes]) -> None:
    found = sort_events(SOURCE, texts, hot, now=NOW)
    assert sum(map(len, found.accepted.values())) + len(found.rejected) == len(texts)
    assert [r.index for r in found.rejected] == sorted(r.index for r in found.rejected)
