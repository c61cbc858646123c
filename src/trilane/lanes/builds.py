"""What is noted of views that a lane builds beside the others: what hinders each, and how fast the last ones were.

Law: notes lie under the key of the build's lane, and are written by the writer of the partition alone.
"""

from __future__ import annotations

import struct

from trilane.stores.online.protocol import OnlineStore, Transaction

__all__ = ["FAULTS", "measured", "note_end", "note_fault"]

FAULTS = "nearline/build_faults"
_PACES = "nearline/paces"
_PACE = struct.Struct("<qq")


def note_fault(transaction: Transaction, key: bytes, fault: str) -> None:
    """Notes why the build under `key` stands; an empty text takes the note away."""
    if fault:
        transaction.put(FAULTS, [(key, fault.encode())])
    else:
        transaction.delete(FAULTS, [key])


def note_end(transaction: Transaction, key: bytes, lane: bytes, *, events: int, took: int) -> None:
    """Notes that the build under `key` has applied `events` in `took` microseconds and is in step with its lane."""
    note_fault(transaction, key, "")
    if events and took > 0:
        transaction.put(_PACES, [(lane, _PACE.pack(events, took))])


def measured(store: OnlineStore, lanes: list[bytes]) -> float | None:
    """Events a second of the last builds of these partitions, one after another; None if none was measured."""
    [rows] = store.read([(_PACES, lanes)])
    found = [_PACE.unpack(row) for row in rows if row]
    events, took = sum(one for one, _ in found), sum(one for _, one in found)
    return events / took * 1e6 if took else None
