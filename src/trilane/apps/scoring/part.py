"""One part of a scoring job: its rows read, given to what scores them, and what comes of them written.

Laws: memory does not grow with the part, nor with the file it lies in (but where features are joined point in time:
then with the part); a row that cannot be answered costs no other row its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from trilane.apps.scoring.columns import Rejects
from trilane.apps.scoring.job import Done, Job, Part
from trilane.apps.scoring.output import Output, digest_of, drafting
from trilane.apps.scoring.portions import Portions
from trilane.contract import Rejection
from trilane.errors import ContractError, TrilaneError

__all__ = ["Answering", "PartScorer", "Tally", "Unanswered", "by_runs"]

_WRITTEN = 131_072  # rows of a row group of the output
_HOPELESS = 100  # rows of a part that the model cannot answer, before any that it can
_T = TypeVar("_T")


class Tally:
    """What became of the rows of one part so far; `file` is what the output calls its file."""

    def __init__(self, file: str, *, strict: bool, progress: Callable[[int], None]) -> None:
        self.file, self.progress, self._strict = file, progress, strict
        self.scored = self.degraded = self._unanswered = 0
        self.rejects = Rejects()

    def refuse(self, rejected: Sequence[Rejection], place: int) -> None:
        """Puts rows aside, which count from `place`. Raises ContractError if none may be."""
        for one in rejected:
            if self._strict:
                where = f"{self.file}, row {place + one.index}, {one.path}"
                raise ContractError(one.reason, where=where, remedy="Mend the row, or leave out --strict")
            self.rejects.add(place + one.index, one)

    def unanswered(self, row: int, error: TrilaneError) -> None:
        """Puts a row aside for which there is no answer. Raises `error` where there never will be one for any."""
        self._unanswered += 1
        if self._unanswered >= _HOPELESS and not self.scored:
            raise error
        self.refuse([Rejection(0, "model", "$", error.what)], row)


class Answering(Protocol):
    """What scores rows; it belongs to one process."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the output."""
        ...

    @property
    def encoding(self) -> dict[str, Any]:
        """How they are written."""
        ...

    @property
    def read(self) -> Sequence[str]:
        """The columns of the input that it takes, and those that are kept; a file need not have all."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it must have all rows of a part at once."""
        ...

    def facts(self, job: Job, part: Part) -> dict[str, str]:
        """What the metadata of a file says of where its scores come from."""
        ...

    def batches(self, table: pa.Table, place: int, tally: Tally) -> Iterator[pa.RecordBatch]:
        """The output of the rows of `table`, the first of which is row `place` of its file."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


class PartScorer:
    """Scores parts of one job by `answering`."""

    def __init__(self, job: Job, answering: Answering, *, output: Output, progress: Callable[[int], None]) -> None:
        self._job, self._answering, self._output, self._progress = job, answering, output, progress
        self._portions = Portions(job, answering.read, whole=answering.whole)

    def score(self, part: Part) -> Done:
        """Scores `part` and writes its files. Raises ContractError, SetupError, UnavailableError or ModelError."""
        tally = Tally(self._job.name_of(part), strict=self._job.strict, progress=self._progress)
        path, own = self._output.scores(part.number), self._answering
        with drafting(path) as draft:
            schema = own.schema.with_metadata(own.facts(self._job, part))
            with pq.ParquetWriter(draft, schema, **own.encoding) as writer:
                for batches in _gathered(self._scored(part, tally), _WRITTEN):
                    writer.write_table(pa.Table.from_batches(batches, own.schema), row_group_size=_WRITTEN)
        rejects = ""
        if tally.rejects:
            with drafting(self._output.rejects(part.number)) as draft:
                pq.write_table(tally.rejects.table(tally.file), draft, compression="zstd")
            rejects = digest_of(self._output.rejects(part.number))
        return Done(part.number, tally.scored, len(tally.rejects), tally.degraded, digest_of(path), rejects)

    def close(self) -> None:
        """Gives back what it holds."""
        self._portions.close()
        self._answering.close()

    def _scored(self, part: Part, tally: Tally) -> Iterator[pa.RecordBatch]:
        place = part.first_row
        for table in self._portions.of(part):
            yield from self._answering.batches(table, place, tally)
            place += table.num_rows


class Unanswered(Exception):  # noqa: N818 - it never leaves this package
    """Rows could not be answered together, of which each alone may be: `error` says why."""

    def __init__(self, error: TrilaneError) -> None:
        super().__init__(str(error))
        self.error = error


def by_runs(
    ask: Callable[[int, int], _T], start: int, stop: int, refuse: Callable[[int, TrilaneError], None]
) -> Iterator[tuple[int, _T]]:
    """Answers to runs of the rows `start` up to `stop`, each with its start; one for which there is none is refused.

    `ask` raises Unanswered for rows that it shall be asked for in smaller runs.
    """
    try:
        found = ask(start, stop)
    except Unanswered as told:
        if stop - start == 1:
            refuse(start, told.error)
            return
        middle = (start + stop) // 2
        yield from by_runs(ask, start, middle, refuse)
        yield from by_runs(ask, middle, stop, refuse)
        return
    yield start, found


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
