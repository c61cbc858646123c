"""Which views can follow a source whose rows are corrected and taken back.

Law: a nearline view keeps states that can be turned round (see `trilane.features.retraction`), or is refused when it is
declared, with the reason and the remedy; a batch view keeps anything, as it is computed from the rows that are left.
"""

from __future__ import annotations

from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.view import View
from trilane.sources.event import EventSource

__all__ = ["can_take_back", "check_changes"]

_SUMS = ("count", "sum", "mean", "variance", "variance_sample", "stddev", "stddev_sample", "skew", "kurtosis")
_DECAYS = ("decayed_count", "decayed_sum", "decayed_mean")


def can_take_back(aggregation: Aggregation) -> bool:
    """Whether rows can be taken back out of what the aggregation keeps."""
    if aggregation.over:
        return all(can_take_back(part) for part in aggregation.over)
    return aggregation.op in (*_SUMS, *_DECAYS)


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
