"""Questions put together into one batch of tensors, and its answer taken apart again.

Law: only what has the same lengths on all axes but the first is stacked; the rest of a batch is asked group by group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Answered", "Group", "Portion", "grouped", "joined"]

Portion: TypeAlias = Sequence[npt.NDArray[Any]]
"""The inputs of one question, in the model's order."""


class Group(msgspec.Struct, frozen=True):
    """Portions of the batch, by place, whose inputs are stacked in `inputs`."""

    places: Sequence[int]
    inputs: list[npt.NDArray[Any]]


class Answered(msgspec.Struct, frozen=True):
    """The outputs of a batch: stacked, or by the first row of each portion where they could not be."""

    stacked: list[npt.NDArray[Any]] | None
    apart: dict[int, list[npt.NDArray[Any]]]

    def part(self, start: int, stop: int) -> list[npt.NDArray[Any]]:
        """The outputs of the portion of these rows."""
        if self.stacked is None:
            return self.apart[start]
        return [array[start:stop] for array in self.stacked]


def grouped(portions: Sequence[Portion]) -> list[Group]:
    """The portions in groups that can be stacked."""
    if len(portions) == 1:
        return [Group((0,), list(portions[0]))]
    places: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place, portion in enumerate(portions):
        places.setdefault(tuple(array.shape[1:] for array in portion), []).append(place)
    return [Group(found, _stacked([portions[place] for place in found])) for found in places.values()]


def joined(
    portions: Sequence[Portion], groups: Sequence[Group], answers: Sequence[list[npt.NDArray[Any]]], *, rows: bool
) -> Answered:
    """The answers of the groups as that of the batch; `rows`: whether first axes count them, else each is one."""
    if len(groups) == 1 and rows:
        return Answered(answers[0], {})
    starts, at = [], 0
    for portion in portions:
        starts.append(at)
        at += len(portion[0]) if rows else 1
    apart = {}
    for group, outputs in zip(groups, answers, strict=True):
        first = 0
        for place in group.places:
            count = len(portions[place][0]) if rows else 1
            whole = outputs if not rows else [array[first : first + count] for array in outputs]
            apart[starts[place]], first = whole, first + count
    return Answered(None, apart)


def _stacked(portions: Sequence[Portion]) -> list[npt.NDArray[Any]]:
    return [np.concatenate(arrays) for arrays in zip(*portions, strict=True)]
