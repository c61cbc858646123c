"""What is stacked and taken apart again is what went in, whatever the shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.stacking import grouped, joined

PORTIONS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=8)


@given(PORTIONS, st.booleans())
def test_each_portion_gets_its_own_answer(shapes: list[tuple[int, int]], rows: bool) -> None:
    portions = [[np.full(shape, at), np.full(shape[:1], at)] for at, shape in enumerate(shapes)]
    if not rows:
        portions = portions[:1]
    groups = grouped(portions)
    assert sorted(place for group in groups for place in group.places) == list(range(len(portions)))
    answered = joined(portions, groups, [[array * 2 for array in group.inputs] for group in groups], rows=rows)
    start = 0
    for at, portion in enumerate(portions):
        stop = start + (len(portion[0]) if rows else 1)
        wide, narrow = answered.part(start, stop)
        assert wide.shape == portion[0].shape
        assert narrow.shape == portion[1].shape
        assert set(wide.ravel().tolist()) == {2 * at}
        start = stop


def test_portions_of_one_shape_make_one_group() -> None:
    assert len(grouped([[np.ones((2, 3))], [np.ones((5, 3))]])) == 1
    assert len(grouped([[np.ones((2, 3))], [np.ones((2, 4))]])) == 2
