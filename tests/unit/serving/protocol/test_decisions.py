"""The JSON of decisions: that answers are what they say."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trilane.features.fallback import STATUSES
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers
from trilane.serving.protocol.decisions import DecisionFormat, with_batch
from trilane.serving.reading import Fault, Reading

NAMES = ("v.a", "v.b", "w.c")

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
    rungs = np.array(draw(st.lists(st.integers(0, len(RUNGS) - 1), min_size=size, max_size=size)), np.uint8)
    return Answers("0a1", "b" * 64, 7, [], found, reading, tuple(faults), rungs)


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
        decisions.append(
            {**said, "degraded": bool(why), "rung": RUNGS[answers.rungs[row]], "why": why, "statuses": worse}
        )
    assert msgspec.json.decode(body) == {"bundle": "b" * 16, "decisions": decisions}
    assert json.loads(body) == msgspec.json.decode(body)
    packed = DecisionFormat(NAMES, threshold=threshold).msgpack(answers, 0, len(answers.scores))
    assert msgspec.msgpack.decode(packed) == msgspec.json.decode(body)


@given(_answers(), st.data())
def test_a_share_is_encoded_as_if_it_had_been_alone(answers: Answers, data: st.DataObject) -> None:
    size = len(answers.scores)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    form = DecisionFormat(NAMES, threshold=0.5)
    whole = msgspec.json.decode(form.encode(answers, 0, size))["decisions"]
    assert msgspec.json.decode(form.encode(answers, start, stop))["decisions"] == whole[start:stop]


@given(_answers(), st.none() | scores)
def test_what_is_told_of_the_batch_is_one_more_field_in_either_format(
    answers: Answers, threshold: float | None
) -> None:
    form = DecisionFormat(NAMES, threshold=threshold)
    batch: dict[str, int | float | str] = {"rows": 3, "wait_ms": 0.5, "reason": "idle"}
    text, packed = form.encode(answers, 0, len(answers.scores)), form.msgpack(answers, 0, len(answers.scores))
    told = {**msgspec.json.decode(text), "batch": batch}
    assert msgspec.json.decode(with_batch(text, batch, packed=False)) == told
    assert msgspec.msgpack.decode(with_batch(packed, batch, packed=True)) == told
