"""The verdicts of a source's rules on a table of its events, the same in every lane.

Law: a verdict depends on the event alone. A source without rules is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.sources.event import EventSource
from trilane.sources.expression import INPUT
from trilane.sources.rule import Rule, is_released, verdicts_sql
from trilane.stores.offline.protocol import MicroBatch

__all__ = ["Judgement", "judge"]

_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judgement:
    """For each row: whether rules keep it out (`broken`), the number of the first that does (`first`, -1: none), and
    whether it was released from quarantine; `warned`: the rows that break a rule which only warns, by its name.
    """

    broken: _Bools
    first: npt.NDArray[np.int64]
    released: _Bools
    warned: dict[str, _Bools]


def judge(source: EventSource, table: pa.Table, text_of: Callable[[int], bytes], engine: MicroBatch) -> Judgement:
    """Judges rows of events that keep the contract; `text_of(row)` is an event as it came."""
    rows = table.num_rows
    first, released = np.full(rows, -1, np.int64), np.zeros(rows, bool)
    if not source.rules or not rows:
        return Judgement(first >= 0, first, released, {})
    found = engine.run(verdicts_sql(source.rules, INPUT), table.select([field.name for field in source.fields]))
    masks = [(rule, _mask(found, number)) for number, rule in enumerate(source.rules)]
    aside = [mask for rule, mask in masks if rule.action == "quarantine"]
    if aside:
        for row in np.flatnonzero(np.logical_or.reduce(aside)).tolist():
            released[row] = is_released(text_of(row))
    for number in reversed(range(len(masks))):
        rule, mask = masks[number]
        first[mask & _keeps_out(rule, released)] = number
    warned = {rule.name: mask for rule, mask in masks if rule.action == "warn" and mask.any()}
    return Judgement(first >= 0, first, released, warned)


def _keeps_out(rule: Rule, released: _Bools) -> _Bools:
    if rule.action == "quarantine":
        return ~released
    return np.full(len(released), rule.action == "reject")


def _mask(found: pa.Table, number: int) -> _Bools:
    return np.asarray(found.column(number).to_numpy(), bool)
