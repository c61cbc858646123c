"""When batch versions really landed: what a training set needs to replay which version answered.

Law: each landing is noted once in the warehouse, however often it is noted; a version says itself when it landed, in
the write that swapped it in, so none is lost while notes are taken before the next load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.features.algebra import Ints
from trilane.features.view import View
from trilane.stores.offline.protocol import Warehouse
from trilane.stores.online.protocol import OnlineStore
from trilane.stores.online.versions import versions

__all__ = ["Landing", "keep_landings", "kept_landings"]


@dataclass(frozen=True, slots=True)
class Landing:
    """The version at `boundary` landed at `landed_at`, to answer from `visible_from` on.

    `ends`: before which offset of each partition it saw events; `final`: whether no other could come.
    """

    boundary: int
    visible_from: int
    landed_at: int
    ends: tuple[int, ...]
    final: bool = True

    def lacking(self, partitions: Ints, offsets: Ints) -> npt.NDArray[np.bool_]:
        """Which events had not been archived when it was computed; of a source of one partition `partitions` is not
        looked at.
        """
        ends = np.array(self.ends, np.int64)
        return np.asarray(offsets >= (ends[0] if len(ends) == 1 else ends[partitions]))


def keep_landings(store: OnlineStore, warehouse: Warehouse, view: View) -> int:
    """Copies the landings of `view` that the warehouse lacks; how many."""
    before = warehouse.kept(_name(view))
    known = set() if before is None else {(row["space"], row["landed_at"]) for row in before.to_pylist()}
    found = [v for v in versions(store, view.landed_as) if v.landed_at and (v.space, v.landed_at) not in known]
    if found:
        names = ("space", "boundary", "visible_from", "landed_at", "ends", "final")
        kinds = (pa.string(), pa.int64(), pa.int64(), pa.int64(), pa.list_(pa.int64()), pa.bool_())
        columns = [
            pa.array([getattr(version, name) for version in found], kind)
            for name, kind in zip(names, kinds, strict=True)
        ]
        warehouse.keep(_name(view), pa.table(columns, names=list(names)))
    return len(found)


def kept_landings(warehouse: Warehouse, view: View) -> list[Landing]:
    """The landings in the warehouse, in the order in which they landed."""
    table = warehouse.kept(_name(view))
    rows = [] if table is None else table.to_pylist()
    found = [
        # None: it was noted before histories were.
        Landing(r["boundary"], r["visible_from"], r["landed_at"], tuple(r["ends"]), r.get("final") is not False)
        for r in rows
    ]
    return sorted(set(found), key=lambda landing: (landing.landed_at, landing.boundary))


def _name(view: View) -> str:
    return f"landings/{view.landed_as}"
