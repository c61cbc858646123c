"""An id counts once while it is remembered, however many come, however long, in whatever batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from trilane.lanes.seen import Seen, fingerprints

DISORDER = 100
IDS = st.text(max_size=3) | st.text("ab", min_size=60, max_size=70) | st.just("x" * 200)


def _prints(ids: list[str]) -> np.ndarray:
    return fingerprints(pa.array(ids, pa.string()))


@given(st.lists(IDS, max_size=20), st.lists(IDS, max_size=20))
def test_a_print_depends_on_its_id_alone(ids: list[str], others: list[str]) -> None:
    together = _prints([*others, *ids])[len(others) :]
    assert together.tolist() == [_prints([one])[0].tolist() for one in ids]
    assert len({tuple(row) for row in together.tolist()}) == len(set(ids))


def test_the_prints_of_ids_that_differ_in_little_differ() -> None:
    ids = [f"order-{number}" for number in range(50_000)] + ["", "\0", "\0\0", "a", "a\0"]
    prints = _prints(ids)
    assert len(np.unique(prints[:, 0])) == len(np.unique(prints[:, 1])) == len(ids)
    numbers = fingerprints(pa.array(range(-500, 500), pa.int64()))
    assert len(np.unique(numbers[:, 0])) == len(np.unique(numbers[:, 1])) == 1_000


@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=12), max_size=40))
def test_ids_repeat_as_in_a_plain_set_of_all(batches: list[list[tuple[int, bool]]]) -> None:
    seen, plain = Seen(DISORDER), set[int]()
    for number, batch in enumerate(batches):
        ids = [one for one, _ in batch]
        candidates = np.array([able for _, able in batch], bool)
        prints = fingerprints(pa.array(ids, pa.int64()))
        repeated = seen.repeated(prints, candidates)
        expected = []
        for one, able in batch:
            expected.append(able and one in plain)
            plain |= {one} if able else set()
        assert repeated.tolist() == expected
        seen.add(number.to_bytes(8, "big"), 0, prints[candidates & ~repeated])


def test_two_ids_that_share_half_of_a_print_are_two() -> None:
    prints = np.array([[5, 1], [5, 2], [5, 3]], np.uint64)
    seen = Seen(DISORDER)
    assert not seen.repeated(prints, np.ones(3, bool)).any()
    seen.add(b"1", 0, prints[[0, 2]])
    assert seen.repeated(prints, np.ones(3, bool)).tolist() == [True, False, True]


def test_what_is_stored_is_remembered_by_the_next_process() -> None:
    rows = [(bytes([n]), Seen.row(n * 10, _prints([f"a{n}", f"b{n}"]))) for n in range(9)]
    seen = Seen.stored(rows, DISORDER)
    assert seen.repeated(_prints(["a0", "b8", "c3"]), np.ones(3, bool)).tolist() == [True, True, False]
    assert seen.expired(25) == [bytes([n]) for n in range(3)]


def test_ids_are_forgotten_when_nothing_can_repeat_them_and_the_memory_stays_bounded() -> None:
    seen = Seen(DISORDER)
    for number in range(400):
        seen.add(number.to_bytes(8, "big"), number * 10, _prints([f"{number}-{i}" for i in range(50)]))
        horizon = number * 10 - DISORDER
        expired = seen.expired(horizon)
        seen.forget(expired, horizon)
        assert seen.repeated(_prints([f"{number - 5}-7"]), np.ones(1, bool))[0] == (number >= 5)
    assert sum(len(run.words) for run in seen._runs) < 50 * 2 * DISORDER / 10
    assert len(seen.expired(10**9)) <= DISORDER / 10 + 1
