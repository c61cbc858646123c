"""What comes together by key on a cluster has the bits of what is computed in one place, however it was cut."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.orders import VIEWS, InProcess, digest, fill, rows_of
from trilane.errors import DefinitionError
from trilane.features.tile import TileLayout
from trilane.features.view import View, bare
from trilane.stores.offline.protocol import Warehouse


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    orders=st.sampled_from([0, 2, 60, 600]),
    partitions=st.integers(1, 3),
    batch=st.sampled_from([1, 7, 1_000]),
    size=st.sampled_from([1, 20, 10_000]),
)
def test_gathered_states_and_answers_have_the_bits_of_one_place(
    seed: int, orders: int, partitions: int, batch: int, size: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warehouse = fill(folder, seed=seed, orders=orders, asks=40)
        cluster = cast("Warehouse", InProcess(warehouse, partitions=partitions, batch=batch))
        for view in VIEWS:
            expected = rows_of(folder, warehouse, view)
            assert rows_of(folder, cluster, view, slice_events=size) == expected
        assert digest(folder, cluster, slice_rows=size) == digest(folder, warehouse)


def test_the_same_orders_are_seen_by_every_view(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, seed=1)
    assert all(len([row for row in rows_of(tmp_path, warehouse, view) if row]) >= 3 for view in VIEWS)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_bare_view_computes_the_same_and_can_be_sent_away(view: View) -> None:
    sent = pickle.loads(pickle.dumps(bare(view)))
    assert TileLayout(sent).record == TileLayout(view).record
    with pytest.raises(DefinitionError, match="is not here"):
        sent(None)
