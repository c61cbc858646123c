"""The rows of parts as they are read: portion by portion, from files that must be as they were when the job began.

Laws: a portion holds the same rows whoever reads it, and whatever was read before; of a row group that is several parts
the one after another is read without going back, and no more is held of it than a portion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trilane.apps.scoring.job import PORTION, Job, Part, opened, stamp
from trilane.errors import ConflictError, ContractError

__all__ = ["Portions"]

_BUFFER = 1 << 18  # bytes that are read ahead of each column
_REMEDY = "Put it back as it was, or name another folder for the output"


class Portions:
    """Reads the columns `names` of parts of `job`, those of them that a file has; `whole`: all of a part at once."""

    def __init__(self, job: Job, names: Sequence[str], *, whole: bool) -> None:
        self._job, self._names, self._whole = job, list(names), whole
        self._file: tuple[int, pq.ParquetFile] | None = None
        self._rows: _Rows | None = None

    def of(self, part: Part) -> Iterator[pa.Table]:
        """The rows of `part`. Raises ConflictError if its file changed, ContractError if it cannot be read."""
        path = Path(self._job.inputs[part.file].path)
        self._check(part.file)
        try:
            rows = self._at(part, path)
            if self._whole and part.rows:
                yield pa.Table.from_batches([*rows.take(part.rows)])
            elif not self._whole:
                for batch in rows.take(part.rows):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError, EOFError) as error:
            self.close()
            self._check(part.file)  # which tells more than that it cannot be read
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            where = f"{path}, row groups {part.first} to {part.stop - 1}"
            raise ContractError(f"it cannot be read: {reason}", where=where, remedy="Write it again") from None
        self._check(part.file)

    def close(self) -> None:
        """Closes the file that is open."""
        if self._file is not None:
            self._file[1].close()
        self._file = self._rows = None

    def _at(self, part: Part, path: Path) -> _Rows:
        """The rows of the part's row groups, from its first."""
        if self._file is None or self._file[0] != part.file:
            self.close()
            self._file = part.file, opened(path, buffer=_BUFFER)
        rows, groups = self._rows, range(part.first, part.stop)
        if rows is None or rows.groups != groups or rows.place > part.skip:
            rows = self._rows = _Rows(self._file[1], groups, self._names)
        for _ in rows.take(part.skip - rows.place):
            pass  # these are another's
        return rows

    def _check(self, file: int) -> None:
        known = self._job.inputs[file]
        try:
            same = stamp(Path(known.path)) == known
        except OSError as error:
            what = f"it cannot be found any more: {error.strerror or error}"
            raise ConflictError(what, where=known.path, remedy=_REMEDY) from None
        if not same:
            raise ConflictError("it changed since the job began", where=known.path, remedy=_REMEDY)


class _Rows:
    """The rows of row `groups` of a file, in order; `place`: how many were taken."""

    def __init__(self, file: pq.ParquetFile, groups: range, names: Sequence[str]) -> None:
        self.groups, self.place = groups, 0
        self._rest: pa.RecordBatch | None = None
        self._batches = file.iter_batches(PORTION, row_groups=groups, columns=names, use_threads=False)

    def take(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The next `rows` rows, in batches. Raises EOFError if there are fewer."""
        stop = self.place + rows
        while self.place < stop:
            batch = next(self._batches, None) if self._rest is None else self._rest
            if batch is None:
                raise EOFError(f"it ends after {self.place} of its rows")
            number = min(len(batch), stop - self.place)
            self._rest = batch.slice(number) if number < len(batch) else None
            self.place += number
            if number:
                yield batch.slice(0, number)
