"""Shares are even, complete, and move as little as they can."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trilane.sources.log.assignment import Place
from trilane.stores.online.sharing import part_of, shares

NAMES = st.sampled_from("abcdefg")
MEMBERS = st.sets(NAMES, min_size=1)
PLACES = st.sets(st.tuples(st.sampled_from(["orders", "visits"]), st.integers(0, 12)))


@given(MEMBERS, PLACES, st.data())
def test_shares_are_even_and_complete_and_keep_all_that_can_be_kept(
    members: set[str], places: set[Place], data: st.DataObject
) -> None:
    held = data.draw(st.dictionaries(st.sampled_from(sorted(places)), NAMES) if places else st.just({}))
    found = shares(members, places, held)
    assert set(found) == members
    assert sorted(place for own in found.values() for place in own) == sorted(places)
    sizes = [len(own) for own in found.values()]
    assert max(sizes) - min(sizes) <= 1
    each, more = divmod(len(places), len(members))
    had = Counter(name for name in held.values() if name in members)
    best = sorted((min(had[name], each + 1) - min(had[name], each) for name in members), reverse=True)[:more]
    most = sum(min(had[name], each) for name in members) + sum(best)
    assert sum(held.get(place) == name for name, own in found.items() for place in own) == most


@given(MEMBERS, PLACES)
def test_what_is_shared_stays_as_it_is(members: set[str], places: set[Place]) -> None:
    found = shares(members, places, {})
    held = {place: name for name, own in found.items() for place in own}
    assert shares(members, places, held) == found


def test_a_partition_has_a_name_of_its_own() -> None:
    assert part_of(("orders", 3)) == "orders/3"
