"""Counts of an endpoint's answers against its objectives, in one process.

Laws: counts only grow, so that whoever keeps them reads differences and nobody locks; what a caller did wrong is not
counted; where there are no objectives nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers
from trilane.serving.objective import Objective

__all__ = ["ObjectiveCount"]


class ObjectiveCount:
    """What was counted since the process began, in rows. `deadline`: seconds, of the endpoint."""

    def __init__(self, objectives: Sequence[Objective], *, deadline: float) -> None:
        self.keys = tuple(dict.fromkeys(one.key for one in objectives))
        self.asked = self.made = 0
        self._refused = 0
        limits = {one.key: deadline if one.within is None else one.within / 1e6 for one in objectives}
        self._limits = [(key, limits[key]) for key in self.keys if key.partition(":")[0] == "in_time"]
        self._late = dict.fromkeys((key for key, _ in self._limits), 0)
        self._rungs = [0] * len(RUNGS)

    def answered(self, rows: int, seconds: float) -> None:
        """A request of `rows` rows was answered after `seconds`."""
        self.asked += rows
        for key, limit in self._limits:
            if seconds > limit:
                self._late[key] += rows

    def refused(self, rows: int) -> None:
        """A request of `rows` rows was given no answer."""
        self.asked += rows
        self._refused += rows

    def made_by(self, answers: Answers) -> None:
        """Answers were made together."""
        size = len(answers.scores)
        self.made += size
        if answers.faults or answers.origins:
            for rung, number in enumerate(np.bincount(answers.rungs, minlength=len(RUNGS)).tolist()):
                self._rungs[rung] += number
        else:
            self._rungs[0] += size

    def counts(self) -> dict[str, tuple[int, int]]:
        """By key of the objectives, how many there were, and how many of them were bad."""
        found = {}
        for key in self.keys:
            what = key.partition(":")[0]
            if what == "answered":
                found[key] = self.asked, self._refused
            elif what == "in_time":
                found[key] = self.asked, self._late[key] + self._refused
            else:
                number = self._rungs[RUNGS.index(what)]
                found[key] = self.made, self.made - number if what == RUNGS[0] else number
        return found
