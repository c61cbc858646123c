"""What was asked for last stays, as far as there is room; what is pinned always does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.residency import Residency


def test_the_longest_unasked_goes_first() -> None:
    room = Residency[str](3)
    assert room.add("a", 1, pinned=False) == room.add("b", 1, pinned=False) == room.add("c", 1, pinned=False) == []
    room.asked("a")
    assert room.add("d", 2, pinned=False) == ["b", "c"]
    assert room.taken == 3


def test_a_model_loaded_anew_counts_once() -> None:
    room = Residency[str](10)
    room.add("a", 4, pinned=False)
    assert room.add("a", 9, pinned=False) == []
    assert room.taken == 9
    room.remove("a")
    room.remove("a")
    assert room.taken == 0


STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.booleans(), st.booleans()), max_size=40)


@given(STEPS)
def test_pinned_ones_and_the_newest_stay_and_the_rest_fits(steps: list[tuple[str, int, bool, bool]]) -> None:
    room, there = Residency[str](10), dict[str, tuple[int, bool]]()
    for name, size, pinned, load in steps:
        if not load:
            room.asked(name)
            continue
        there[name] = size, pinned
        for gone in room.add(name, size, pinned=pinned):
            assert gone != name
            assert not there.pop(gone)[1]
        assert room.taken == sum(size for size, _ in there.values())
        kept = [(one, size) for one, (size, stays) in there.items() if not stays and one != name]
        assert room.taken <= 10 or not kept
