"""Which events of a micro-batch count: decoded, checked, neither late nor from the future nor repeated.

Law: the verdict depends on the log alone, cut anywhere; an event counts, or is a duplicate, or comes back as a letter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from trilane.features.columns import event_times
from trilane.lanes.seen import Prints, Seen, fingerprints
from trilane.sources.dead_letters import DeadLetter
from trilane.sources.decoding import Decoder, decoder_of
from trilane.sources.event import EventSource
from trilane.sources.watermark import Watermark

__all__ = ["OFFSET", "TEXT", "Admitted", "Admission"]

OFFSET, TEXT = "_offset", "_text"  # what the table of admitted events tells beside the source's fields
_FUTURE = "the event lies further in the future than the source allows"
_LATE = "the event came later than the source's disorder allows"


@dataclass(frozen=True, slots=True)
class Admitted:
    """The events of a micro-batch that count, with their offsets, texts and prints; what became of the others.

    `newest`: the largest event time so far, also of those that do not count (None before the first).
    """

    table: pa.Table
    prints: Prints
    newest: int | None
    letters: list[DeadLetter]
    duplicates: int


class Admission:
    """The door of one partition."""

    def __init__(self, source: EventSource, partition: int) -> None:
        self._source, self._partition = source, partition
        self._decoder: Decoder = decoder_of(source)

    def admit(self, batch: pa.RecordBatch, newest: int | None, seen: Seen) -> Admitted:
        """Judges `batch` after events of which the newest was `newest`, and those that were `seen`."""
        source, values = self._source, batch.column("value")
        decoded = self._decoder.decode(values)
        letters = [self.letter(batch, r.index, r.code, r.path, r.reason) for r in decoded.rejections]
        table, kept = decoded.table, decoded.indexes
        arrived = batch.column("arrived_at").to_numpy()[kept]
        mark = Watermark(disorder=source.disorder, future=source.future)
        mark = mark if newest is None else replace(mark, latest=newest)
        verdict = mark.judge(event_times(table, source.event_time), arrived)
        in_time = ~(verdict.late | verdict.from_future)
        prints = fingerprints(table.column(source.event_id).combine_chunks())
        repeated = seen.repeated(prints, in_time)
        for bad, code, reason in ((verdict.from_future, "future", _FUTURE), (verdict.late, "late", _LATE)):
            path = f"$.{source.event_time}"
            letters += [self.letter(batch, i, code, path, reason) for i in kept[bad].tolist()]
        offsets = batch.column("offset")
        if len(kept) < batch.num_rows:
            offsets, values = offsets.take(pa.array(kept)), values.take(pa.array(kept))
        table = table.append_column(OFFSET, offsets).append_column(TEXT, values)
        good = in_time & ~repeated
        if not good.all():
            table, prints = table.filter(pa.array(good)), prints[good]
        latest = None if verdict.after.complete_until is None else verdict.after.latest
        return Admitted(table, prints, latest, letters, int(repeated.sum()))

    def letter(self, batch: pa.RecordBatch, index: int, code: str, path: str, reason: str) -> DeadLetter:
        """The dead letter for a row of `batch`."""
        return DeadLetter(
            source=self._source.name,
            code=code,
            path=path,
            reason=reason,
            payload=batch.column("value")[index].as_py(),
            partition=self._partition,
            offset=batch.column("offset")[index].as_py(),
            at=batch.column("arrived_at")[index].as_py(),
        )
