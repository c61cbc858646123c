"""Which events of a micro-batch count: decoded, checked, neither late nor from the future nor repeated.

Law: the verdict depends on the log alone, cut anywhere; an event counts, or is a duplicate, or comes back as a letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.features.algebra import Ints
from trilane.lanes.changes import due_times, prints_of
from trilane.lanes.judgement import judge
from trilane.lanes.seen import Prints, Seen
from trilane.sources.dead_letters import QUARANTINED, REFUSED, DeadLetter
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource
from trilane.sources.formats.protocol import Decoder, Schemas
from trilane.sources.rule import code_of
from trilane.sources.watermark import Watermark
from trilane.stores.offline.protocol import MicroBatch

__all__ = ["OFFSET", "TEXT", "Admitted", "Admission"]

OFFSET, TEXT = "_offset", "_text"  # what the table of admitted events tells beside the source's fields
Bools = npt.NDArray[np.bool_]
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
    verdicts: dict[str, int]


class Admission:
    """The door of one partition."""

    def __init__(self, source: EventSource, partition: int, engine: MicroBatch, schemas: Schemas | None = None) -> None:
        self._source, self._partition, self._engine = source, partition, engine
        self._decoder: Decoder = decoder_of(source, schemas)

    def admit(self, batch: pa.RecordBatch, newest: int | None, seen: Seen) -> Admitted:
        """Judges `batch` after events of which the newest was `newest`, and those that were `seen`."""
        source, values = self._source, batch.column("value")
        decoded = self._decoder.decode(values)
        letters = [self.letter(batch, r.index, r.code, r.path, r.reason) for r in decoded.rejections]
        table, kept = decoded.table, decoded.indexes
        arrived = batch.column("arrived_at").to_numpy()[kept]
        mark = Watermark(disorder=source.disorder, future=source.future)
        mark = mark if newest is None else replace(mark, latest=newest)
        verdict = mark.judge(due_times(table, source), arrived)
        in_time = counts = ~(verdict.late | verdict.from_future)
        judged = None
        if source.rules:
            judged = judge(source, table, lambda row: values[kept[row]].as_py(), self._engine)
            counts = in_time & ~judged.broken
            letters += self._broken(batch, kept, judged.first, in_time)
        prints = prints_of(table, source)
        repeated = seen.repeated(prints, counts)
        for bad, code, reason in ((verdict.from_future, "future", _FUTURE), (verdict.late, "late", _LATE)):
            path = f"$.{source.moment_field}"
            letters += [self.letter(batch, i, code, path, reason) for i in dict.fromkeys(kept[bad].tolist())]
        offsets, texts = batch.column("offset"), values
        if len(kept) != batch.num_rows or source.changes is not None:
            offsets, texts = offsets.take(pa.array(kept)), values.take(pa.array(kept))
        table = table.append_column(OFFSET, offsets).append_column(TEXT, texts)
        good = counts & ~repeated
        if not good.all():
            table, prints = table.filter(pa.array(good)), prints[good]
        latest = None if verdict.after.complete_until is None else verdict.after.latest
        verdicts: dict[str, int] = Counter(letter.code for letter in letters)
        if judged is not None:
            verdicts |= {f"warn:{name}": int((mask & good).sum()) for name, mask in judged.warned.items()}
        return Admitted(table, prints, latest, letters, int(repeated.sum()), verdicts)

    def _broken(self, batch: pa.RecordBatch, kept: Ints, first: Ints, in_time: Bools) -> Iterator[DeadLetter]:
        """The letters of events that break a rule, of those that are in time."""
        for row in np.flatnonzero((first >= 0) & in_time).tolist():
            rule = self._source.rules[first[row]]
            reason = f"the event breaks the rule {rule.name!r}"
            letter = self.letter(batch, int(kept[row]), code_of(rule.name), "$", reason)
            yield replace(letter, state=QUARANTINED if rule.action == "quarantine" else REFUSED)

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
