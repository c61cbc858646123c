"""Outcomes: what later proved true, joined to the decisions it is about.

Laws: every decision stays, once and in its order; a decision whose outcome is not known yet gets null; two outcomes
that contradict each other are refused, not chosen between.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from trilane.errors import ContractError

__all__ = ["join"]

_ROW = "__row"


def join(
    decisions: pa.Table,
    outcomes: pa.Table,
    *,
    on: str | Sequence[str],
    outcome: str,
    known_at: str | None = None,
    by: int | None = None,
) -> pa.Table:
    """`decisions` with the column `outcome` of `outcomes` appended.

    `on`: the columns that both have: the decision's id, or the keys it was asked with; null matches nothing.
    `known_at` and `by`: the column of `outcomes` that says when an outcome became known, and the instant up to which
    it counts (microseconds), so that a measurement of last week does not change when it is repeated.
    Raises ContractError where a column is missing, would be there twice, or outcomes contradict each other.
    """
    keys = [on] if isinstance(on, str) else list(on)
    _require(decisions, "decisions", keys)
    _require(outcomes, "outcomes", [*keys, outcome, *([known_at] if known_at else [])])
    if outcome in decisions.column_names:
        raise ContractError(
            f"the decisions already have a column {outcome!r}", where="decisions", remedy="Rename one of the two"
        )
    if known_at is not None and by is not None:
        outcomes = outcomes.filter(pc.less_equal(outcomes[known_at].cast(pa.int64()), by))
    told = _one_per_key(outcomes, keys, outcome)
    numbered = decisions.select(keys).append_column(_ROW, pa.array(range(len(decisions)), pa.int64()))
    found = numbered.join(told, keys, join_type="left outer").sort_by(_ROW)
    return decisions.append_column(outcome, found[outcome])


def _require(table: pa.Table, where: str, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.column_names:
            known = ", ".join(table.column_names)
            raise ContractError(f"there is no column {column!r}", where=where, remedy=f"It has {known}")


def _one_per_key(outcomes: pa.Table, keys: list[str], outcome: str) -> pa.Table:
    """Each known outcome once. Repeated deliveries agree and fall together; contradictions raise."""
    known = outcomes.select([*keys, outcome]).filter(pc.is_valid(outcomes[outcome]))
    told = known.group_by([*keys, outcome]).aggregate([])
    several = told.group_by(keys).aggregate([(outcome, "count")]).filter(pc.field(f"{outcome}_count") > 1)
    if len(several):
        first = {key: several[key][0].as_py() for key in keys}
        raise ContractError(
            f"{len(several)} keys have outcomes that contradict each other, such as {first}",
            where=f"outcomes.{outcome}",
            remedy="Keep the outcome that holds",
        )
    return told
