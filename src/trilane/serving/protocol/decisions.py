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
_RUNGS = tuple(word.encode() for word in RUNGS)


class DecisionFormat:
    """Encodes the answers of one endpoint, keeping the parts that repeat from answer to answer."""

    def __init__(self, names: tuple[str, ...], *, threshold: float | None) -> None:
        self._names = names
        self._threshold = threshold
        self._statuses = functools.lru_cache(4_096)(self._encode_statuses)
        self._why = functools.lru_cache(256)(_encode)

    def encode(self, answers: Answers, start: int, stop: int) -> bytes:
        """The response body for rows `start` up to `stop`."""
        all_fresh = b"{}" if not answers.reading.statuses[start:stop].any() else b""
        faults = answers.faults
        parts = []
        rungs = answers.rungs[start:stop].tolist()
        scores = answers.scores[start:stop].tolist()
        for offset, score in enumerate(scores):
            row = start + offset
            why = answers.why(row) if faults else ()
            positive = (
                "" if self._threshold is None else f',"positive":{"true" if score >= self._threshold else "false"}'
            )
            parts.append(
                b'{"id":"%b-%d","score":%b%b,"degraded":%b,"rung":"%b","why":%b,"statuses":%b}'
                % (
                    answers.id.encode(),
                    row,
                    repr(score).encode(),
                    positive.encode(),
                    b"true" if why else b"false",
                    _RUNGS[rungs[offset]],
                    self._why(why) if why else b"[]",
                    all_fresh or self._statuses(answers.reading.statuses[row].tobytes()),
                )
            )
        return b'{"bundle":"%b","decisions":[%b]}' % (answers.bundle[:16].encode(), b",".join(parts))

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

    def _encode_statuses(self, codes: bytes) -> bytes:
        return _encode(self._worse(codes))

    def _worse(self, codes: bytes) -> dict[str, list[str]]:
        worse: dict[str, list[str]] = {}
        for name, code in zip(self._names, codes, strict=True):
            if code != FRESH:
                worse.setdefault(STATUSES[code], []).append(name)
        return worse


def with_batch(body: bytes, batch: Mapping[str, int | float | str], *, packed: bool) -> bytes:
    """A response body of `encode`, or if `packed` of `msgpack`, with what is told of the batch as one more field."""
    if packed:
        return bytes([body[0] + 1]) + body[1:] + _pack("batch") + _pack(batch)  # the first byte counts the fields
    return b'%b,"batch":%b}' % (body[:-1], _encode(batch))
