"""The promise of an online store: many processes read, one at a time writes each region, in transactions.

A space is a set of keys, named `region/rest`, such as `nearline/airport_pressure@1a2b`. Regions are written
independently, so that a long load of one never holds up another. A region may be written in parts, by a process each,
which write different keys. What a transaction wrote is seen whole or
not at all, and is there after the death of any process. A store that is not `atomic` promises this of the rows
of one key in all spaces only, and only that they are written when the transaction ends: then a lane writes what
makes a replay harmless.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from trilane.errors import TrilaneError

__all__ = ["Holder", "Lease", "OnlineStore", "Transaction", "Writer"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a lease: the name that it gave, and its process, both for people."""

    name: str
    process: str


class Lease(Protocol):
    """A name that one process has at a time, until it gives it back or is known to be dead."""

    @property
    def lost(self) -> TrilaneError | None:
        """Why it is no longer ours; None while it is, as far as is known."""
        ...

    def close(self) -> None:
        """Gives it back."""
        ...


class Transaction(Protocol):
    """One atomic change of one region; it reads what it has written so far.

    Each space must lie in the region of the writer, else DefinitionError. Writers of parts drop no space they share.
    """

    def get(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None for a key without one."""
        ...

    def put(self, space: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Writes values under keys, in any order; of a repeated key the last value counts.

        Raises ContractError for a key longer than `max_key_bytes` of the store; let it end the transaction,
        as part of the items may be written.
        """
        ...

    def delete(self, space: str, keys: Iterable[bytes]) -> None:
        """Removes the keys that are there."""
        ...

    def scan(self, space: str, first: bytes = b"", last: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values in order of key, from `first` on, before `last`. Write nothing while it runs."""
        ...

    def drop(self, space: str) -> None:
        """Removes all keys of a space."""
        ...


class Writer(Protocol):
    """The one writer of a region, or of a part of it, in one thread."""

    @property
    def region(self) -> str:
        """The region that it writes."""
        ...

    @property
    def atomic(self) -> bool:
        """Whether a transaction is written whole or not at all."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A block that commits at its end, and changes nothing if it raises.

        Raises UnavailableError if the store is full or away, ConflictError if another process took the part over or
        the store lost what it held. After an error of the commit itself, what was believed of the region must be read
        again with a new writer.
        """
        ...

    def close(self) -> None:
        """Lets another process write it."""
        ...


class OnlineStore(Protocol):
    """Values by space and key."""

    @property
    def atomic(self) -> bool:
        """Whether a transaction is written, and seen, whole or not at all."""
        ...

    @property
    def max_key_bytes(self) -> int:
        """The longest key that can be put."""
        ...

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        """For each (space, keys), the value of each key, in order; None for a key without one.

        All that lies in one region comes from one snapshot. A region that nobody has written yet is empty. `within`:
        seconds after which the answer is worth nothing; a store that can wait waits no longer and raises
        UnavailableError, and no answer that comes later is ever taken for that of another read.
        """
        ...

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a space in order of key, from one snapshot that it holds until closed."""
        ...

    def writer(self, region: str, part: str = "", *, holder: str = "") -> Writer:
        """The writer of `region`, or of one `part` of it, which is a lease of the group `region`; `holder`: our name.

        Raises SetupError, naming the holder, if any process has it already.
        """
        ...

    def lease(self, group: str, name: str, *, holder: str = "") -> Lease:
        """Takes the name in a group of its own. Raises SetupError, naming the holder, if any process has it already."""
        ...

    def holders(self, group: str) -> dict[str, Holder]:
        """Who has the names of a group, or the parts of a region, now; those that nobody has are left out."""
        ...

    def close(self) -> None:
        """Gives back files and memory; neither the store nor its writers must be used afterwards."""
        ...
