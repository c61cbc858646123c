"""What serving could see at an instant: how far a nearline lane had come, and which batch version answered.

It is replayed from what was recorded while serving ran: when each micro-batch became readable, when each version landed
and what it had seen. Where nothing was recorded (history from before the lane ran, a stretch whose records were lost),
what is known is replayed: the arrival of each event, and the declared landing.

Law: at the instants that were recorded, ages, events and versions are those that serving saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Ints
from trilane.features.view import View
from trilane.lanes.batch.landings import Landing, kept_landings
from trilane.lanes.visibility import RECORD, kept_visibility
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Warehouse
from trilane.stores.online.versions import KEPT

__all__ = ["NEVER", "LaneSight", "Lagging", "VersionSight", "answering"]

NEVER = 1 << 62  # later than any instant

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LaneSight:
    """How far a nearline lane had come, by partition; of each, its records, cut where some are missing."""

    partitions: Sequence[Sequence[npt.NDArray[np.void]]]

    @staticmethod
    def of(warehouse: Warehouse, source: EventSource) -> LaneSight:
        """What the warehouse has kept."""
        return LaneSight([kept_visibility(warehouse, source, partition) for partition in range(source.partitions)])

    def known(self, instants: Ints) -> Bools:
        """At which instants it was recorded how far all partitions had come."""
        known = np.ones(len(instants), bool)
        for parts in self.partitions:
            begins = np.array([part["at"][0] for part in parts], np.int64)
            ends = np.array([part["last"][-1] for part in parts[:-1]] + [NEVER], np.int64)
            place = np.searchsorted(begins, instants, "right") - 1
            known &= (place >= 0) & (instants <= ends[np.maximum(place, 0)])
        return known

    def ages(self, instants: Ints) -> Ints:
        """How far the lane was behind, in microseconds; 0 where that is not known."""
        ages = np.zeros(len(instants), np.int64)
        for parts in self.partitions:
            records = _joined(parts)
            if not len(records):
                continue
            place = np.searchsorted(np.maximum.accumulate(records["at"]), instants, "right") - 1
            found = records[np.maximum(place, 0)]
            # Within a stretch the lane said again and again that it had caught up.
            age = np.where(instants >= found["last"], instants - found["caught_up"], 0)
            ages = np.maximum(ages, np.where(place >= 0, age, 0))
        return np.where(self.known(instants), ages, 0)

    def ends(self, partition: int, instants: Ints) -> Ints:
        """Before which offset the lane had applied the events of a partition; 0 where that is not known."""
        records = _joined(self.partitions[partition])
        ends = np.append(np.maximum.accumulate(records["end"]), 0)  # at -1: before the first record
        return np.asarray(ends[np.searchsorted(np.maximum.accumulate(records["at"]), instants, "right") - 1], np.int64)

    def visible(self, partitions: Ints, offsets: Ints, times: Ints) -> Ints:
        """From when on each event could be read: as soon as its batch was committed and its time had come."""
        answer = np.full(len(offsets), NEVER)
        for number, parts in enumerate(self.partitions):
            records = _joined(parts)
            mine = slice(None) if len(self.partitions) == 1 else np.flatnonzero(partitions == number)
            ends, moments = (np.maximum.accumulate(records[name]) for name in ("end", "moment"))
            place = np.searchsorted(ends, offsets[mine], "right")
            early = np.flatnonzero(times[mine] >= np.append(moments, NEVER)[place])  # few: they waited for their time
            place[early] = np.searchsorted(moments, times[mine][early], "right")
            answer[mine] = np.append(np.maximum.accumulate(records["at"]), NEVER)[place]
        return np.asarray(np.maximum(answer, times + 1), np.int64)


def _joined(parts: Sequence[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    return np.concatenate(parts) if parts else np.zeros(0, RECORD)


@dataclass(frozen=True, slots=True)
class Lagging:
    """A lane that is as far behind as one pleases: `lags` microseconds at each row. A nearline lane then has what had
    happened so much earlier, and a batch view answers with the version that it should have answered with then.
    """

    lags: Ints


@dataclass(frozen=True, slots=True)
class VersionSight:
    """Which landing of a batch view answered from each of `moments` on; -1: none."""

    view: View
    landings: Sequence[Landing]
    moments: Ints
    answering: Ints

    @staticmethod
    def of(warehouse: Warehouse, view: View) -> VersionSight:
        """What the warehouse has kept."""
        landings = kept_landings(warehouse, view)
        moments = sorted({at for one in landings for at in (one.landed_at, one.visible_from)})
        return VersionSight(view, landings, np.array(moments, np.int64), answering(landings, moments, _latest))

    def landing(self, instants: Ints) -> Ints:
        """The number of the landing that answered at each instant; -1: none did, -2: that was not recorded."""
        place = np.searchsorted(self.moments, instants, "right") - 1
        found = np.append(self.answering, -2)[place]
        first = np.flatnonzero(self.answering >= 0)[:1]  # before the first version answered, nothing is known
        return np.where(place < (first[0] if len(first) else len(self.moments)), -2, found)

    def boundaries(self, instants: Ints, landing: Ints) -> Ints:
        """The boundary of the version that answered, where one did."""
        declared = (instants - self.view.landing) // self.view.schedule * self.view.schedule
        recorded = np.array([one.boundary for one in self.landings] + [0, 0], np.int64)[landing]
        return np.where(landing == -2, declared, recorded)


def _latest(landings: Sequence[Landing], at: int) -> Landing | None:
    return next((one for one in reversed(landings) if one.visible_from <= at), None)


def answering(
    landings: Sequence[Landing], moments: Sequence[int], choose: Callable[[Sequence[Landing], int], Landing | None]
) -> Ints:
    """Of each moment, the landing that the store served, -1 for none; it lists the latest boundaries of all that had
    landed, of which it is to `choose` one.
    """
    listed: dict[int, int] = {}
    found, landed = [], 0
    for at in moments:
        while landed < len(landings) and landings[landed].landed_at <= at:
            listed[landings[landed].boundary] = landed
            landed += 1
            if len(listed) > KEPT:
                del listed[min(listed)]
        chosen = choose([landings[listed[boundary]] for boundary in sorted(listed)], at)
        found.append(-1 if chosen is None else listed[chosen.boundary])
    return np.array(found, np.int64)
