"""The JSON of decisions and feature reads: bytes to checked rows, answers to bytes.

Law: what is refused is refused before any work, with the path to the fault; encoding never fails on an answer.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import msgspec
import numpy as np

from trilane.contract import NOT_JSON, Contract, malformed, split_message
from trilane.errors import ContractError
from trilane.features.algebra import Floats
from trilane.features.fallback import FRESH, STATUSES
from trilane.serving.engine import Answers
from trilane.serving.reading import Reading

__all__ = ["DecisionFormat", "RowFormat", "encode_features"]

_encode = msgspec.json.Encoder().encode
_NO_ROWS = "Object missing required field `rows`"


class RowFormat:
    """Decodes request bodies of one contract: one row as an object, or `{"rows": [...]}` with at most `max_rows`."""

    def __init__(self, contract: Contract, *, max_rows: int = 2_000) -> None:
        self._contract = contract
        self._max_rows = max_rows
        body = msgspec.defstruct("Body", [("rows", list[contract.struct])])  # type: ignore[name-defined]
        self._one: msgspec.json.Decoder[Any] = msgspec.json.Decoder(contract.struct)
        self._many: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)

    def decode(self, body: bytes) -> list[msgspec.Struct]:
        """The rows of a body. Raises ContractError with the JSON path to what is wrong."""
        rows = self._rows(body)
        if not 0 < len(rows) <= self._max_rows:
            raise ContractError(
                f"{len(rows)} rows", where="$.rows", remedy=f"Send 1 to {self._max_rows} rows in a request"
            )
        return rows

    def _rows(self, body: bytes) -> list[msgspec.Struct]:
        """The rows of either form. JSON has no NaN and no infinity, so every number is finite."""
        try:
            if b'"rows"' in body:
                try:
                    rows: list[msgspec.Struct] = self._many.decode(body).rows
                    return rows
                except msgspec.ValidationError as error:
                    if str(error) != _NO_ROWS:  # else the text "rows" stands elsewhere in a single row
                        raise
            return [self._one.decode(body)]
        except msgspec.ValidationError as error:
            reason, path = split_message(str(error))
            names = ", ".join(f.name for f in self._contract.fields)
            raise ContractError(reason, where=path, remedy=f"A row of {self._contract.name!r} has {names}") from None
        except NOT_JSON as error:
            raise ContractError(malformed(body, error), where="$", remedy="Send valid JSON", status=400) from None


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
        scores = answers.scores[start:stop].tolist()
        for offset, score in enumerate(scores):
            row = start + offset
            why = answers.why(row) if faults else ()
            positive = (
                "" if self._threshold is None else f',"positive":{"true" if score >= self._threshold else "false"}'
            )
            parts.append(
                b'{"id":"%b-%d","score":%b%b,"degraded":%b,"why":%b,"statuses":%b}'
                % (
                    answers.id.encode(),
                    row,
                    repr(score).encode(),
                    positive.encode(),
                    b"true" if why else b"false",
                    self._why(why) if why else b"[]",
                    all_fresh or self._statuses(answers.reading.statuses[row].tobytes()),
                )
            )
        return b'{"bundle":"%b","decisions":[%b]}' % (answers.bundle[:16].encode(), b",".join(parts))

    def _encode_statuses(self, codes: bytes) -> bytes:
        worse: dict[str, list[str]] = {}
        for name, code in zip(self._names, codes, strict=True):
            if code != FRESH:
                worse.setdefault(STATUSES[code], []).append(name)
        return _encode(worse)


def encode_features(names: tuple[str, ...], reading: Reading) -> bytes:
    """The response body of a feature read: names once, then values, statuses and ages of each row."""
    rows = [
        {
            "values": [None if math.isnan(value) else value for value in values],
            "statuses": [STATUSES[code] for code in statuses],
            "ages_s": ages,
        }
        for values, statuses, ages in zip(
            reading.values.tolist(), reading.statuses.tolist(), _seconds(reading).tolist(), strict=True
        )
    ]
    return _encode({"names": names, "rows": rows, "why": [fault.reason for fault in reading.faults]})


def _seconds(reading: Reading) -> Floats:
    return np.asarray(reading.ages / 1e6)
