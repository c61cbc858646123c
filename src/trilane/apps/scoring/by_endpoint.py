"""Rows scored as a deployed endpoint answers them.

Laws: the answer to a row is the one that the bundle's engine gives, as of the job's instant. Where the online store
cannot be read, or the model is gone, the part fails, to be scored later: a request has no time for that, a job has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pyarrow as pa

from trilane.apps.scoring.columns import OutputColumns
from trilane.apps.scoring.job import PORTION, Job, Part
from trilane.apps.scoring.part import Tally, Unanswered, by_runs
from trilane.errors import UnavailableError
from trilane.serving.engine import Answers, Engine
from trilane.serving.protocol.table import TableFormat
from trilane.serving.reading import Asked, Rows

__all__ = ["ByEndpoint", "Prepare"]

# Joins what the engine will read to the checked rows of a whole part: (their table, themselves).
Prepare = Callable[[pa.Table, Asked], Asked]


class ByEndpoint:
    """Keeps the promise of Answering by `engine`, as of `at`. `failed`: what the engine could not ask since the last
    time: the online store, or its model.
    """

    def __init__(
        self,
        engine: Engine,
        format: TableFormat,
        *,
        at: int,
        columns: OutputColumns,
        failed: Callable[[], UnavailableError | None],
        prepare: Prepare | None = None,
    ) -> None:
        self._engine, self._format, self._at = engine, format, at
        self._columns, self._failed, self._prepare = columns, failed, prepare
        self.schema, self.encoding, self.read = columns.schema, columns.encoding, columns.read
        self.whole = prepare is not None

    def facts(self, job: Job, part: Part) -> dict[str, str]:
        return self._columns.facts(job, part)

    def batches(self, table: pa.Table, place: int, tally: Tally) -> Iterator[pa.RecordBatch]:
        asked, kept, rejected = self._format.checked(table)
        tally.refuse(rejected, place)
        if self._prepare is not None and len(asked):
            asked = self._prepare(table.take(kept), asked)
        for start in range(0, len(asked), PORTION):
            stop = min(start + PORTION, len(asked))
            runs = by_runs(
                lambda start, stop: self._answers(asked.cut(start, stop)),
                start,
                stop,
                lambda row, error: tally.unanswered(int(kept[row]) + place, error),
            )
            for begin, answers in runs:
                rows = kept[begin : begin + len(answers.scores)]
                tally.scored += len(rows)
                batch = self._columns.batch(answers, table, rows, first=place, file=tally.file)
                tally.degraded += self._columns.degraded(batch)
                yield batch
            tally.progress(stop - start)
        if rejected:
            tally.progress(len(rejected))

    def close(self) -> None:
        self._engine.runtime.close()

    def _answers(self, asked: Asked) -> Answers:
        try:
            # Of what is recorded of answers, which needs the rows themselves, nothing is done here.
            answers = self._engine.answer(cast(Rows, asked), now=self._at, id="score")
        except UnavailableError as error:
            if failed := self._failed():
                raise failed from error
            raise Unanswered(error) from error
        if failed := self._failed():
            raise failed
        return answers
