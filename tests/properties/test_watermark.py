"""Verdicts on time depend on the order of the log alone."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trilane.sources.watermark import Watermark

EVENTS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=40)


@given(
    events=EVENTS,
    cuts=st.lists(st.integers(0, 40), max_size=6),
    disorder=st.integers(0, 30),
    future=st.integers(0, 30),
)
def test_any_cut_into_batches_gives_the_verdicts_of_one_by_one(
    events: list[tuple[int, int]], cuts: list[int], disorder: int, future: int
) -> None:
    times = np.array([event for event, _ in events], dtype=np.int64)
    arrivals = np.array([arrival for _, arrival in events], dtype=np.int64)
    mark = Watermark(disorder=disorder, future=future)
    late: list[bool] = []
    from_future: list[bool] = []
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for start, stop in itertools.pairwise(edges):
        verdicts = mark.judge(times[start:stop], arrivals[start:stop])
        late += verdicts.late.tolist()
        from_future += verdicts.from_future.tolist()
        mark = verdicts.after

    latest: int | None = None
    for index, (event, arrival) in enumerate(events):
        ahead = event > arrival + future
        assert from_future[index] == ahead
        assert late[index] == (not ahead and latest is not None and event < latest - disorder)
        if not ahead:
            latest = event if latest is None else max(latest, event)
    assert mark.complete_until == (None if latest is None else latest - disorder)


def test_an_event_before_1970_is_late_and_moves_nothing() -> None:
    verdicts = Watermark(disorder=10, future=0).judge(np.array([-5, 3]), np.array([100, 100]))
    assert verdicts.late.tolist() == [True, False]
    assert verdicts.after.latest == 3
