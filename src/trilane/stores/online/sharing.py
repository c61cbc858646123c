"""Workers that share partitions by leases in the online store, where the event log has no groups of its own.

Each worker has a lease under its name and looks who else has one; all compute the same shares from what they see, and
the lease of each partition's writer decides where two saw different things. Laws: shares are even; whoever has a
partition keeps it unless that would make them uneven; a worker that died has no lease, so others get its partitions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping

from trilane.clock import Clock
from trilane.errors import ConflictError, SetupError
from trilane.sources.log.assignment import Place
from trilane.stores.online.protocol import Lease, OnlineStore

__all__ = ["LeaseAssignment", "part_of", "shares"]

_LOOK = 250_000  # microseconds between two looks at the store


def part_of(place: Place) -> str:
    """The name of the part of a region, and so of the lease, in which a partition is written."""
    source, partition = place
    return f"{source}/{partition}"


def shares(
    members: Collection[str], places: Collection[Place], held: Mapping[Place, str]
) -> dict[str, frozenset[Place]]:
    """Who should have what: as even as can be, with the fewest moves from what is `held`."""
    has = {name: sorted(place for place in places if held.get(place) == name) for name in sorted(members)}
    each, more = divmod(len(places), len(has))
    # Those who have the most may have one more: so the most is kept.
    larger = sorted(has, key=lambda name: (-len(has[name]), name))[:more]
    share = {name: own[: each + (name in larger)] for name, own in has.items()}
    kept = {place for own in share.values() for place in own}
    free = iter(sorted(set(places) - kept))
    for name, own in share.items():
        own.extend(itertools.islice(free, each + (name in larger) - len(own)))
    return {name: frozenset(own) for name, own in share.items()}


class LeaseAssignment:
    """Keeps the promise of Assignment for the writers of the parts of `region`.

    Raises SetupError if a worker with this name is alive. `clock` is a steady one: leases do not stand still in
    a replay, nor wait for a wall clock that was set back.
    """

    def __init__(self, store: OnlineStore, region: str, member: str, clock: Clock, *, look: int = _LOOK) -> None:
        self.member = member
        self._store, self._region, self._clock, self._every = store, region, clock, look
        self._group = f"{region}-workers"
        self._lease: Lease = self._join()
        self._looked: int | None = None
        self._seen: frozenset[Place] = frozenset()
        self._wanted: frozenset[Place] = frozenset()

    def turn(self, places: Collection[Place], release: Callable[[Place], None]) -> frozenset[Place]:
        now, asked = self._clock.now(), frozenset(places)
        if self._looked is not None and now - self._looked < self._every and asked == self._seen:
            return self._wanted
        if self._lease.lost is not None:
            raise ConflictError(
                self._lease.lost.what, where=f"worker {self.member!r}", remedy="Give it a name of its own"
            )
        present = {*self._store.holders(self._group), self.member}
        by_part = self._store.holders(self._region)
        held = {place: by_part[part_of(place)].name for place in asked if part_of(place) in by_part}
        wanted = shares(present, asked, held)[self.member]
        for place in sorted(self._wanted - wanted):
            release(place)
        self._looked, self._seen, self._wanted = now, asked, wanted
        return wanted

    def note(self, offsets: Mapping[Place, int]) -> None:
        """Nobody asks here: how far the lanes are is with the rows."""

    def close(self) -> None:
        self._lease.close()

    def _join(self) -> Lease:
        try:
            return self._store.lease(self._group, self.member, holder=self.member)
        except SetupError as error:
            what = f"another worker has the name {self.member!r}: {error.what}"
            remedy = "Give each worker a name of its own: `trilane worker --member NAME`"
            raise SetupError(what, where=error.where, remedy=remedy) from error
