"""The folder of a scoring job's output, and how it goes on after a kill.

    part-00000.parquet        the scores of a part
    _rejects/part-00000.parquet   the rows of it that were refused, with reasons; only if there are any
    _job.json                 the job
    _parts.ndjson             a line for each part that is done, in the order of their ends
    _input/                   the rows of a table that is no plain Parquet, until the job is done
    _lock                     held while the job runs

Laws: a file appears whole or not at all, and before its line; a part counts if its line is whole and its files have the
digests there; whatever else lies in the folder is made again, byte for byte. A folder belongs to one job, and is left
alone if it holds anything else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trilane.apps.scoring.job import Done, Job
from trilane.errors import ConflictError, SetupError

__all__ = ["Output", "digest_of", "drafting"]

_JOB, _PARTS, _LOCK, _REJECTS, _INPUT = "_job.json", "_parts.ndjson", "_lock", "_rejects", "_input"
_DRAFT = ".draft"


class Output:
    """The folder at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def job(self) -> Job | None:
        """The job that the folder belongs to; None if it is new. Raises ConflictError if it holds something else."""
        try:
            return msgspec.json.decode((self.path / _JOB).read_bytes(), type=Job)
        except (FileNotFoundError, NotADirectoryError):
            pass  # no job yet: then nothing else may be there either
        except (OSError, msgspec.DecodeError) as error:
            raise ConflictError(f"its job cannot be read: {error}", where=str(self.path), remedy=_ELSEWHERE) from None
        strange = [one for one in self.path.iterdir() if one.name not in (_LOCK, _INPUT)] if self.path.is_dir() else []
        if strange or (self.path.exists() and not self.path.is_dir()):
            raise ConflictError("there is something here that is no output", where=str(self.path), remedy=_ELSEWHERE)
        return None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes off. Raises ConflictError if one is at work here, SetupError if nothing can be made."""
        with _telling(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            what = "another process is scoring into this folder"
            raise ConflictError(what, where=str(self.path), remedy="Wait until it ends") from None
        finally:
            os.close(lock)

    def begin(self, job: Job) -> None:
        """Makes the folder that of `job`."""
        with _telling(self.path):
            _replace(self.path / _JOB, msgspec.json.format(msgspec.json.encode(job)))

    def resume(self) -> dict[int, Done]:
        """What is done, by part; removes what killed workers left, and the line that was torn."""
        with _telling(self.path):
            for draft in [*self.path.glob(f"*{_DRAFT}"), *(self.path / _REJECTS).glob(f"*{_DRAFT}")]:
                draft.unlink(missing_ok=True)
            lines = self._lines()
            done = {one.part: one for one in lines if self._is_whole(one)}
            _replace(self.path / _PARTS, b"".join(msgspec.json.encode(one) + b"\n" for one in done.values()))
        return done

    def finish(self, done: Done) -> None:
        """Puts a part on record."""
        with _telling(self.path), (self.path / _PARTS).open("ab") as file:
            file.write(msgspec.json.encode(done) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def scores(self, part: int) -> Path:
        """Where the scores of a part go."""
        return self.path / f"part-{part:05}.parquet"

    def rejects(self, part: int) -> Path:
        """Where its refused rows go."""
        return self.path / _REJECTS / f"part-{part:05}.parquet"

    @property
    def input(self) -> Path:
        """Where the rows of a table are put, if they must be."""
        return self.path / _INPUT

    def clear_input(self) -> None:
        """Removes them."""
        shutil.rmtree(self.input, ignore_errors=True)

    def _lines(self) -> list[Done]:
        found = []
        for line in (self.path / _PARTS).read_bytes().split(b"\n")[:-1] if (self.path / _PARTS).exists() else ():
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Done))
        return found

    def _is_whole(self, done: Done) -> bool:
        files = [(self.scores(done.part), done.digest)]
        files += [(self.rejects(done.part), done.rejects)] if done.rejects else []
        return all(path.exists() and digest_of(path) == digest for path, digest in files)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when the block ends well, and is gone when it does not."""
    with _telling(path.parent):
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}{_DRAFT}")
        try:
            yield draft
            _settle(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    with drafting(path) as draft:
        draft.write_bytes(content)


def _settle(draft: Path, path: Path) -> None:
    _sync(draft)
    draft.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        remedy = "Free space or make the folder writable, then run the same command: what is done stays done"
        raise SetupError(f"the output cannot be written: {error}", where=str(folder), remedy=remedy) from error


_ELSEWHERE = "Name a folder that is empty or not there yet"
