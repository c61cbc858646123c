"""A file is hashed once for as long as it stays as it is, and again whenever it does not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from trilane.clock import SimulatedClock, WallClock
from trilane.models.stamps import Stamps

LATER = 3_600_000_000


@pytest.fixture
def later() -> SimulatedClock:
    return SimulatedClock(WallClock().now() + LATER)


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "weights.bin"
    path.write_bytes(content)
    return path


def _forge(folder: Path, digest: str) -> None:
    """What was noted is this from now on."""
    for note in folder.iterdir():
        note.write_text(" ".join([*note.read_text().split()[:-1], digest]))


def test_the_digest_is_that_of_the_content(tmp_path: Path, later: SimulatedClock) -> None:
    path = _file(tmp_path, b"abc")
    assert Stamps(None).digest(path) == hashlib.sha256(b"abc").hexdigest()
    assert Stamps(tmp_path / "notes", clock=later).digest(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_stays_as_it_is_is_not_read_again(tmp_path: Path, later: SimulatedClock) -> None:
    path, stamps = _file(tmp_path, b"abc"), Stamps(tmp_path / "notes", clock=later)
    stamps.digest(path)
    _forge(tmp_path / "notes", "noted")
    assert stamps.digest(path) == "noted"


@pytest.mark.parametrize("change", ["written", "replaced", "touched"])
def test_a_file_that_was_changed_is_read_again(tmp_path: Path, later: SimulatedClock, change: str) -> None:
    path, stamps = _file(tmp_path, b"abc"), Stamps(tmp_path / "notes", clock=later)
    stamps.digest(path)
    _forge(tmp_path / "notes", "noted")
    if change == "written":
        path.write_bytes(b"abd")
    elif change == "replaced":
        _file(tmp_path / "notes", b"abd").replace(path)
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "touched")))
    assert stamps.digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_just_written_is_not_noted(tmp_path: Path) -> None:
    path = _file(tmp_path, b"abc")
    Stamps(tmp_path / "notes").digest(path)
    assert not (tmp_path / "notes").exists()


def test_notes_that_are_no_notes_are_not_believed(tmp_path: Path, later: SimulatedClock) -> None:
    path, stamps = _file(tmp_path, b"abc"), Stamps(tmp_path / "notes", clock=later)
    stamps.digest(path)
    for note in (tmp_path / "notes").iterdir():
        note.write_bytes(b"\xff\xfe")
    assert stamps.digest(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_folder_that_cannot_be_made_costs_no_answer(tmp_path: Path, later: SimulatedClock) -> None:
    path = _file(tmp_path, b"abc")
    assert Stamps(path / "notes", clock=later).digest(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Stamps(None).digest(tmp_path / "none")
