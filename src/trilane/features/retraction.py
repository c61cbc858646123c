"""Taking rows back: which aggregations can, and how a state is turned round.

Law: the states that can are commutative groups: merging a state and its inverse gives the state of no events, bit for
bit, and merging in any order gives the same; so of rows that are added and taken back in any order there remains what
was never taken back. Least values, sets and sketches cannot: they forget what they would have to return to.
"""

from __future__ import annotations

import numpy as np

from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.algebra import Columns, Ints, WideSum
from trilane.features.bags import HopSums
from trilane.features.operation import kept_of
from trilane.features.ragged import Ragged
from trilane.features.view import View
from trilane.sources.event import EventSource

__all__ = ["can_take_back", "check_changes", "signed"]


def can_take_back(aggregation: Aggregation) -> bool:
    """Whether rows can be taken back out of what the aggregation keeps."""
    if aggregation.over:
        return all(can_take_back(part) for part in aggregation.over)
    return all(entry.is_added or isinstance(entry.state, HopSums) for entry in kept_of(aggregation, "f8"))


def check_changes(view: View) -> None:
    """Raises DefinitionError if a view cannot follow the changes of its source."""
    source, where = view.source, f"view {view.name!r}"
    if not isinstance(source, EventSource) or source.changes is None:
        return
    for name in source.changes.own_fields:
        if name in view.reads:
            raise DefinitionError(
                f"the transform or a feature reads {name!r}, which speaks of the change and not of the row",
                where=where,
                remedy="A row and its taking back must look alike: read only what the row keeps",
            )
    for feature in view.features if view.lane == "nearline" else ():
        if feature.aggregation is not None and not can_take_back(feature.aggregation):
            raise DefinitionError(
                f"{feature.name!r}: {feature.aggregation.op} cannot take a row back, as its state has forgotten what it"
                f" would return to, and {source.name!r} has changes",
                where=where,
                remedy="Declare the feature in a batch view, which computes it from the rows that are left; nearline "
                "views take count, sum, mean, variance, stddev, skew, kurtosis, histogram, decays, rate and ratio",
            )


def signed(state: Columns | Ragged, signs: Ints) -> Columns | Ragged:
    """Lifted states of single rows, those with sign -1 turned round."""
    if not isinstance(state, Ragged):
        return tuple(part * signs for part in state)
    hops, number, *limbs = state.parts
    sign = signs[state.of]
    turned = WideSum().pack(tuple(limb.astype(np.int64) * sign for limb in limbs))
    parts = (hops, number * sign, *(part.astype(limb.dtype) for part, limb in zip(turned, limbs, strict=True)))
    return Ragged(state.size, state.of, parts)
