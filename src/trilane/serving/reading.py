"""Reading the features of many rows at once: one multi-get per phase, vectorised merges, the cascade per value.

Laws: values are what the point-in-time join gives for the same instant, bit for bit, while the lanes keep their
promises; where one does not, each value says how old and how good it is, and no state of a store makes a read fail.
What the store holds is read, and decoded into what the reader keeps, by one caller at a time, in whichever thread;
completing a reading changes nothing that is kept, and so may be done meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from trilane.errors import TrilaneError
from trilane.features.algebra import Array, Floats, Ints
from trilane.features.fallback import MISSING
from trilane.features.history import Past
from trilane.features.plan import FeaturePlan
from trilane.features.request import RowColumns, as_column, compute
from trilane.features.tile import TileLayout
from trilane.features.trait import told, worst_of
from trilane.features.view import View, entity_of, stand_ins
from trilane.lanes.history import HistoryChoice
from trilane.lanes.progress import LANES, lane_key, lane_state
from trilane.lanes.rows import shards_of, unstamp
from trilane.serving.asked import Asked, Keys, Rows
from trilane.serving.cache import CAPACITY, RowCache
from trilane.serving.cascade import Answer, Own, Statuses, cascade
from trilane.serving.guard import GuardedStore, HeldUp
from trilane.sources.event import EventSource
from trilane.stores.online import versions
from trilane.stores.online.protocol import OnlineStore
from trilane.stores.online.versions import Version

__all__ = ["LEAST", "Asked", "Fault", "FeatureReader", "Reading", "Rows", "Stored", "Throttle"]

LEAST = 1e-3
"""Seconds that a store is given at least; less would say nothing of it."""

Stored: TypeAlias = tuple[Mapping[str, Own], Sequence["Fault"]]
"""What the store told for some rows: what each stored view that can answer says, and why none does."""

_Told: TypeAlias = Sequence[Sequence[bytes | None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why values are worse than promised: of all rows, or of those in `rows`.

    `age`: microseconds that the stored `view` (empty: all of them) is behind; infinite if it has no values.
    """

    reason: str
    rows: frozenset[int] | None = None
    view: str = field(default="", compare=False)
    age: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """Values [rows, columns], their statuses, their ages in microseconds, and what made any worse than promised."""

    values: Floats
    statuses: Statuses
    ages: Ints
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Lane:
    """What a stored view can answer with at an instant: its age (None: not at all), and the rows to read.

    `history`: where the rest of its long windows lies; `lack`: why they have no answer.
    """

    age: int | None
    space: str
    history: Version | None = None
    lack: str = ""


@dataclass(frozen=True, slots=True)
class _Wish:
    """Which rows of which views to read: their keys, the store's requests (histories last), and where they lie."""

    views: Sequence[View]
    keys: list[Sequence[bytes]]
    reads: list[tuple[str, Sequence[bytes]]]
    places: list[tuple[str, str, Version | None]]


class Throttle:
    """Logs a fault the 1st, 2nd, 4th, 8th ... time, so that a storm of them does not slow the answers."""

    def __init__(self, name: str) -> None:
        self._log = logging.getLogger(name)
        self._counts: dict[str, int] = {}

    def tell(self, what: str, error: Exception) -> None:
        """Counts a fault of `what`, and logs it if its count is a power of two."""
        self._counts[what] = count = self._counts.get(what, 0) + 1
        if count & (count - 1) == 0:
            self._log.error("%s (%d times): %s", what, count, error)


class FeatureReader:
    """Reads the features of one plan from the online store.

    `failed` is called with a view's name whenever its author's function fails, `unread` whenever the store cannot be
    read; `cache`: the bytes of decoded rows that each view may keep, 0 for none; `priors`: what is usual,
    by `view.feature`, of the model's training set.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        store: OnlineStore,
        *,
        failed: Callable[[str], None] | None = None,
        unread: Callable[[], None] | None = None,
        cache: int = CAPACITY,
        priors: Mapping[str, float] | None = None,
    ) -> None:
        self.plan = plan
        self._store = store
        self._failed, self._unread = failed, unread
        self._priors = priors or {}
        self._stored = [v for v in (*plan.views, *plan.stand_ins) if v.lane != "request"]
        self._guard = store if self._stored and isinstance(store, GuardedStore) else None
        self._entities = {entity_of(view).name: Keys(entity_of(view)) for view in self._stored}
        self._lane_keys = {
            view.name: [lane_key(view.source.name, p) for p in range(view.source.partitions)]
            for view in self._stored
            if isinstance(view.source, EventSource) and view.lane == "nearline"
        }
        self._landed = [view for view in self._stored if view.is_landed]
        self._histories = {view.name: HistoryChoice(view) for view in self._stored if view.has_history}
        self._inputs = {view.name: RowColumns(view.inputs) for view in plan.views if view.lane == "request"}
        columns = plan.places
        self._columns = None if columns == [*range(plan.width)] else np.array(columns)
        self._told = [plan.starts[trait.view.name] for trait in plan.traits]
        self._lane_reads = [(LANES, keys) for keys in self._lane_keys.values()]
        self._lane_reads.append((versions.SPACE, [versions.key_of(view.landed_as) for view in self._landed]))
        self._last: Mapping[str, _Lane] = {}
        self._pointers: dict[bytes, tuple[Version, ...]] = {}
        self._caches = {
            view.name: RowCache(TileLayout(view), shards=_shards(view), capacity=cache) for view in self._stored
        }
        self._throttle = Throttle(__name__)

    @property
    def guard(self) -> GuardedStore | None:
        """What guards the store that it reads; None if nothing does, or nothing is read."""
        return self._guard

    def read(self, rows: Rows | Asked, now: int, *, within: float = math.inf, patience: float = math.inf) -> Reading:
        """The features of `rows` as known at instant `now`; the store is waited for no longer than `within` seconds. No
        lane, store or author's function makes it raise; but HeldUp, if a guarded store takes longer than `patience`.
        """
        return self.completed(rows, self.stored(rows, now, within=within, patience=patience))

    def completed(self, rows: Rows | Asked, told: Stored) -> Reading:
        """The features of `rows`, with what the store told for them."""
        stored, faults = told[0], [*told[1]]
        answers: dict[str, Answer] = {}
        for view in self.plan.views:
            if view.lane == "request":
                answers[view.name] = self._compute(view, rows, answers, faults)
            else:
                choice = self._histories.get(view.name)
                answers[view.name], why = cascade(
                    view, len(rows), stored, choice.long if choice else None, self._priors
                )
                own = stored.get(view.name)
                age = math.inf if own is None or own.lack else float(own.age)
                faults.extend(Fault(f"{view.name}: {reason}", None, view.name, age) for reason in why)
        found = self._assembled([*answers.values()])
        if self._told:
            found = self._with_traits(*found, {name: own.age for name, own in stored.items()})
        if self._columns is not None:
            found = found[0][:, self._columns], found[1][:, self._columns], found[2][:, self._columns]
        return Reading(*found, tuple(faults))

    def warm(self, now: int, *, within: float = math.inf) -> None:
        """Reads what nobody has, so that the first request finds all opened that opens on first use, and knows where
        the rows lie. Never raises: whatever is wrong, that request is told.
        """
        names = [key for view in self._stored for key in entity_of(view).key_names]
        with contextlib.suppress(Exception):
            self._fetch(Asked({name: [None] for name in names}, 1), now, within, math.inf)

    def _with_traits(
        self, values: Floats, statuses: Statuses, ages: Ints, lanes: Mapping[str, float]
    ) -> tuple[Floats, Statuses, Ints]:
        """The same with the traits behind: fresh, for they are known now, or missing; as old as their view."""
        traits = told(self.plan, statuses, ages, lanes)
        codes = np.isnan(traits).view(np.uint8) * np.uint8(MISSING)
        return (
            np.concatenate([values, traits], axis=1),
            np.concatenate([statuses, codes], axis=1),
            np.concatenate([ages, ages[:, self._told]], axis=1),
        )

    def _assembled(self, answers: list[Answer]) -> tuple[Floats, Statuses, Ints]:
        """Values, statuses and ages of all features of the views, out of their answers in order."""
        values = np.concatenate([answer.values for answer in answers], axis=1)
        statuses = np.isnan(values).view(np.uint8) * np.uint8(MISSING)
        ages = np.empty(values.shape, np.int64)
        start = 0
        for answer in answers:
            stop = start + answer.values.shape[1]
            ages[:, start:stop] = answer.ages
            if answer.statuses is not None:
                statuses[:, start:stop] = answer.statuses
            start = stop
        return values, statuses, ages

    # -- stored lanes -------------------------------------------------------------------------------------------

    def stored(self, rows: Rows | Asked, now: int, *, within: float = math.inf, patience: float = math.inf) -> Stored:
        """What the store tells for `rows`, within so many seconds; by one caller at a time."""
        if not self._stored:
            return {}, ()
        try:
            return self._fetch(rows, now, within, patience), ()
        except HeldUp:
            raise
        except Exception as error:  # noqa: BLE001 - a driver's own error, or bytes that are no rows of ours
            self._throttle.tell("online store", error)
            if self._unread is not None:
                self._unread()
            return {}, (Fault(f"online store: {_what(error)}", age=math.inf),)

    def _ask(self, requests: Sequence[tuple[str, Sequence[bytes]]], within: float, patience: float) -> _Told:
        if self._guard is None or patience == math.inf:
            return self._store.read(requests, within=within)
        return self._guard.read(requests, within=within, patience=patience)

    def _lanes(self, now: int, found: Sequence[Sequence[bytes | None]]) -> dict[str, _Lane]:
        """What the lanes told by `_lane_reads`."""
        names = list(self._lane_keys)
        spaces = {view.name: view.space for view in self._stored}
        lanes = {}
        for name, progress in zip(names, found, strict=False):
            moment = lane_state(progress, spaces[name])
            lanes[name] = _Lane(None if moment is None else max(now - moment, 0), spaces[name])
        for view, pointer in zip(self._landed, found[-1], strict=True):
            if view.has_history:
                choice = self._histories[view.name].at(now, self._decoded(pointer), found[names.index(view.name)])
                lanes[view.name] = replace(lanes[view.name], history=choice.version, lack=choice.lack)
                continue
            version = versions.visible(self._decoded(pointer), now)
            lanes[view.name] = _Lane(now - version.boundary, version.space) if version else _Lane(None, "")
        return lanes

    def _decoded(self, pointer: bytes | None) -> tuple[Version, ...]:
        if pointer is None:
            return ()
        known = self._pointers.get(pointer)
        if known is None:
            known = versions.decode(pointer)
            if len(self._pointers) > 4 * len(self._landed):
                self._pointers.clear()
            self._pointers[pointer] = known
        return known

    def _tiles(self, view: View, stored: Sequence[bytes | None]) -> Sequence[bytes | None]:
        return unstamp(stored) if view.lane == "nearline" and not self._store.atomic else stored

    def _fetch(self, rows: Rows | Asked, now: int, within: float, patience: float) -> dict[str, Own]:
        """The lanes and the rows in one round trip, if the lanes still are where they were; else in two."""
        keys = {name: entity.of(rows) for name, entity in self._entities.items()}
        number = len(self._lane_reads)
        wish = self._wish(self._last, keys, now)
        told = self._ask([*self._lane_reads, *wish.reads], within, patience)
        lanes = self._lanes(now, told[:number])
        found = told[number:]
        if wish.places != _places(wanted := self._wanted(lanes), lanes):
            wish = self._wish(lanes, keys, now, wanted)
            found = self._ask(wish.reads, within, patience)
        self._last = lanes
        past = [(view.name, h) for view in wish.views if (h := lanes[view.name].history) is not None]
        landed = {n: Past(h.boundary, rows) for (n, h), rows in zip(past, found[len(wish.views) :], strict=True)}
        answers = {}
        for view, read, stored in zip(wish.views, wish.keys, found, strict=False):
            distinct, codes = keys[entity_of(view).name]
            try:
                tiles = self._tiles(view, stored)
                values = self._caches[view.name].values(distinct, read, tiles, now, landed.get(view.name))
            except ValueError as error:  # bytes that are no tiles: the cascade answers for this view
                self._throttle.tell(view.name, error)
                continue
            lack, values = lanes[view.name].lack, values if codes is None else values[codes]
            if lack:
                values[:, self._histories[view.name].long] = np.nan
            answers[view.name] = Own(lanes[view.name].age or 0, values, lack)
        return answers

    def _wish(
        self,
        lanes: Mapping[str, _Lane],
        keys: Mapping[str, tuple[list[bytes], Ints | None]],
        now: int,
        wanted: Sequence[View] | None = None,
    ) -> _Wish:
        """What to read of the views `wanted`, and the histories of those that have one."""
        views = self._wanted(lanes) if wanted is None else wanted
        read = []
        for view in views:
            lane, cache = lanes[view.name], self._caches[view.name]
            cache.enter(lane.space, now, lane.history)
            read.append(cache.to_read(keys[entity_of(view).name][0]))
        reads = [(lanes[v.name].space, shards_of(k, _shards(v))) for v, k in zip(views, read, strict=True)]
        reads += [(h.space, k) for v, k in zip(views, read, strict=True) if (h := lanes[v.name].history) is not None]
        return _Wish(views, read, reads, _places(views, lanes))

    def _wanted(self, lanes: Mapping[str, _Lane]) -> list[View]:
        """The views to read: those of the plan, and the stand-ins of those that are not fresh."""
        if not lanes:
            return []
        views = {view.name: view for view in self.plan.views if view.lane != "request"}
        for view in [*views.values()]:
            age = lanes[view.name].age
            if view.fallback and (age is None or age > view.freshness or lanes[view.name].lack):
                views.update({stand_in.name: stand_in for stand_in in stand_ins(view)})
        return [view for view in views.values() if lanes[view.name].age is not None]

    # -- request lane -------------------------------------------------------------------------------------------

    def _compute(self, view: View, rows: Rows | Asked, answers: Mapping[str, Answer], faults: list[Fault]) -> Answer:
        worse = [found for used in view.uses if (found := answers[used.name].statuses) is not None]
        values = self._call(view, lambda: self._columns_of(view, rows, answers), len(rows), faults)
        if not worse or not (worst := worst_of(np.concatenate(worse, axis=1))).any():
            return Answer(values, None, 0)
        return Answer(values, np.where(np.isnan(values), MISSING, worst[:, None]).astype(np.uint8), 0)

    def _columns_of(self, view: View, rows: Rows | Asked, answers: Mapping[str, Answer]) -> dict[str, Array]:
        """What the view's function sees: new columns, for an author may well write into them."""
        if isinstance(rows, Asked):
            columns = {field.name: as_column(field, rows.columns[field.name]).copy() for field in view.inputs}
        else:
            columns = self._inputs[view.name].of(rows)
        for used in view.uses:
            columns.update(zip(used.output_names, answers[used.name].values.T.copy(), strict=True))
        return columns

    def _call(self, view: View, made: Callable[[], dict[str, Array]], size: int, faults: list[Fault]) -> Floats:
        try:
            return compute(view, made(), size, own=True)
        except TrilaneError as error:
            reason = error
        # One bad row must not spoil the answers of others that came in the same tick.
        self._throttle.tell(view.name, reason)
        if self._failed is not None:
            self._failed(view.name)
        values = np.full((size, len(view.features)), np.nan)
        bad: dict[str, set[int]] = {}
        columns = made()
        for row in range(size):
            try:
                values[row] = compute(view, {name: column[row : row + 1] for name, column in columns.items()}, 1)[0]
            except TrilaneError as error:
                bad.setdefault(error.what, set()).add(row)
        faults.extend(Fault(f"{view.name}: {what}", frozenset(at)) for what, at in bad.items())
        return values


def _places(views: Sequence[View], lanes: Mapping[str, _Lane]) -> list[tuple[str, str, Version | None]]:
    """Where the rows of views lie."""
    return [(view.name, lanes[view.name].space, lanes[view.name].history) for view in views]


def _shards(view: View) -> int:
    """The rows that a key has in a view."""
    return view.source.partitions if view.lane == "nearline" and isinstance(view.source, EventSource) else 1


def _what(error: Exception) -> str:
    return error.what if isinstance(error, TrilaneError) else f"{type(error).__name__}: {error}"
