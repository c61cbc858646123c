"""The JSON and the MessagePack of decisions: answers to bytes.

Law: encoding never fails on an answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import cast

import msgspec

from trilane.features.fallback import FRESH, STATUSES
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers

__all__ = ["DecisionFormat", "with_batch"]

_encode, _pack = msgspec.json.Encoder().encode, msgspec.msgpack.Encoder().encode
_NO_WORSE = tuple(f'"degraded":false,"rung":"{word}","why":[]' for word in RUNGS)


class _Sheet:
    """What all answers of a batch have in common, made once: several requests ask for it one after another."""

    __slots__ = ("answers", "is_worse", "plain", "rungs", "scores")

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.scores: list[float] = answers.scores.tolist()
        self.rungs: list[int] = answers.rungs.tolist()
        self.is_worse = cast("list[bool]", answers.reading.statuses.any(axis=1).tolist())
        self.plain = [_NO_WORSE[rung] for rung in self.rungs]


class DecisionFormat:
    """Encodes the answers of one endpoint, keeping the parts that repeat from answer to answer."""

    def __init__(self, names: tuple[str, ...], *, threshold: float | None) -> None:
        self._names = names
        self._threshold = threshold
        self._sheet: _Sheet | None = None
        self._statuses = functools.lru_cache(4_096)(self._encode_statuses)
        self._why = functools.lru_cache(256)(_text)

    def encode(self, answers: Answers, start: int, stop: int) -> bytes:
        """The response body for rows `start` up to `stop`."""
        sheet = self._sheet
        if sheet is None or sheet.answers is not answers:
            sheet = _Sheet(answers)
            self._sheet = sheet if stop - start < len(sheet.scores) else None  # no request else will ask for it
        parts = [self._row(sheet, row) for row in range(start, stop)]
        return f'{{"bundle":"{answers.bundle[:16]}","decisions":[{",".join(parts)}]}}'.encode()

    def _row(self, sheet: _Sheet, row: int) -> str:
        answers, score, positive = sheet.answers, sheet.scores[row], ""
        if self._threshold is not None:
            positive = ',"positive":true' if score >= self._threshold else ',"positive":false'
        statuses = self._statuses(answers.reading.statuses[row].tobytes()) if sheet.is_worse[row] else "{}"
        why = answers.why(row) if answers.faults else ()
        rest = f'"degraded":true,"rung":"{RUNGS[sheet.rungs[row]]}","why":{self._why(why)}' if why else sheet.plain[row]
        return f'{{"id":"{answers.id}-{row}","score":{score!r}{positive},{rest},"statuses":{statuses}}}'

    def msgpack(self, answers: Answers, start: int, stop: int) -> bytes:
        """The same in MessagePack."""
        decisions = []
        for row, score in enumerate(answers.scores[start:stop].tolist(), start):
            why = answers.why(row) if answers.faults else ()
            one = {"id": f"{answers.id}-{row}", "score": score}
            if self._threshold is not None:
                one["positive"] = score >= self._threshold
            worse = self._worse(answers.reading.statuses[row].tobytes())
            rung = RUNGS[answers.rungs[row]]
            decisions.append({**one, "degraded": bool(why), "rung": rung, "why": why, "statuses": worse})
        return _pack({"bundle": answers.bundle[:16], "decisions": decisions})

    def _encode_statuses(self, codes: bytes) -> str:
        return _text(self._worse(codes))

    def _worse(self, codes: bytes) -> dict[str, list[str]]:
        worse: dict[str, list[str]] = {}
        for name, code in zip(self._names, codes, strict=True):
            if code != FRESH:
                worse.setdefault(STATUSES[code], []).append(name)
        return worse


def _text(value: object) -> str:
    return _encode(value).decode()


def with_batch(body: bytes, batch: Mapping[str, int | float | str], *, packed: bool) -> bytes:
    """A response body of `encode`, or if `packed` of `msgpack`, with what is told of the batch as one more field."""
    if packed:
        return bytes([body[0] + 1]) + body[1:] + _pack("batch") + _pack(batch)  # the first byte counts the fields
    return b'%b,"batch":%b}' % (body[:-1], _encode(batch))
