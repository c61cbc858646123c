"""The JSON of requests and answers: what is refused and where the fault lies, and that answers are what they say."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Contract
from trilane.errors import ContractError
from trilane.features.fallback import STATUSES
from trilane.serving.engine import Answers
from trilane.serving.protocol.decisions import DecisionFormat, RowFormat, encode_features
from trilane.serving.reading import Fault, Reading
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
ROW = {"tailnum": "N1", "distance": 2.5}
NAMES = ("v.a", "v.b", "w.c")


def _many(*rows: object) -> bytes:
    return json.dumps({"rows": rows}).encode()


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
        (b'{"rows": [{"tailnum": "N1", "distance": 1e999}]}', "$.rows[0].distance", "out of range"),
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
def test_a_row_that_breaks_the_contract_is_refused_with_its_path(body: bytes, path: str, said: str) -> None:
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


# -- answers --------------------------------------------------------------------------------------------------------

statuses = st.lists(st.integers(0, len(STATUSES) - 1), min_size=3, max_size=3)
scores = st.floats(allow_nan=False, allow_infinity=False)
reasons = st.text(max_size=8)


@st.composite
def _answers(draw: st.DrawFn) -> Answers:
    size = draw(st.integers(1, 5))
    codes = np.array([draw(statuses) for _ in range(size)], np.uint8)
    values = np.where(codes == 4, np.nan, np.array([[draw(scores) for _ in NAMES] for _ in range(size)]))
    faults = draw(
        st.lists(st.builds(Fault, reasons, st.none() | st.frozensets(st.integers(0, size - 1), min_size=1)), max_size=3)
    )
    reading = Reading(values, codes, np.full(codes.shape, 1_500_000, np.int64), tuple(faults))
    found = np.array([draw(scores) for _ in range(size)])
    return Answers("0a1", "b" * 64, 7, [], found, reading, tuple(faults), np.ones(size, bool))


@given(_answers(), st.none() | scores)
def test_an_answer_says_what_plain_json_would_say(answers: Answers, threshold: float | None) -> None:
    body = DecisionFormat(NAMES, threshold=threshold).encode(answers, 0, len(answers.scores))
    decisions = []
    for row, score in enumerate(answers.scores.tolist()):
        worse: dict[str, list[str]] = {}
        for name, code in zip(NAMES, answers.reading.statuses[row].tolist(), strict=True):
            if code:
                worse.setdefault(STATUSES[code], []).append(name)
        why = [fault.reason for fault in answers.faults if fault.rows is None or row in fault.rows]
        said: dict[str, Any] = {"id": f"0a1-{row}", "score": score}
        if threshold is not None:
            said["positive"] = score >= threshold
        decisions.append({**said, "degraded": bool(why), "why": why, "statuses": worse})
    assert msgspec.json.decode(body) == {"bundle": "b" * 16, "decisions": decisions}
    assert json.loads(body) == msgspec.json.decode(body)


@given(_answers(), st.data())
def test_a_share_is_encoded_as_if_it_had_been_alone(answers: Answers, data: st.DataObject) -> None:
    size = len(answers.scores)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    form = DecisionFormat(NAMES, threshold=0.5)
    whole = msgspec.json.decode(form.encode(answers, 0, size))["decisions"]
    assert msgspec.json.decode(form.encode(answers, start, stop))["decisions"] == whole[start:stop]


@given(_answers())
def test_features_say_values_statuses_and_ages(answers: Answers) -> None:
    found = json.loads(encode_features(NAMES, answers.reading))
    assert found["names"] == list(NAMES)
    for row, said in enumerate(found["rows"]):
        values = answers.reading.values[row].tolist()
        assert said["values"] == [None if math.isnan(value) else value for value in values]
        assert said["statuses"] == [STATUSES[code] for code in answers.reading.statuses[row].tolist()]
        assert said["ages_s"] == [1.5, 1.5, 1.5]


def test_an_infinite_feature_is_null_in_json() -> None:
    reading = Reading(np.array([[np.inf]]), np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.int64), ())
    assert json.loads(encode_features(("v.a",), reading))["rows"][0]["values"] == [None]
