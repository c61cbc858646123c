"""From the values of a log of changes to rows with a sign: one for a row that is added, one for a row taken back.

Laws: a change is taken whole or not at all; of an event that changes a row, the former row comes first. The table has
the columns of the source and two more, of `trilane.sources.change`; several rows may come from one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.contract import NOT_JSON, Rejection, malformed, split_message
from trilane.sources.change import Changes

__all__ = ["EnvelopeReader", "Signed", "refused_rows", "signed_rows"]

_NULL = msgspec.Raw(b"null")
_BEYOND = 2**53  # milliseconds that no calendar has
_REMEDY = "without the former row nothing can be taken back: send it whole (in PostgreSQL REPLICA IDENTITY FULL)"


class _Origin(msgspec.Struct):
    ts_ms: int | None = None


class _Envelope(msgspec.Struct):
    op: str | None = None
    before: msgspec.Raw = _NULL
    after: msgspec.Raw = _NULL
    ts_ms: int | None = None
    source: _Origin | None = None
    payload: msgspec.Raw = _NULL


@dataclass(frozen=True, slots=True)
class Signed:
    """Rows to be decoded, each with its sign, the instant of its change, the place of its value and its path there."""

    texts: list[bytes]
    signs: list[int]
    moments: list[int]
    owners: list[int]
    paths: list[str]
    rejections: list[Rejection]


class EnvelopeReader:
    """Opens envelopes as Debezium writes them."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Envelope).decode

    def read(self, values: Sequence[bytes]) -> Signed:
        """The rows of each value; an envelope that does not tell a whole change is rejected."""
        found = Signed([], [], [], [], [], [])
        for index, value in enumerate(values):
            try:
                fault = self._open(value, index, found)
            except msgspec.ValidationError as error:
                reason, path = split_message(str(error))
                fault = Rejection(index, "type", path, reason)
            except NOT_JSON as error:
                fault = Rejection(index, "json", "$", malformed(value, error))
            if fault is not None:
                found.rejections.append(fault)
        return found

    def _open(self, value: bytes, index: int, found: Signed) -> Rejection | None:
        envelope, at = self._decode(value), "$"
        if bytes(envelope.payload) != b"null":
            envelope, at = self._decode(envelope.payload), "$.payload"
        sides = {"c": ("after",), "r": ("after",), "u": ("before", "after"), "d": ("before",)}.get(envelope.op or "")
        if sides is None:
            known = "one of c, r, u, d"
            return Rejection(index, "change", f"{at}.op", f"op is {envelope.op!r}, not {known}")
        moment = envelope.ts_ms if envelope.source is None or envelope.source.ts_ms is None else envelope.source.ts_ms
        if moment is None or not 0 <= moment < _BEYOND:
            reason = "neither source.ts_ms nor ts_ms says when the change was made"
            return Rejection(index, "change", f"{at}.ts_ms", reason)
        rows = [bytes(getattr(envelope, side)) for side in sides]
        for side, row in zip(sides, rows, strict=True):
            if row == b"null":
                reason = f"op is {envelope.op!r} and {side} is null" + (f"; {_REMEDY}" if side == "before" else "")
                return Rejection(index, "change", f"{at}.{side}", reason)
        for side, row in zip(sides, rows, strict=True):
            found.texts.append(row)
            found.signs.append(1 if side == "after" else -1)
            found.moments.append(moment * 1_000)
            found.owners.append(index)
            found.paths.append(f"{at}.{side}")
        return None


def refused_rows(rows: Signed, rejections: Sequence[Rejection]) -> tuple[npt.NDArray[np.bool_], list[Rejection]]:
    """Of rows some of which did not keep the contract: which changes are whole, and what to say of the others."""
    told: dict[int, Rejection] = {}
    for one in rejections:
        owner, path = rows.owners[one.index], rows.paths[one.index]
        reason = f"{one.reason}; {_REMEDY}" if path.endswith("before") else one.reason
        told.setdefault(owner, Rejection(owner, one.code, path + one.path.removeprefix("$"), reason))
    whole = ~np.isin(np.asarray(rows.owners, np.int64), list(told))
    return whole, list(told.values())


def signed_rows(changes: Changes, table: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The sign and the instant of each row that tells its change itself; sign 0: its `op` is unknown."""
    ops = table.column(changes.op).combine_chunks()
    added = pc.is_in(ops, pa.array(changes.insert, pa.string())).to_numpy(zero_copy_only=False)
    taken = pc.is_in(ops, pa.array(changes.delete, pa.string())).to_numpy(zero_copy_only=False)
    moments = table.column(changes.at).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return added.astype(np.int64) - taken.astype(np.int64), np.asarray(moments.to_numpy(), np.int64)
