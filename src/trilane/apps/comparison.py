"""Two versions of a view side by side: the values that each would serve now for the same keys.

Laws: both are read from the stores as of one instant, without their cascades; the keys are those of the archive, the
hottest and a sample by hash, so that the same keys are taken again; features are matched by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trilane.apps.filling import unfilled
from trilane.apps.project import Project
from trilane.errors import ConflictError, DefinitionError
from trilane.features.algebra import Floats
from trilane.features.plan import FeaturePlan
from trilane.features.transform import INPUT
from trilane.features.view import View, entity_of
from trilane.serving.reading import Asked, FeatureReader
from trilane.stores.offline.protocol import quoted, relation_sql

__all__ = ["Comparison", "Difference", "compare", "versions_of"]

_PORTION = 1_024
_WORST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One feature: the share of keys with equal values, and how far the others are apart.

    `mean`, `median`, `p99` of the absolute, `relative_*` of the difference relative to the larger value (0 to 2), over
    keys that both have; `disagreement` is the mean of the relative one over all keys, 1 where only one has a value.
    `worst`: the keys with the largest, as (key, old, new).
    """

    feature: str
    equal: float
    only_old: int
    only_new: int
    mean: float
    median: float
    p99: float
    relative_mean: float
    relative_median: float
    relative_p99: float
    disagreement: float
    worst: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`old` and `new` version of a view over `keys` keys at an instant; features that only one has are named."""

    view: str
    old: str
    new: str
    at: int
    keys: int
    differences: tuple[Difference, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    @property
    def disagreement(self) -> float:
        """That of the feature with the largest."""
        return max((one.disagreement for one in self.differences), default=0.0)


def versions_of(project: Project, view: str) -> list[View]:
    """The versions of a stored view that are kept: the applied one first, then what answers. Raises DefinitionError."""
    live = project.live_views()
    applied = project.definitions.views.get(view)
    found = [one for one in live.values() if one.name == view and one.lane != "request"]
    if not found:
        known = ", ".join(sorted({one.name for one in live.values() if one.lane != "request"}))
        raise DefinitionError(f"there is no stored view {view!r}", where=view, remedy=f"Views: {known}", file="")
    answering, present = project.answering_views(), applied.space if applied else ""
    return sorted(found, key=lambda one: (one.space != present, one.space not in answering))


def compare(
    project: Project, view: str, *, version: str | None = None, keys: int = 1_000, at: int | None = None
) -> Comparison:
    """Compares the applied version of `view` with another: the one that answers, or the one that begins with `version`.

    Raises ConflictError if there is no other, or one is not filled; DefinitionError if there is no such view.
    """
    new, *others = versions_of(project, view)
    others = [one for one in others if version is None or one.version.startswith(version)]
    if not others:
        what = f"{new.name}@{new.version[:8]} is its only version" if version is None else f"no version {version} of it"
        raise ConflictError(f"{what} that is kept", where=view, remedy="Apply a change of it first")
    old = others[0]
    waits = unfilled(project, [old, new])
    if waits:
        what = "; ".join(f"{one.view}@{one.version[:8]} is {one.share:.0%} filled" for one in waits)
        raise ConflictError(what, where=view, remedy="Wait until `trilane status` shows both filled")
    now = project.clock.now() if at is None else at
    chosen = _keys(project, new, keys)
    before, after = _values(project, old, chosen, now), _values(project, new, chosen, now)
    common = [name for name in old.feature_names if name in new.feature_names]
    return Comparison(
        view=view,
        old=old.version,
        new=new.version,
        at=now,
        keys=chosen.size,
        differences=tuple(
            _difference(
                name,
                _labels(chosen),
                before[:, old.feature_names.index(name)],
                after[:, new.feature_names.index(name)],
            )
            for name in common
        ),
        only_old=tuple(name for name in old.feature_names if name not in common),
        only_new=tuple(name for name in new.feature_names if name not in common),
    )


def _keys(project: Project, view: View, number: int) -> Asked:
    """The `number // 10` keys with the most events in the archive, and others by hash."""
    from trilane.apps.batch_job import archive_sources

    archive_sources(project, [view])
    source, names = view.source, entity_of(view).key_names
    if source is None:
        raise DefinitionError("a request view has no keys", where=view.name)
    relation, keys = relation_sql(project.warehouse, source, project.config.root), quoted(names)
    present = " AND ".join(f"{quoted([name])} IS NOT NULL" for name in names)
    with project.warehouse.connect() as connection:
        connection.run(
            f"CREATE TABLE counted AS WITH {INPUT} AS (SELECT * FROM {relation}) "
            f"SELECT {keys}, count(*) AS _events, hash({keys}) AS _hash "
            f"FROM ({view.sql}) WHERE {present} GROUP BY {keys}"
        )
        table = connection.query(
            f"SELECT {keys} FROM (SELECT *, row_number() OVER (ORDER BY _events DESC, _hash) AS _place FROM counted) "
            f"ORDER BY _place > {number // 10}, _hash LIMIT {number}"
        ).to_arrow_table()
    return Asked({name: table.column(name).to_pylist() for name in names}, table.num_rows)


def _values(project: Project, view: View, asked: Asked, now: int) -> Floats:
    bare = replace(view, fallback=())  # what it has itself; its space stays the same
    reader = FeatureReader(FeaturePlan.of([bare], where=view.name), project.online, cache=0)
    starts = range(0, len(asked), _PORTION)
    parts = [reader.read(asked.cut(start, min(start + _PORTION, len(asked))), now).values for start in starts]
    return np.concatenate(parts) if parts else np.zeros((0, len(view.features)))


def _labels(asked: Asked) -> list[str]:
    columns: Mapping[str, Sequence[object]] = asked.columns
    return [", ".join(map(str, row)) for row in zip(*columns.values(), strict=True)]


def _difference(name: str, keys: Sequence[str], old: Floats, new: Floats) -> Difference:
    neither, only_new, only_old = np.isnan(old) & np.isnan(new), np.isnan(old), np.isnan(new)
    both = ~np.isnan(old) & ~np.isnan(new)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.where(old == new, 0.0, np.abs(old - new))
        size = np.maximum(np.abs(old), np.abs(new))
        relative = np.where(apart == 0, 0.0, np.minimum(np.nan_to_num(apart / size, nan=2.0, posinf=2.0), 2.0))
    total = np.where(neither, 0.0, np.where(both, relative, 1.0))
    order = np.argsort(-total, kind="stable")[:_WORST]
    return Difference(
        feature=name,
        equal=float((neither | (both & (apart == 0))).mean()) if len(old) else 1.0,
        only_old=int((only_old & ~neither).sum()),
        only_new=int((only_new & ~neither).sum()),
        **_spread(apart[both], ""),
        **_spread(relative[both], "relative_"),
        disagreement=float(total.mean()) if len(old) else 0.0,
        worst=tuple((keys[i], float(old[i]), float(new[i])) for i in order.tolist() if total[i] > 0),
    )


def _spread(values: Floats, prefix: str) -> dict[str, float]:
    if not len(values):
        return {f"{prefix}{name}": 0.0 for name in ("mean", "median", "p99")}
    found = (values.mean(), np.median(values), np.quantile(values, 0.99, method="higher"))
    return dict(zip((f"{prefix}mean", f"{prefix}median", f"{prefix}p99"), map(float, found), strict=True))
