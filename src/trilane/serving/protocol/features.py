"""The answers to feature reads in JSON and MessagePack: names once, values row by row or column by column.

Laws: nothing that a reading holds is lost, and what is the same for all is said once: statuses where a value is not
fresh, the age of a view, and of a single value where it differs. A share of rows that were read together is answered
as if it had been alone; encoding never fails on a reading.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import FRESH, STATUSES
from trilane.features.plan import FeaturePlan
from trilane.serving.reading import Fault, Reading

__all__ = ["FeatureFormat", "reasons", "share_of"]

_json = functools.partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)
_msgpack = msgspec.msgpack.Encoder().encode
_FRESH: dict[str, list[str]] = {}


def share_of(reading: Reading, start: int, stop: int) -> Reading:
    """Rows `start` up to `stop` of a reading, with the faults that concern them."""
    if start == 0 and stop == len(reading.values):
        return reading
    faults = []
    for fault in reading.faults:
        if fault.rows is None:
            faults.append(fault)
        elif mine := frozenset(row - start for row in fault.rows if start <= row < stop):
            faults.append(Fault(fault.reason, mine))
    own = slice(start, stop)
    return Reading(reading.values[own], reading.statuses[own], reading.ages[own], tuple(faults))


def reasons(faults: Iterable[Fault]) -> list[str]:
    """Why values are worse than promised. An author's error may say anything, also what UTF-8 cannot."""
    return [fault.reason.encode(errors="backslashreplace").decode() for fault in faults]


class FeatureFormat:
    """Encodes the readings of one plan, keeping the parts that repeat from answer to answer."""

    def __init__(self, plan: FeaturePlan) -> None:
        self.names = plan.names
        views = [column.view.name for column in plan.columns]
        self._views = {view: np.array([i for i, one in enumerate(views) if one == view]) for view in views}
        self._leaders = np.array([int(self._views[view][0]) for view in views])
        self._names = orjson.Fragment(_json(self.names))
        self._statuses = functools.lru_cache(4_096)(self._named_statuses)
        self._facts = functools.lru_cache(64)(self._named_facts)

    def json(self, reading: Reading) -> bytes:
        """The answer in JSON, row by row."""
        # orjson takes rows of the matrix as they are, and writes null for what is no finite number.
        rows, facts = self._rows(reading, np.ascontiguousarray(reading.values))
        return _json({"names": self._names, "rows": rows, **facts})

    def msgpack(self, reading: Reading) -> bytes:
        """The same in MessagePack."""
        rows, facts = self._rows(reading, _with_nulls(reading.values))
        return _msgpack({"names": self.names, "rows": rows, **facts})

    def columns(self, reading: Reading, *, packed: bool = False) -> bytes:
        """The answer column by column, in JSON or MessagePack."""
        values: Iterable[object] = _with_nulls(reading.values.T) if packed else np.ascontiguousarray(reading.values.T)
        ages = self._usual(reading.ages)
        facts = self._named_facts(ages.tobytes(), reading.faults)
        for column in np.flatnonzero((reading.ages != ages).any(axis=0)).tolist():
            facts["ages_s"][self.names[column]] = (reading.ages[:, column] / 1e6).tolist()
        statuses: dict[str, dict[str, list[int]]] = {}
        for column in np.flatnonzero(reading.statuses.any(axis=0)).tolist():
            codes = reading.statuses[:, column]
            statuses[self.names[column]] = {
                STATUSES[code]: np.flatnonzero(codes == code).tolist() for code in np.unique(codes).tolist() if code
            }
        answer = {"columns": dict(zip(self.names, values, strict=True)), "statuses": statuses, **facts}
        return _msgpack(answer) if packed else _json(answer)

    def _rows(self, reading: Reading, values: Iterable[object]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """A mapping for each row, and what is told of all of them."""
        usual = self._usual(reading.ages)
        facts = self._facts(usual.tobytes(), reading.faults)
        if not reading.statuses.any():
            rows: list[dict[str, Any]] = [{"values": row, "statuses": _FRESH} for row in values]
        else:
            codes = [row.tobytes() for row in reading.statuses]
            rows = [{"values": v, "statuses": self._statuses(c)} for v, c in zip(values, codes, strict=True)]
        own = reading.ages != usual
        for row in np.flatnonzero(own.any(axis=1)).tolist() if own.any() else ():
            columns = np.flatnonzero(own[row]).tolist()
            rows[row]["ages_s"] = {self.names[column]: float(reading.ages[row, column]) / 1e6 for column in columns}
        return rows, facts

    def _usual(self, ages: Ints) -> Ints:
        """The age of most values of each view, for each column."""
        lead: Ints = ages[0]
        if (lead == lead[self._leaders]).all() and (ages == lead).all():
            return lead
        usual = np.empty(len(self.names), np.int64)
        for columns in self._views.values():
            found, counts = np.unique(ages[:, columns], return_counts=True)
            usual[columns] = found[np.argmax(counts)]
        return usual

    def _named_facts(self, ages: bytes, faults: tuple[Fault, ...]) -> dict[str, Any]:
        """Ages in seconds by view, and the reasons of faults."""
        own = np.frombuffer(ages, np.int64)
        by_view = {view: float(own[columns[0]]) / 1e6 for view, columns in self._views.items()}
        return {"ages_s": by_view, "why": reasons(faults)}

    def _named_statuses(self, codes: bytes) -> dict[str, list[str]]:
        worse: dict[str, list[str]] = {}
        for name, code in zip(self.names, codes, strict=True):
            if code != FRESH:
                worse.setdefault(STATUSES[code], []).append(name)
        return worse


def _with_nulls(values: Floats) -> list[Any]:
    """As Python lists, with None for what is no finite number."""
    finite = np.isfinite(values)
    plain: npt.NDArray[Any] = values
    if not finite.all():
        plain = values.astype(object)
        plain[~finite] = None
    found: list[Any] = plain.tolist()
    return found
