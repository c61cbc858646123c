"""The nearline lane: from the event log to tiles that can be served, exactly once.

A micro-batch is decoded, checked against the contract, freed of repeated and late events, run through the views' one
transform, and merged into tiles; an event from slightly ahead of our clock waits until its time has come. Law: tiles,
seen ids and the next offset are committed in one transaction, and what a batch does depends on the log alone; so a
worker may be killed at any instruction and the final state is the same.

Where a transaction is not atomic, the end of the batch and the instant are noted first, then come the rows and the ids,
then the offset. A batch that was interrupted is applied again, up to the same end and as of the same instant, and skips
the rows that say that they have it.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from trilane.clock import Clock
from trilane.errors import SetupError, TrilaneError
from trilane.features.columns import entity_codes, event_times, state_columns
from trilane.features.remaining import below_zero, first_kept
from trilane.features.tile import Events, TileLayout
from trilane.features.transform import carrying
from trilane.features.view import View, entity_of
from trilane.lanes import builds
from trilane.lanes import progress as progress_rows
from trilane.lanes import rows as lane_rows
from trilane.lanes.admission import OFFSET, TEXT, Admission, Admitted
from trilane.lanes.changes import due_times
from trilane.lanes.early import Early
from trilane.lanes.progress import LANES, Progress, lane_key
from trilane.lanes.seen import Seen
from trilane.lanes.visibility import Trail
from trilane.sources.change import SIGN
from trilane.sources.dead_letters import DeadLetter, DeadLetters
from trilane.sources.event import EventSource
from trilane.sources.formats.protocol import Schemas
from trilane.sources.log.protocol import EventLog
from trilane.stores.offline.protocol import MicroBatch
from trilane.stores.online.protocol import Transaction, Writer

__all__ = ["Consumer", "Step", "Tools"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: events read, and whether the log is drained."""

    read: int
    drained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a consumer works with. `writer` is of region "nearline"; `limit`: events in a micro-batch at most;
    `heartbeat`: the longest time, in microseconds, for which an idle lane does not say that it has caught up. On a
    clock that stands still between moves it must be 1, or a small move would go unheard. `schemas`: the registry of the
    schemas that values name.
    """

    log: EventLog
    writer: Writer
    engine: MicroBatch
    dead_letters: DeadLetters
    clock: Clock
    limit: int = 200_000
    heartbeat: int = 1_000_000
    schemas: Schemas | None = None


class Consumer:
    """Applies one partition of one source to the tiles of `views`.

    `group` names a consumer with a progress of its own, for a view that is catching up; empty is the lane itself.
    """

    def __init__(
        self, source: EventSource, partition: int, views: Sequence[View], tools: Tools, *, group: str = ""
    ) -> None:
        self.source, self.partition, self.views, self.group = source, partition, tuple(views), group
        self._tools = tools
        self._layouts = {view.name: TileLayout(view) for view in views}
        signed = source.changes is not None
        self._sql = {view.name: carrying(view.sql, (SIGN,)) if signed else view.sql for view in views}
        self._key = lane_key(source.name, partition) + group.encode()
        self._seen_space = f"nearline/seen/{source.name}/{partition}{group}"
        self._patience = min((view.freshness // 4 for view in views), default=tools.heartbeat)
        self._heartbeat = max(min([tools.heartbeat, *(view.freshness // 4 for view in views)]), 1)
        self._admission = Admission(source, partition, tools.engine, tools.schemas)
        self._known = False  # whether the log is the one that was read before
        self._began = tools.clock.now()
        with tools.writer.transaction() as transaction:
            self.progress = progress_rows.decode(transaction.get(LANES, [self._key])[0])
            # A row beyond the offset is of a batch that was interrupted, and will be applied again.
            rows = (
                r for r in transaction.scan(self._seen_space) if int.from_bytes(r[0], "big") <= self.progress.offset
            )
            self._seen = Seen.stored(rows, source.disorder)
            self._early = Early.stored(transaction, source, self._key)
            self._trail = Trail.stored(transaction, self._key)
            self._first = self.progress.applied
            if group and self.progress == Progress():
                self._clear(transaction)

    def _clear(self, transaction: Transaction) -> None:
        """Removes rows that a view left when it was last withdrawn, before it begins anew."""
        for view in self.views:
            rows = transaction.scan(view.space)
            of_ours = [key for key, _ in rows if lane_rows.is_of(key, self.partition, self.source.partitions)]
            transaction.delete(view.space, of_ours)

    def not_in_step(self) -> list[View]:
        """The views that missed events which others of this partition have; none before the first event."""
        if self.progress.offset == 0:
            return []
        return [view for view in self.views if view.space not in self.progress.spaces]

    def is_level_with(self, other: Consumer) -> bool:
        """Whether both have applied the same events of one partition."""
        same = (self.source.name, self.partition) == (other.source.name, other.partition)
        settled = not (self.progress.pending_at or other.progress.pending_at)
        level = self.progress.offset == other.progress.offset
        return same and settled and level and self._early.holds_as(other._early)

    def join(self, newcomer: Consumer) -> Consumer:
        """The consumer of this partition with the views of `newcomer`, which has come equally far."""
        views = (*self.views, *newcomer.views)
        serial = max(self.progress.serial, newcomer.progress.serial)
        oldest = progress_rows.older(self.progress, newcomer.progress)
        spaces = tuple(view.space for view in views)
        progress = msgspec.structs.replace(self.progress, spaces=spaces, serial=serial, oldest=oldest)
        with self._tools.writer.transaction() as transaction:
            transaction.put(LANES, [(self._key, progress_rows.encode(progress))])
            transaction.delete(LANES, [newcomer._key])
            transaction.drop(newcomer._seen_space)
            newcomer._early.forget(transaction)
            newcomer._trail.forget(transaction)
            events, took = newcomer.progress.applied - newcomer._first, self._tools.clock.now() - newcomer._began
            builds.note_end(transaction, newcomer._key, self._key, events=events, took=took)
        return Consumer(self.source, self.partition, views, self._tools)

    def note_fault(self, fault: str) -> None:
        """Notes what hinders the views that are catching up; an empty text: nothing does."""
        with self._tools.writer.transaction() as transaction:
            builds.note_fault(transaction, self._key, fault)

    def step(self, until: int | None = None) -> Step:
        """Applies at most one micro-batch, of events before the offset `until`.

        Raises the store's or the log's error with nothing changed.
        """
        began, end = self._tools.clock.now(), self._tools.log.end(self.source.name, self.partition)
        self._check_log(end)
        pending, moment = self.progress.pending, self.progress.pending_at or began
        more = (pending if self.progress.pending_at else end) > self.progress.offset
        batch = self._read(until) if more and (until is None or until > self.progress.offset) else None
        if batch is None or batch.num_rows == 0:
            early = self.progress.early is not None and self.progress.early < began
            if (self.progress.pending_at and not more) or (not self.progress.pending_at and early):
                self._commit(None, moment, self.progress)
            elif not self.progress.pending_at:
                self._beat(began)
            return Step(0, drained=True)
        first, last = (int(batch.column("offset")[place].as_py()) for place in (0, -1))
        # All that had arrived when the step began is applied if that was to the end of the log. Nobody knows more than
        # that, whatever clock told an arrival, and whatever was said before a clock was set back.
        arrived = max(self.progress.caught_up_at, int(batch.column("arrived_at")[-1].as_py()))
        caught_up_at = began if last + 1 >= end else min(arrived, began)
        admitted = self._admission.admit(batch, self.progress.newest, self._seen)
        times = event_times(admitted.table, self.source.event_time)
        progress = Progress(
            offset=last + 1,
            newest=admitted.newest,
            oldest=progress_rows.oldest(self.progress, times, first),
            caught_up_at=caught_up_at,
            applied=self.progress.applied + admitted.table.num_rows,
            duplicates=self.progress.duplicates + admitted.duplicates,
            rejected=self.progress.rejected + len(admitted.letters),
            verdicts=progress_rows.counted(self.progress.verdicts, admitted.verdicts),
            mark=_mark(batch),
        )
        self._commit(admitted, moment, progress)
        return Step(batch.num_rows, last + 1 >= end)

    def _check_log(self, end: int) -> None:
        """Raises SetupError if the log lost events that were applied: those that took their places would be skipped."""
        offset, mark = max(self.progress.offset, self.progress.pending), self.progress.mark
        lost = f"the log ends at {end}, and {offset} events of it were taken" if end < offset else ""
        if not lost and not self._known and mark is not None:
            last = self._tools.log.read(self.source.name, self.partition, self.progress.offset - 1, 1)
            same_place = last.num_rows and last.column("offset")[0].as_py() == self.progress.offset - 1
            if same_place and _mark(last) != mark:
                lost = f"the log has another event at {self.progress.offset - 1} than the one that was applied"
        if lost:
            raise SetupError(
                f"{lost}: it lost events",
                where=f"{self.source.name}/{self.partition}",
                remedy="Restore the log; or move the online store and the archive away, to fill them from what is left",
            )
        self._known = True

    def _read(self, until: int | None) -> pa.RecordBatch:
        """The next micro-batch; one that was interrupted, up to the same end."""
        log, source, offset = self._tools.log, self.source.name, self.progress.offset
        if self.progress.pending <= offset:
            batch = log.read(source, self.partition, offset, self._tools.limit)
            if until is None or not batch.num_rows or batch.column("offset")[-1].as_py() < until:
                return batch
            return batch.slice(0, int(np.searchsorted(batch.column("offset").to_numpy(), until)))
        parts = []
        while offset < self.progress.pending:
            parts.append(log.read(source, self.partition, offset, self.progress.pending - offset))
            if parts[-1].num_rows == 0:
                break
            offset = int(parts[-1].column("offset")[-1].as_py()) + 1
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def _beat(self, now: int) -> None:
        spaces = tuple(view.space for view in self.views)
        # What was said by a clock that was set back since is taken back: else a dead lane would look fresh until then.
        if 0 <= now - self.progress.caught_up_at < self._heartbeat and self.progress.spaces == spaces:
            return
        trail = self._trail.beat(now, end=self.progress.offset, patience=self._patience)
        self._write_progress(msgspec.structs.replace(self.progress, caught_up_at=now, spaces=spaces), trail)

    def _write_progress(self, progress: Progress, trail: Trail | None = None) -> None:
        with self._tools.writer.transaction() as transaction:
            if trail is not None:
                trail.store(transaction)
            transaction.put(LANES, [(self._key, progress_rows.encode(progress))])
        self.progress, self._trail = progress, trail or self._trail

    # -- application --------------------------------------------------------------------------------------------

    def _commit(self, admitted: Admitted | None, now: int, progress: Progress) -> None:
        """Applies what was admitted and has happened by `now`, and what was early before and is due."""
        # Letters first: they are idempotent, so a crash between the two commits repeats them without effect.
        if admitted is not None and admitted.letters:
            self._tools.dead_letters.add(admitted.letters)
        moment = max(progress.caught_up_at, now) if admitted is None else progress.caught_up_at
        spaces = tuple(view.space for view in self.views)
        serial = self.progress.serial + 1
        due, early = self._early.split(None if admitted is None else admitted.table, now)
        progress = msgspec.structs.replace(
            progress,
            caught_up_at=moment,
            spaces=spaces,
            early=early.first,
            serial=serial,
            pending=0,
            pending_at=0,
        )
        poison: list[DeadLetter] = []
        lost: dict[str, int] = {}
        trail = self._trail
        horizon = (progress.newest or 0) - self.source.disorder
        expired = self._seen.expired(horizon)
        atomic = self._tools.writer.atomic
        if not atomic and not self.progress.pending_at:
            self._write_progress(msgspec.structs.replace(self.progress, pending=progress.offset, pending_at=now))
        with self._tools.writer.transaction() as transaction:
            if due is not None and due.num_rows and progress.newest is not None:
                for view in self.views:
                    poison += self._apply(transaction, view, due, progress, lost)
            progress = msgspec.structs.replace(progress, verdicts=progress_rows.counted(progress.verdicts, lost))
            entry = self._remember(transaction, admitted, progress.offset)
            if atomic:
                trail = self._advance(transaction, progress, early, now)
                transaction.delete(self._seen_space, expired)
            self._tools.dead_letters.add(poison)
        if not atomic:
            with self._tools.writer.transaction() as transaction:
                trail = self._advance(transaction, progress, early, now)
            if expired:
                with self._tools.writer.transaction() as transaction:
                    transaction.delete(self._seen_space, expired)
        self.progress, self._early, self._trail = progress, early, trail
        self._seen.forget(expired, horizon)
        if entry is not None and admitted is not None:
            self._seen.add(*entry, admitted.prints)

    def _advance(self, transaction: Transaction, progress: Progress, early: Early, moment: int) -> Trail:
        """Writes what comes next: rows of one key, so that they are written together in any store."""
        early.store(transaction, before=self._early)
        at, caught_up = self._tools.clock.now(), progress.caught_up_at
        trail = self._trail.batch(at=at, end=progress.offset, moment=moment, caught_up=caught_up)
        trail.store(transaction)
        transaction.put(LANES, [(self._key, progress_rows.encode(progress))])
        return trail

    def _apply(
        self, transaction: Transaction, view: View, table: pa.Table, progress: Progress, lost: dict[str, int]
    ) -> list[DeadLetter]:
        """Merges the rows of a view; the events on which its transform fails. Counts in `lost` what came to nothing."""
        newest = progress.newest or 0  # there is one, as events were admitted
        result, failed = self._transform(view, table)
        layout = self._layouts[view.name]
        codes, keys = entity_codes(result, entity_of(view))
        known = codes >= 0
        if known.any():
            signs = None if self.source.changes is None else result.column(SIGN).to_numpy()
            times, columns = event_times(result, self.source.event_time), state_columns(result, layout.columns)
            events = Events(codes, times, columns, signs)
            if not known.all():
                events = events.chosen(known)
            tile_codes, records = layout.tiles(events)
            places = lane_rows.shard_keys(keys, self.partition, self.source.partitions)
            stored = transaction.get(view.space, places)
            atomic, slack = self._tools.writer.atomic, self.source.disorder + self.source.future
            old = stored if atomic else lane_rows.unstamp(stored)
            rows = layout.merge(old, tile_codes, records, newest=newest, slack=slack)
            if signs is not None:
                _count_lost(lost, layout, events, old, rows, newest - slack)
            if atomic:
                transaction.put(view.space, zip(places, rows, strict=True))
            else:
                fresh = [
                    (key, lane_rows.stamp(row, progress.serial))
                    for key, row, before in zip(places, rows, stored, strict=True)
                    if lane_rows.applied(before) < progress.serial
                ]
                transaction.put(view.space, fresh)
        texts, offsets = table.column(TEXT), table.column(OFFSET)
        return [
            self._letter(f"transform:{view.name}", reason, texts[i].as_py(), offsets[i].as_py(), newest)
            for i, reason in failed
        ]

    def _transform(self, view: View, table: pa.Table) -> tuple[pa.Table, list[tuple[int, str]]]:
        """Runs the transform; an event on which it fails is left out and told, the others count."""
        sql = self._sql[view.name]
        try:
            return self._tools.engine.run(sql, table), []
        except TrilaneError:
            _log.warning("the transform of %s failed on a micro-batch; looking for the event", view.name)
        good, failed = [self._tools.engine.run(sql, table.slice(0, 0))], list[tuple[int, str]]()
        # By halves, for most events are good and a micro-batch may have many: those that fail cost a few runs each.
        spans = [(0, table.num_rows)]
        while spans:
            start, stop = spans.pop()
            try:
                good.append(self._tools.engine.run(sql, table.slice(start, stop - start)))
            except TrilaneError as error:
                if stop - start == 1:
                    failed.append((start, error.what))
                else:
                    middle = (start + stop) // 2
                    spans += [(middle, stop), (start, middle)]
        return pa.concat_tables(good), failed

    def _letter(self, code: str, reason: str, payload: bytes, offset: int, at: int) -> DeadLetter:
        return DeadLetter(
            source=self.source.name,
            code=code,
            path="$",
            reason=reason,
            payload=payload,
            partition=self.partition,
            offset=offset,
            at=at,
        )

    def _remember(self, transaction: Transaction, admitted: Admitted | None, offset: int) -> tuple[bytes, int] | None:
        """Stores the prints of this batch, one row for all; the key of the row, and their latest event time."""
        if admitted is None or not admitted.table.num_rows:
            return None
        latest = int(due_times(admitted.table, self.source).max())
        entry = offset.to_bytes(8, "big"), latest
        transaction.put(self._seen_space, [(entry[0], Seen.row(latest, admitted.prints))])
        return entry


def _mark(batch: pa.RecordBatch) -> int:
    """The checksum of the last value of a batch."""
    return zlib.crc32(batch.column("value")[-1].as_py())


def _count_lost(
    lost: dict[str, int],
    layout: TileLayout,
    events: Events,
    before: Sequence[bytes | None],
    after: Sequence[bytes | None],
    newest: int,
) -> None:
    """Counts the changes of what no window can see any more, and the tiles that fell below zero."""
    fallen = np.maximum(below_zero(layout, after) - below_zero(layout, before), 0)
    found = {"gone": events.times < first_kept(layout, newest), "unmatched": fallen}
    for name, rows in found.items():
        if number := int(rows.sum()):
            key = f"{name}:{layout.view.name}"
            lost[key] = lost.get(key, 0) + number
