"""The JSON and the MessagePack of decisions: answers to bytes.

Law: encoding never fails on an answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from trilane.features.fallback import FRESH, STATUSES
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers

__all__ = ["DecisionFormat", "with_batch"]

_encode, _pack = msgspec.json.Encoder().encode, msgspec.msgpack.Encoder().encode
_AS_PROMISED = tuple(f'"degraded":false,"rung":"{word}","why":[],"statuses":{{}}' for word in RUNGS)


class _Sheet:
    """The texts of all answers of a batch, made in one go: several requests ask for theirs one after another."""

    __slots__ = ("answers", "opening", "rows")

    def __init__(self, answers: Answers, rows: list[str]) -> None:
        self.answers, self.rows = answers, rows
        self.opening = f'{{"bundle":"{answers.bundle[:16]}","decisions":['


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
            sheet = _Sheet(answers, self._rows(answers))
            self._sheet = sheet if stop - start < len(sheet.rows) else None  # no request else will ask for it
        rows = sheet.rows[start] if stop - start == 1 else ",".join(sheet.rows[start:stop])
        return f"{sheet.opening}{rows}]}}".encode()

    def _rows(self, answers: Answers) -> list[str]:
        scores, rungs = answers.scores.tolist(), answers.rungs.tolist()
        numbers, signs = _numbers(scores), [""] * len(scores)
        if self._threshold is not None:
            signs = [',"positive":true' if score >= self._threshold else ',"positive":false' for score in scores]
        if answers.faults or answers.reading.statuses.any():
            rests = [self._rest(answers, row, rung) for row, rung in enumerate(rungs)]
        else:
            rests = [_AS_PROMISED[rung] for rung in rungs]
        opening = f'{{"id":"{answers.id}-'
        told = enumerate(zip(numbers, signs, rests, strict=True))
        return [f'{opening}{row}","score":{number}{sign},{rest}}}' for row, (number, sign, rest) in told]

    def _rest(self, answers: Answers, row: int, rung: int) -> str:
        """What is told of an answer that may be worse than promised, or made of values that are."""
        statuses, why = self._statuses(answers.reading.statuses[row].tobytes()), answers.why(row)
        worse = "true" if why else "false"
        return f'"degraded":{worse},"rung":"{RUNGS[rung]}","why":{self._why(why)},"statuses":{statuses}'

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


def _numbers(values: list[float]) -> list[str]:
    """The texts of finite numbers, written in one go: Python takes eight times as long for one."""
    return _text(values)[1:-1].split(",")


def _text(value: object) -> str:
    return _encode(value).decode()


def with_batch(body: bytes, batch: Mapping[str, int | float | str], *, packed: bool) -> bytes:
    """A response body of `encode`, or if `packed` of `msgpack`, with what is told of the batch as one more field."""
    if packed:
        return bytes([body[0] + 1]) + body[1:] + _pack("batch") + _pack(batch)  # the first byte counts the fields
    return b'%b,"batch":%b}' % (body[:-1], _encode(batch))
