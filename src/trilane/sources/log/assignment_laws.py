"""The laws of an assignment, to be run against any adapter.

Each law takes `open`, which lets a member with the given name join one group, and gives it with what takes a partition:
it returns what gives it back, or raises SetupError as long as another member has it.

A broken law raises AssertionError. Nothing here is decided by time: members take turns until they are settled, and
whoever runs the laws bounds how long that may last.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from trilane.errors import SetupError
from trilane.sources.log.assignment import Assignment, Place

__all__ = ["LAWS", "PLACES", "Law", "Open"]

Take = Callable[[Place], Callable[[], None]]
Open = Callable[[str], tuple[Assignment, Take]]
Law = Callable[[Open], None]

PLACES: tuple[Place, ...] = tuple((source, partition) for source in ("orders", "visits") for partition in range(4))

_PAUSE = 0.005  # between two rounds, so that who waits for a server leaves it the processor


@dataclass
class _Member:
    assignment: Assignment
    take: Take
    held: dict[Place, Callable[[], None]] = field(default_factory=dict)
    wanted: frozenset[Place] = frozenset()
    taken: list[Place] = field(default_factory=list)
    given: list[Place] = field(default_factory=list)

    def turn(self, places: Sequence[Place] = PLACES) -> None:
        self.wanted = self.assignment.turn(places, self._release)
        _expect(set(self.held) <= self.wanted, True, "what is no longer wanted was released")
        for place in self.wanted - set(self.held):
            with contextlib.suppress(SetupError):
                self.held[place] = self.take(place)
                self.taken.append(place)

    def _release(self, place: Place) -> None:
        give_back = self.held.pop(place, None)
        if give_back is not None:
            give_back()
            self.given.append(place)

    def leave(self) -> None:
        for give_back in self.held.values():
            give_back()
        self.held.clear()
        self.assignment.close()


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def _settle(members: Sequence[_Member], places: Sequence[Place] = PLACES) -> None:
    """Lets the members take turns until each partition is one's, and each has its share."""
    fewest, most = len(places) // len(members), -(-len(places) // len(members))
    while True:
        for member in members:
            member.turn(places)
        shares = [len(member.held) for member in members]
        if sum(shares) == len(places) and fewest <= min(shares) and max(shares) <= most:
            held = [place for member in members for place in member.held]
            _expect(sorted(held), sorted(places), "what the members have together")
            return
        time.sleep(_PAUSE)


@contextlib.contextmanager
def _group(open: Open, *names: str) -> Iterator[list[_Member]]:
    members = [_Member(*open(name)) for name in names]
    try:
        yield members
    finally:
        for member in members:
            member.leave()


def one_member_has_everything(open: Open) -> None:
    with _group(open, "ann") as [ann]:
        _settle([ann])
        _expect(ann.assignment.member, "ann", "name")
        _expect(ann.wanted, frozenset(PLACES), "wanted")


def members_share_evenly(open: Open) -> None:
    with _group(open, "ann", "bob", "cleo") as members:
        _settle(members)


def a_newcomer_moves_no_more_than_its_share(open: Open) -> None:
    with _group(open, "ann", "bob") as [ann, bob]:
        _settle([ann, bob])
        before = {place: name for name, member in (("ann", ann), ("bob", bob)) for place in member.held}
        with _group(open, "cleo") as [cleo]:
            _settle([ann, bob, cleo])
            moved = [place for member in (ann, bob) for place in member.held if place not in before]
            _expect(moved, [], "partitions that moved between those who were there")
            kept = [place for member in (ann, bob) for place in member.held]
            _expect(len(kept) >= len(PLACES) - -(-len(PLACES) // 3), True, "those who were there keep the rest")


def what_a_member_leaves_falls_to_the_others(open: Open) -> None:
    with _group(open, "ann", "bob") as [ann, bob]:
        with _group(open, "cleo") as [cleo]:
            _settle([ann, bob, cleo])
        kept = {"ann": set(ann.held), "bob": set(bob.held)}
        _settle([ann, bob])
        _expect(kept["ann"] <= set(ann.held) and kept["bob"] <= set(bob.held), True, "what they had, they keep")


def what_is_moved_is_given_back_first(open: Open) -> None:
    with _group(open, "ann") as [ann]:
        _settle([ann])
        with _group(open, "bob") as [bob]:
            _settle([ann, bob])
            _expect(sorted(ann.given), sorted(bob.taken), "what the newcomer took was given back to it")


def a_source_that_is_new_is_shared_too(open: Open) -> None:
    orders = [place for place in PLACES if place[0] == "orders"]
    with _group(open, "ann", "bob") as members:
        _settle(members, orders)
        _settle(members)
        _settle(members, orders)


LAWS: tuple[Law, ...] = (
    a_newcomer_moves_no_more_than_its_share,
    a_source_that_is_new_is_shared_too,
    members_share_evenly,
    one_member_has_everything,
    what_a_member_leaves_falls_to_the_others,
    what_is_moved_is_given_back_first,
)
