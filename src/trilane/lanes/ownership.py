"""Who keeps a partition, and what hinders it, as its worker notes it beside the rows for whoever looks.

Law: a note is written by the writer of the partition alone; whether its author still lives is told by the lease.
"""

from __future__ import annotations

import msgspec

from trilane.lanes.progress import lane_key
from trilane.stores.online.protocol import Writer

__all__ = ["OWNERS", "REGION", "Ownership", "decode", "note"]

REGION = "nearline"  # of the online store; each partition is a part of it
OWNERS = f"{REGION}/owners"


class Ownership(msgspec.Struct, kw_only=True, frozen=True):
    """`since`: when `owner` took the partition (microseconds); `moves`: how often another worker took it over;
    `fault`: why it stands now, empty while it goes on; `faults`: how often it stood.
    """

    owner: str = ""
    since: int = 0
    moves: int = 0
    fault: str = ""
    faults: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Ownership)


def decode(row: bytes | None) -> Ownership:
    """The note in a stored row; an empty one where there is none."""
    return Ownership() if row is None else _decoder.decode(row)


def note(writer: Writer, source: str, partition: int, *, owner: str, now: int, fault: str = "") -> Ownership:
    """Notes that `owner` has the partition, and what hinders it."""
    key = lane_key(source, partition)
    with writer.transaction() as transaction:
        before = decode(transaction.get(OWNERS, [key])[0])
        moved = before.owner != owner
        fresh = Ownership(
            owner=owner,
            since=now if moved else before.since,
            moves=before.moves + (moved and bool(before.owner)),
            fault=fault,
            faults=before.faults + bool(fault),
        )
        transaction.put(OWNERS, [(key, _encode(fresh))])
    return fresh
