"""What could not be read yet is in no window: the values equal those of a history that never held it, bit for bit."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.test_point_in_time import (
    ENGINE,
    HOUR,
    MINUTE,
    NEARLINE,
    START,
    STORIES,
    Declare,
    Story,
    same_bits,
    table_of,
)
from trilane.clock import SECOND
from trilane.features import unseen
from trilane.features.columns import entity_codes, event_times, state_columns
from trilane.features.event_windows import EventWindows, windows_of
from trilane.features.tile import Events, TileLayout
from trilane.features.view import entity_of

APART = st.sampled_from([1, 1 << 40])  # how far apart the codes are: of the second, no instant is told by a number
LAGS = (1, SECOND, 5 * SECOND, MINUTE, HOUR, 2**60)


@settings(max_examples=settings().max_examples // 2)
@given(
    declare=NEARLINE, story=STORIES, most=st.sampled_from([0, 2, 5]), pairs=st.sampled_from([3, 1 << 20]), apart=APART
)
def test_windows_without_what_was_unseen_equal_windows_of_what_was_seen(
    declare: Declare, story: Story, most: int, pairs: int, apart: int
) -> None:
    view, chance = declare(), random.Random(story.seed)
    layout = TileLayout(view)
    result = ENGINE.run(view.sql, table_of(story.events()))
    codes, keys = entity_codes(result, entity_of(view))
    known = codes >= 0
    codes, times = codes[known], event_times(result, "at")[known]
    columns = {n: (v[known], ok[known]) for n, (v, ok) in state_columns(result, layout.columns).items()}
    visible = times + np.array([chance.choice(LAGS[: most + 1]) for _ in times], np.int64)
    asked = sorted((chance.randrange(len(keys) + 1), START + chance.randrange(45 * story.grid)) for _ in range(30))
    query, instants = np.array(asked, np.int64).T
    codes, query = codes * apart, query * apart
    before, unseen._PAIRS = unseen._PAIRS, pairs
    try:
        windows = EventWindows(layout, Events(codes, times, columns))
        found = windows.seen_at(query, instants, visible, windows.at(query, instants))
    finally:
        unseen._PAIRS = before
    for row, (code, instant) in enumerate(asked):
        seen = visible <= instant
        events = Events(codes[seen], times[seen], {n: (v[seen], ok[seen]) for n, (v, ok) in columns.items()})
        alone = windows_of(layout, events, np.array([code * apart]), np.array([instant]))
        assert same_bits(found[row], alone[0]), (row, view.feature_names)
