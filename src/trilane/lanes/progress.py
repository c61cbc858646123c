"""How far a nearline lane has come, as the worker writes it and the server reads it.

Law: progress is written in the transaction of the tiles it speaks of, so the two never disagree; where a transaction is
not atomic, it first says how far the batch reaches, and then, when all is written, that it is applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from trilane.features.algebra import Ints

__all__ = ["BEFORE_ALL", "LANES", "Progress", "counted", "lane_key", "lane_state", "older", "oldest"]

LANES = "nearline/lanes"
BEFORE_ALL = -(1 << 62)  # the oldest event of a log that was cut: what is gone may have happened at any time


class Progress(msgspec.Struct, kw_only=True, frozen=True):
    """`offset`: the next event to apply; `newest`: the largest event time seen (microseconds; None before the first);
    `oldest`: the smallest event time that counted (None where it was not noted from the beginning, `BEFORE_ALL` where
    the log did not begin with its first event any more);
    `early`: when the first event that waits for its time happens; `caught_up_at`: the clock's instant up to which
    all that had arrived is applied; `verdicts`: how many events were refused, by the code of their dead letters, and
    how many broke a rule that only warns (`warn:<rule>`); `spaces`: the views in step; `serial`: how many batches were
    applied;
    `mark`: a checksum of the last value before `offset`, by which a log that lost events is known (None: not noted);
    `pending`, `pending_at`: in a store whose transactions are not atomic, where the batch that is being applied ends,
    and the instant as of which (0: none is).
    """

    offset: int = 0
    newest: int | None = None
    oldest: int | None = None
    early: int | None = None
    caught_up_at: int = 0
    applied: int = 0
    duplicates: int = 0
    rejected: int = 0
    verdicts: dict[str, int] = {}
    spaces: tuple[str, ...] = ()
    serial: int = 0
    pending: int = 0
    pending_at: int = 0
    mark: int | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Progress)


def lane_key(source: str, partition: int) -> bytes:
    """The key, in space `LANES`, of the progress of one partition."""
    return f"{source}/{partition}".encode()


def encode(progress: Progress) -> bytes:
    """The stored form."""
    return _encoder.encode(progress)


def decode(row: bytes | None) -> Progress:
    """The progress in a stored row; the very beginning where there is none."""
    return Progress() if row is None else _decoder.decode(row)


def counted(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """The sum of two counts by name."""
    return {name: before.get(name, 0) + more.get(name, 0) for name in sorted({*before, *more})}


def oldest(before: Progress, times: Ints, first: int) -> int | None:
    """The smallest event time that ever counted, after events at `times`; None where that was not noted before.

    `first`: the offset of the first event that the log gave.
    """
    if not before.offset and first > 0:  # it was cut: tiles that lack what is gone must not look whole
        return BEFORE_ALL
    if len(times) == 0 or (before.applied and before.oldest is None):
        return before.oldest
    least = int(times.min())
    return least if before.oldest is None else min(least, before.oldest)


def older(one: Progress, other: Progress) -> int | None:
    """The smaller of what two consumers of one partition have as the oldest."""
    return min((progress.oldest for progress in (one, other) if progress.oldest is not None), default=None)


def lane_state(rows: Iterable[bytes | None], space: str) -> int | None:
    """The instant up to which all partitions have applied what arrived, for the view in `space`; None if it is not
    in step yet, or no worker ever ran.
    """
    moments = []
    for row in rows:
        progress = decode(row)
        if space not in progress.spaces:
            return None
        moments.append(progress.caught_up_at)
    return min(moments, default=None)
