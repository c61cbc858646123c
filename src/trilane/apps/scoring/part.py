"""One part of a scoring job: its rows read, checked, scored and written, a portion at a time.

Laws: the answer to a row is the one that the bundle's engine gives, as of the job's instant; memory does not grow with
the part, nor with the file it lies in (but where features are joined point in time: then with the part). Where the
online store cannot be read the part fails, to be scored later: a request has no time for that, a job has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trilane.apps.scoring.columns import OutputColumns, Rejects
from trilane.apps.scoring.job import Done, Job, Part
from trilane.apps.scoring.output import Output, digest_of, drafting
from trilane.contract import Rejection
from trilane.errors import ContractError, UnavailableError
from trilane.serving.engine import Answers, Engine
from trilane.serving.protocol.table import TableFormat
from trilane.serving.reading import Asked, Rows

__all__ = ["PartScorer", "Prepare"]

PORTION = 8_192  # rows that are scored together: enough to forget what a portion costs, few enough for the cache
_WRITTEN = 131_072  # rows of a row group of the output
_BUFFER = 1 << 18  # bytes that are read ahead of each column
_HOPELESS = 100  # rows of a part that the model cannot answer, before any that it can

# Joins what the engine will read to the checked rows of a whole part: (their table, themselves).
Prepare = Callable[[pa.Table, Asked], Asked]


@dataclass
class _Tally:
    scored: int = 0
    degraded: int = 0
    unanswered: int = 0
    rejects: Rejects = field(default_factory=Rejects)


class PartScorer:
    """Scores parts of one job. `unread`: whether the online store failed since it was asked last."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        format: TableFormat,
        *,
        output: Output,
        columns: OutputColumns,
        unread: Callable[[], bool],
        prepare: Prepare | None = None,
        progress: Callable[[int], None],
    ) -> None:
        self._job, self._engine, self._format = job, engine, format
        self._output, self._columns, self._unread = output, columns, unread
        self._prepare, self._progress = prepare, progress

    def score(self, part: Part) -> Done:
        """Scores `part` and writes its files. Raises ContractError, SetupError, UnavailableError or ModelError."""
        tally = _Tally()
        path = self._output.scores(part.number)
        with drafting(path) as draft:
            facts = self._columns.facts(self._job, part)
            with pq.ParquetWriter(draft, self._columns.schema.with_metadata(facts), **self._columns.encoding) as writer:
                for batches in _gathered(self._scored(part, tally), _WRITTEN):
                    writer.write_table(pa.Table.from_batches(batches, self._columns.schema), row_group_size=_WRITTEN)
        rejects = ""
        if tally.rejects:
            with drafting(self._output.rejects(part.number)) as draft:
                pq.write_table(tally.rejects.table(self._job.name_of(part)), draft, compression="zstd")
            rejects = digest_of(self._output.rejects(part.number))
        return Done(part.number, tally.scored, len(tally.rejects), tally.degraded, digest_of(path), rejects)

    def _scored(self, part: Part, tally: _Tally) -> Iterator[pa.RecordBatch]:
        place = part.first_row
        for table in self._portions(part):
            asked, kept, rejected = self._format.checked(table)
            self._refuse(part, rejected, place, tally)
            if self._prepare is not None and len(asked):
                asked = self._prepare(table.take(kept), asked)
            for start in range(0, len(asked), PORTION):
                stop = min(start + PORTION, len(asked))
                for begin, answers in self._answered(part, asked.cut(start, stop), kept[start:stop] + place, tally):
                    rows = kept[start + begin : start + begin + len(answers.scores)]
                    tally.scored += len(rows)
                    batch = self._columns.batch(answers, table, rows, first=place, file=self._job.name_of(part))
                    tally.degraded += self._columns.degraded(batch)
                    yield batch
                self._progress(stop - start)
            self._progress(len(rejected))
            place += table.num_rows

    def _portions(self, part: Part) -> Iterator[pa.Table]:
        """The part's rows: by portions, or all at once where they are joined together."""
        path = Path(self._job.inputs[part.file].path)
        size = PORTION if self._prepare is None else max(part.rows, 1)
        wanted = self._columns.read
        try:
            with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
                groups = range(part.first, part.stop)
                batches = file.iter_batches(size, row_groups=groups, columns=wanted, use_threads=False)
                while (batch := next(batches, None)) is not None:
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            groups_named = f"row groups {part.first} to {part.stop - 1}"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ContractError(
                f"it cannot be read: {reason}", where=f"{path}, {groups_named}", remedy="Write it again"
            ) from None

    def _refuse(self, part: Part, rejected: list[Rejection], place: int, tally: _Tally) -> None:
        for one in rejected:
            if self._job.strict:
                where = f"{self._job.name_of(part)}, row {place + one.index}, {one.path}"
                raise ContractError(one.reason, where=where, remedy="Mend the row, or leave out --strict")
            tally.rejects.add(place + one.index, one)

    def _answered(
        self, part: Part, asked: Asked, places: npt.NDArray[np.int64], tally: _Tally
    ) -> Iterator[tuple[int, Answers]]:
        """Answers to runs of rows, each with its start; a row for which there is none is refused alone."""
        try:
            # Of what is recorded of answers, which needs the rows themselves, nothing is done here.
            answers = self._engine.answer(cast(Rows, asked), now=self._job.at, id="score")
        except UnavailableError as error:
            if self._unread():
                raise _unreadable() from error
            if len(asked) == 1:
                tally.unanswered += 1
                if tally.unanswered >= _HOPELESS and not tally.scored:
                    raise  # no row of it will ever be answered
                self._refuse(part, [Rejection(0, "model", "$", error.what)], int(places[0]), tally)
                return
            middle = len(asked) // 2
            for start, stop in ((0, middle), (middle, len(asked))):
                for begin, found in self._answered(part, asked.cut(start, stop), places[start:stop], tally):
                    yield start + begin, found
            return
        if self._unread():
            raise _unreadable()
        yield 0, answers


def _unreadable() -> UnavailableError:
    return UnavailableError(
        "the online store cannot be read", where="score", remedy="Run the same command once it is back: it goes on"
    )


def _gathered(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches of together at least `rows`, but for the last."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(one) for one in held) >= rows:
            yield held
            held = []
    if held:
        yield held
