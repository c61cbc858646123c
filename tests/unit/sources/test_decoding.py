"""Values become a table and rejections exactly as the contract judges each of them alone."""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Rejection
from trilane.sources import decoding
from trilane.sources.decoding import Decoded, decoder_of
from trilane.sources.event import EventSource
from trilane.sources.instants import parse_instants

SOURCE = EventSource(
    "facts",
    schema={
        "id": tl.String,
        "at": tl.Timestamp,
        "seen": tl.Timestamp | None,
        "x": tl.Float64 | None,
        "n": Annotated[tl.Int64, msgspec.Meta(ge=0)] | None,
        "b": tl.Bool | None,
    },
    event_time="at",
    event_id="id",
)


def _one_by_one(values: list[bytes]) -> tuple[pa.Table, list[int], list[Rejection]]:
    payloads, indexes, rejections = SOURCE.contract.decode_many(values)
    return SOURCE.as_table(payloads), indexes, rejections


def _agrees(values: list[bytes]) -> None:
    _equal(decoder_of(SOURCE).decode(pa.array(values, pa.binary())), values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_FEW", 0)  # so that few are read as many would be
        decoder = decoder_of(SOURCE)
        for _ in range(2):  # with nothing learnt of their shapes, and with something
            _equal(decoder.decode(pa.array(values, pa.binary())), values)


def _equal(found: Decoded, values: list[bytes]) -> None:
    table, indexes, rejections = _one_by_one(values)
    assert found.table.schema.equals(table.schema)
    assert found.table.to_pylist() == table.to_pylist()
    assert repr(found.table.column("x").to_pylist()) == repr(table.column("x").to_pylist())  # tells 0.0 from -0.0
    assert (found.indexes.tolist(), found.rejections) == (indexes, rejections)


SPELLINGS = st.sampled_from(
    [
        "2026-03-02T00:00:00Z",
        "2026-03-02T00:00:00.5Z",
        "2026-03-02T00:00:00.123456Z",
        "2026-03-02T00:00:00.1234567Z",
        "2026-03-02T00:00:00+00:00",
        "2026-03-02T00:00:00.000001+00:00",
        "2026-03-02T00:00:00-00:00",
        "2026-03-02T01:00:00+01:00",
        "2026-03-02 00:00:00Z",
        "2026-03-02t00:00:00z",
        "2026-03-02T00:00Z",
        "2026-03-02T00:00:00",
        "2026-03-02",
        "2026-02-30T00:00:00Z",
        "2026-03-02T24:00:00Z",
        "2026-03-02T23:59:60Z",
        "0000-03-02T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "2026-03-02T00:00:00.Z",
        "\uff12026-03-02T00:00:00Z",
        "",
    ]
)
MOMENTS = st.datetimes(timezones=st.just(dt.UTC)).map(lambda moment: moment.isoformat()) | SPELLINGS
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ANY = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner))
FACTS = st.fixed_dictionaries(
    {"id": st.text(max_size=3), "at": MOMENTS},
    optional={
        "seen": st.none() | MOMENTS,
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70),
        "n": st.none() | st.integers(0, 2**63 - 1),
        "b": st.none() | st.booleans(),
        "other": ANY,
    },
)
WILD = st.dictionaries(st.sampled_from(["id", "at", "seen", "x", "n", "b"]), MOMENTS | PLAIN)
TEXTS = st.one_of(
    FACTS.map(lambda fact: json.dumps(fact).encode()),
    FACTS.map(lambda fact: json.dumps(fact, ensure_ascii=False).encode(errors="surrogatepass")),
    WILD.map(lambda fact: json.dumps(fact).encode()),
    st.binary(max_size=12),
)


@given(st.lists(TEXTS, max_size=8))
def test_a_batch_of_any_values_is_decoded_as_each_of_them_alone(values: list[bytes]) -> None:
    _agrees(values)


SPELLED = f"""
-0 0 -0.0 0.0 00 01 -01 1. .5 - -.5 --1 1.2.3 1e5 1E-3 +1 0x1 1:2 1/2 1; Infinity NaN "1" [1] {{}}
nul null true false nullnull truefalse 12345678 123456789 -12345678 1234567. 99999999.99999999
{"9" * 18} {"9" * 19} {"1" * 24} {"1" * 25} 0.{"1" * 22} -0.{"1" * 22} 9223372036854775807 -9223372036854775808
"""
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False).map(str),
    st.decimals(-(10**9), 10**9, places=3).map(str),
    st.sampled_from(SPELLED.split()),
)


GOOD = {"id": '"a"', "x": "1.5", "n": "7", "at": '"2026-03-02T00:00:00Z"', "other": "0", "b": "true"}
ODD = st.one_of(
    st.tuples(st.sampled_from(["x", "n", "other", "b"]), NUMBERS),
    st.tuples(st.just("at"), MOMENTS.map(json.dumps)),
    st.tuples(st.just("id"), st.builds(json.dumps, st.text(max_size=9), ensure_ascii=st.booleans())),
)


@given(st.lists(ODD, min_size=1, max_size=30), st.sampled_from([", ", ",", "  ,   "]), st.sampled_from(["", " "]))
def test_values_of_one_shape_are_decoded_as_each_of_them_alone(
    odd: list[tuple[str, str]], comma: str, space: str
) -> None:
    facts = [GOOD, *(GOOD | {name: text} for name, text in odd)]
    texts = ["{" + comma.join(f'"{name}":{space}{text}' for name, text in fact.items()) + "}" for fact in facts]
    _agrees([text.encode(errors="surrogatepass") for text in texts])


def test_every_odd_spelling_of_a_number_is_decoded_as_alone() -> None:
    for name in ("x", "n", "other", "b"):
        for text in SPELLED.split():
            facts = [GOOD, GOOD | {name: text}, GOOD]
            _agrees([b"{" + ",".join(f'"{n}":{t}' for n, t in fact.items()).encode() + b"}" for fact in facts])


@given(st.lists(st.binary(max_size=3).map(lambda raw: b'{"id": "' + raw + b'", "at": "2026-03-02T00:00:00Z"}')))
def test_bytes_of_any_kind_within_a_text_are_decoded_as_each_of_them_alone(values: list[bytes]) -> None:
    _agrees(values)


def test_many_values_of_a_few_shapes_keep_their_order_and_lose_none() -> None:
    values = [
        json.dumps(
            {"id": f"o{i}", "at": f"2026-03-02T00:00:{i % 60:02d}Z"}
            | ({"seen": None} if i % 3 else {"x": i / 8})
            | ({"n": -i} if i % 500 == 499 else {})
            | ({"id": 'a "quoted" one'} if i % 700 == 1 else {})
        ).encode()
        for i in range(20_000)
    ]
    _agrees(values)


@given(st.lists(MOMENTS, min_size=1, max_size=6))
def test_instants_parsed_together_are_those_parsed_alone(spellings: list[str]) -> None:
    _agrees([json.dumps({"id": "a", "at": spelling, "seen": spelling}).encode() for spelling in spellings])


def test_a_fault_costs_its_portion_alone_and_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_PORTION", 4)
    good = b'{"id": "a", "at": "2026-03-02T00:00:00Z"}'
    values = [good] * 11
    values[6] = b'{"id": 7}'
    _agrees(values)
    found = decoder_of(SOURCE).decode(pa.array(values, pa.binary()))
    assert [rejection.index for rejection in found.rejections] == [6]
    assert found.indexes.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]


def test_a_slice_of_instants_is_parsed_as_itself() -> None:
    texts = pa.array(["no", "2026-03-02T00:00:00Z", None, "2026-03-02T00:00:01.5Z"]).slice(1)
    found = parse_instants(texts)
    assert found is not None
    assert found.cast(pa.int64()).to_pylist() == [1_772_409_600_000_000, None, 1_772_409_601_500_000]


def test_no_values_give_an_empty_table() -> None:
    found = decoder_of(SOURCE).decode(pa.array([], pa.binary()))
    assert (found.table.num_rows, len(found.indexes), found.rejections) == (0, 0, [])
    assert found.table.schema.names == [field.name for field in SOURCE.fields]
