"""What a scoring job is: which rows go through which bundle as of which instant, cut into parts that are scored alone.

Laws: a job is frozen before its first part, and says all that its output depends on but the stores; the same input
gives the same parts, whatever number of workers there is.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from trilane.errors import ContractError, SetupError

__all__ = [
    "JOINED_ROWS",
    "PART_ROWS",
    "PORTION",
    "Check",
    "Done",
    "InputFile",
    "Job",
    "Part",
    "cut",
    "input_files",
    "opened",
    "schema_of",
    "stamp",
]

PORTION = 8_192  # rows that are scored together: enough to forget what a portion costs, few enough for the cache
PART_ROWS = 16 * PORTION  # row groups are put together up to here, and one that has more is cut
JOINED_ROWS = 8 * PART_ROWS  # where it is cut if parts are joined point in time, for each join reads the past anew


class Check(Protocol):
    """Raises ContractError for a schema that does not fit; `where` names its file."""

    def __call__(self, schema: pa.Schema, *, where: str) -> None: ...


class InputFile(msgspec.Struct, frozen=True):
    """A file of the input: its path, and by what a change of it shows."""

    path: str
    size: int
    changed_ns: int


class Part(msgspec.Struct, frozen=True):
    """Of the row groups `first` to before `stop` of input file number `file` the `rows` rows that follow `skip` others;
    the first of them is `first_row` of the file.
    """

    number: int
    file: int
    first: int
    stop: int
    first_row: int
    rows: int
    skip: int = 0


class Done(msgspec.Struct, frozen=True):
    """A part that was scored: its rows by what became of them, and the digests of its files (the second may not be)."""

    part: int
    scored: int
    rejected: int
    degraded: int
    digest: str
    rejects: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that decides the output.

    What scores is the `bundle` of an `endpoint`, or else a `model` alone: in its version, known by the digest of all
    that its answers come from, with the columns of its matrix, `features`, if the caller named them.
    `at`: as of when features are read (microseconds; 0 where none are); `event_time`: the column with an instant of
    each row, by which they are joined instead, or none; `keep`: the input columns that the output has too; `strict`:
    whether a row that breaks the contract fails the job; `source`: the input as it was named, and `root` what its files
    lie below.
    """

    version: int = 2
    endpoint: str = ""
    bundle: str = ""
    model: str = ""
    model_version: str = ""
    model_digest: str = ""
    features: tuple[str, ...] = ()
    at: int
    event_time: str
    keep: tuple[str, ...]
    strict: bool
    source: str
    root: str
    inputs: tuple[InputFile, ...]
    parts: tuple[Part, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over everything."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    @property
    def scorer(self) -> str:
        """The name of what scores."""
        return self.endpoint or self.model

    @functools.cached_property
    def rows(self) -> int:
        """The rows of all parts."""
        return sum(part.rows for part in self.parts)

    def name_of(self, part: Part) -> str:
        """The part's input file as the output names it: below the folder that was given, or the file's own name."""
        path, root = Path(self.inputs[part.file].path), Path(self.root)
        return str(path.relative_to(root)) if path != root and path.is_relative_to(root) else path.name


def input_files(path: Path) -> list[Path]:
    """The Parquet files at `path`: itself, or those below it but for hidden ones and those that begin with `_`."""
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.rglob("*.parquet") if one.is_file())
    shown = [one for one in found if not any(name[0] in "._" for name in one.relative_to(path).parts)]
    if not shown:
        raise SetupError("there is no Parquet file in this folder", where=str(path), remedy="Name files *.parquet")
    return shown


def cut(
    files: Sequence[Path], check: Check, *, largest: int = PART_ROWS
) -> tuple[tuple[InputFile, ...], tuple[Part, ...]]:
    """The input as it is now, each file looked at by `check`, and its parts; a row group of more than `largest` rows
    becomes several. Raises ContractError for a file that is no whole Parquet file, or does not fit.
    """
    inputs, parts = [], list[Part]()
    for number, path in enumerate(files):
        with opened(path) as file:
            inputs.append(stamp(path))
            check(file.schema_arrow, where=str(path))
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            parts += [
                Part(len(parts) + offset, number, *place)
                for offset, place in enumerate(_spans(sizes, PART_ROWS, largest))
            ]
    # A job without rows has one part all the same, so that its output has columns.
    return tuple(inputs), tuple(parts) or (Part(0, 0, 0, 0, 0, 0),)


def schema_of(path: Path) -> pa.Schema:
    """The columns of a Parquet file. Raises ContractError."""
    with opened(path) as file:
        return file.schema_arrow


def stamp(path: Path) -> InputFile:
    """A file as it is now."""
    about = path.stat()
    return InputFile(str(path), about.st_size, about.st_mtime_ns)


def _spans(sizes: Sequence[int], most: int, largest: int) -> Iterator[tuple[int, int, int, int, int]]:
    """First and last row group, first row, rows, and rows to skip of each part."""
    first, start, rows = 0, 0, 0
    for group, size in enumerate(sizes):
        if rows and rows + size > most:
            yield first, group, start, rows, 0
            first, start, rows = group, start + rows, 0
        if size > largest:
            # Pieces of like size, whole portions long: whoever reads several of them meets the same portions.
            step = -(-size // -(-size // largest) // PORTION) * PORTION
            for skip in range(0, size, step):
                yield group, group + 1, start + skip, min(step, size - skip), skip
            first, start = group + 1, start + size
        else:
            rows += size
    if rows:
        yield first, len(sizes), start, rows, 0


def opened(path: Path, *, buffer: int = 0) -> pq.ParquetFile:
    """A Parquet file; `buffer`: the bytes of a column that are read at a time. Raises SetupError or ContractError."""
    try:
        return pq.ParquetFile(path, buffer_size=buffer, pre_buffer=False)
    except FileNotFoundError:
        raise SetupError("there is no such file", where=str(path), remedy="Check the path") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ContractError(
            f"this is no whole Parquet file: {reason}", where=str(path), remedy="Write it again"
        ) from None
