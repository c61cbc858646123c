"""Request bodies of every form: what is refused and where the fault lies."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Contract
from trilane.errors import ContractError
from trilane.serving.protocol.rows import RowFormat
from trilane.serving.reading import Asked
from trilane.types import fields_of

CONTRACT = Contract(
    "late",
    fields_of(
        {
            "tailnum": tl.String,
            "distance": tl.Float64,
            "hour": tl.Int64 | None,
            "at": tl.Timestamp | None,
            "big": tl.Bool | None,
        }
    ),
)
ROWS = RowFormat(CONTRACT, max_rows=5)
LONG = b" " * 65_536  # before a body has it read in another way
ROW = {"tailnum": "N1", "distance": 2.5}


def _many(*rows: object) -> bytes:
    return json.dumps({"rows": rows}).encode()


TABLES = RowFormat(CONTRACT, max_rows=5, over=413, columns=True)


@pytest.mark.parametrize(
    ("before", "path", "said"),
    [(b"", "$.rows[0].distance", "out of range"), (LONG, "$", "infinity when parsed as double: line 1 column 655")],
    ids=["short", "long"],
)
def test_a_number_beyond_all_doubles_is_refused(before: bytes, path: str, said: str) -> None:
    with pytest.raises(ContractError) as refused:
        ROWS.decode(before + b'{"rows": [{"tailnum": "N1", "distance": 1e999}]}')
    assert refused.value.where == path
    assert said in refused.value.what


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        (_many(ROW, ROW, ROW, {**ROW, "tailnum": 7}), "$.rows[3].tailnum", "Expected `str`, got `int`"),
        (_many(ROW, {"tailnum": "N1"}), "$.rows[1]", "missing required field `distance`"),
        (_many(ROW, None), "$.rows[1]", "Expected `object`, got `null`"),
        (_many({**ROW, "hour": 1.5}), "$.rows[0].hour", "got `float`"),
        (_many({**ROW, "hour": 2**63}), "$.rows[0].hour", "<= 9223372036854775807"),
        (_many({**ROW, "big": "yes"}), "$.rows[0].big", "got `str`"),
        (_many({**ROW, "at": "yesterday"}), "$.rows[0].at", "datetime"),
        (_many({**ROW, "at": "2026-01-01T00:00:00"}), "$.rows[0].at", "timezone"),
        (_many({**ROW, "distance": None}), "$.rows[0].distance", "got `null`"),
        (b'{"rows": 3}', "$.rows", "Expected `array`"),
        (b'{"rows": {}}', "$.rows", "Expected `array`"),
        (b'{"rows": []}', "$.rows", "0 rows"),
        (_many(*[ROW] * 6), "$.rows", "6 rows"),
        (b'{"tailnum": "N1", "distance": "far"}', "$.distance", "got `str`"),
        (b'{"tailnum": "rows", "distance": "rows"}', "$.distance", "got `str`"),
        (b"{}", "$", "missing required field"),
        (b"[]", "$", "Expected `object`, got `array`"),
        (b"null", "$", "got `null`"),
        (b'"rows"', "$", "got `str`"),
        (b"3", "$", "got `int`"),
    ],
)
@pytest.mark.parametrize("before", [b"", LONG], ids=["short", "long"])
def test_a_row_that_breaks_the_contract_is_refused_with_its_path(
    before: bytes, body: bytes, path: str, said: str
) -> None:
    body = before + body
    with pytest.raises(ContractError) as refused:
        ROWS.decode(body)
    assert refused.value.where == path
    assert said in refused.value.what
    assert refused.value.remedy
    assert "status" not in refused.value.facts  # so it is a 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"rows": [',
        b'{"tailnum": "N1", "distance": NaN}',
        b'{"tailnum": "N1", "distance": Infinity}',
        b'{"tailnum": "N1", "distance": -Infinity}',
        b"{'tailnum': 1}",
        b'{"tailnum": "\xff", "distance": 1}',
        b'{"tailnum": "\\ud800", "distance": 1}',
        b'{"tailnum": "N1", "distance": 1}{}',
        b'{"x": ' + b"[" * 100_000,
        b'{"rows": ' + b"[" * 100_000,
        b'{"rows": [{"x": ' + b'{"x":' * 100_000,
    ],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(ContractError, match=r"malformed JSON|Expected `object`") as refused:
        ROWS.decode(body)
    assert refused.value.facts.get("status") == 400 or b'"rows"' in body


def test_rows_are_decoded_as_they_are() -> None:
    [row] = ROWS.decode('{"tailnum": "Ñ🛩", "distance": 3, "extra": {"rows": [1]}}'.encode())
    assert (row.tailnum, row.distance, row.hour, row.at, row.big) == ("Ñ🛩", 3.0, None, None, None)  # type: ignore[attr-defined]
    assert len(ROWS.decode(_many(ROW, {**ROW, "hour": 2**63 - 1, "at": "2026-01-01T00:00:00+05:30"}))) == 2
    assert len(ROWS.decode(b'{"extra": 1, "rows": [{"tailnum": "rows", "distance": 1}]}')) == 1


_numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)


@given(st.lists(_numbers, min_size=1, max_size=5))
def test_a_long_body_is_read_as_a_short_one(numbers: list[float]) -> None:
    body = _many(*({**ROW, "distance": number, "at": "2026-01-01T00:00:00+05:30"} for number in numbers))
    assert ROWS.decode(LONG + body) == ROWS.decode(body)


def test_the_word_rows_may_stand_anywhere_in_a_single_row() -> None:
    [row] = ROWS.decode(b'{"tailnum": "rows", "distance": 1, "note": "\\"rows\\""}')
    assert row.tailnum == "rows"  # type: ignore[attr-defined]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_rows_or_a_contract_error(body: bytes) -> None:
    try:
        found: object = ROWS.decode(body)
    except ContractError as error:
        found = error.where
    assert found


# -- columns --------------------------------------------------------------------------------------------------------

COLUMNS = {"tailnum": ["N1", "N2"], "distance": [2.5, 3]}
PACK = msgspec.msgpack.encode


def _both(body: object) -> list[list[msgspec.Struct] | Asked]:
    """What JSON and MessagePack of `body` are taken for."""
    return [TABLES.asked(json.dumps(body).encode()), TABLES.asked(PACK(body), packed=True)]


def test_columns_are_rows_told_the_other_way_round() -> None:
    for found in _both({"columns": {**COLUMNS, "hour": [None, 7]}}):
        assert isinstance(found, Asked)
        assert len(found) == 2
        assert found.columns == {**COLUMNS, "hour": [None, 7], "at": [None, None], "big": [None, None]}
        assert found.cut(1, 2).columns["tailnum"] == ["N2"]
    for rows in _both({"rows": [ROW, ROW]}) + _both(ROW):
        assert isinstance(rows, list)
        assert rows[0].tailnum == "N1"  # type: ignore[attr-defined]
    assert len(_both({"tailnum": "columns", "distance": 1.0})[0]) == 1


@pytest.mark.parametrize(
    ("columns", "path", "said"),
    [
        ({"tailnum": ["N1"]}, "$.columns", "missing required field `distance`"),
        ({**COLUMNS, "distanse": [1, 2]}, "$.columns", "unknown field `distanse`"),
        ({**COLUMNS, "tailnum": ["N1", 7]}, "$.columns.tailnum[1]", "Expected `str`, got `int`"),
        ({**COLUMNS, "tailnum": ["N1", None]}, "$.columns.tailnum[1]", "Expected `str`"),
        ({**COLUMNS, "tailnum": "N1"}, "$.columns.tailnum", "Expected `array`"),
        ({**COLUMNS, "distance": [1.0]}, "$.columns.distance", "1 values where 'tailnum' has 2"),
        ({**COLUMNS, "hour": []}, "$.columns.hour", "0 values"),
        ({"tailnum": [], "distance": []}, "$.columns", "0 rows"),
        ([], "$.columns", "Expected `object`"),
    ],
)
def test_columns_that_break_the_contract_are_refused_with_their_path(columns: object, path: str, said: str) -> None:
    for body, packed in ((json.dumps({"columns": columns}).encode(), False), (PACK({"columns": columns}), True)):
        with pytest.raises(ContractError) as refused:
            TABLES.asked(body, packed=packed)
        assert refused.value.where == path
        assert said in refused.value.what


def test_too_many_rows_are_too_large_a_request() -> None:
    for body in ({"columns": {"tailnum": ["N"] * 6, "distance": [1] * 6}}, {"rows": [ROW] * 6}):
        with pytest.raises(ContractError, match="6 rows") as refused:
            TABLES.asked(json.dumps(body).encode())
        assert refused.value.facts["status"] == 413
        assert "1 to 5" in refused.value.remedy


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_messagepack_can_say_what_is_no_number_and_is_refused(number: float) -> None:
    for body, path in (
        ({**ROW, "distance": number}, "$.distance"),
        ({"rows": [ROW, {**ROW, "distance": number}]}, "$.rows[1].distance"),
        ({"columns": {**COLUMNS, "distance": [1.0, number]}}, "$.columns.distance[1]"),
    ):
        with pytest.raises(ContractError, match="no finite number") as refused:
            TABLES.asked(PACK(body), packed=True)
        assert refused.value.where == path


def test_messagepack_may_hold_instants_as_text_or_as_its_own() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for said in (at, at.isoformat()):
        found = TABLES.asked(PACK({"columns": {"tailnum": ["N1"], "distance": [1], "at": [said]}}), packed=True)
        assert isinstance(found, Asked)
        assert found.columns["at"] == [at]


@given(st.binary(max_size=80))
def test_any_bytes_are_messagepack_rows_or_a_contract_error(body: bytes) -> None:
    _told(body)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["rows", "columns", "tailnum", "distance", "hour", "at", "big"]), plain))
def test_any_messagepack_is_rows_or_a_contract_error(body: dict[str, Any]) -> None:
    _told(PACK(body))
    _told(PACK({"columns": body}))


def _told(body: bytes) -> None:
    try:
        found: object = TABLES.asked(body, packed=True)
    except ContractError as error:
        found = error.where
    assert found
