"""Refused payloads are kept with the reason, once each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from trilane.errors import SetupError
from trilane.sources.dead_letters import DeadLetter, DeadLetters

LETTER = DeadLetter(
    source="departures",
    code="type",
    path="$.dep_delay",
    reason="Expected `float`, got `str`",
    payload=b'{"dep_delay": "x"}\xff\x00',
    at=1_000_000,
    partition=0,
    offset=17,
)


@pytest.fixture
def letters(tmp_path: Path) -> Iterator[DeadLetters]:
    with contextlib.closing(DeadLetters(tmp_path / "state" / "dead.sqlite")) as opened:
        yield opened


def test_before_the_first_letter_there_are_none_and_no_file(letters: DeadLetters, tmp_path: Path) -> None:
    assert letters.count() == {}
    assert letters.read() == []
    letters.add([])
    assert list((tmp_path / "state").iterdir()) == []


def test_a_letter_is_read_back_as_it_was(letters: DeadLetters) -> None:
    letters.add([LETTER])
    assert letters.read() == [replace(LETTER, id=1)]


def test_a_letter_from_the_log_counts_once(letters: DeadLetters) -> None:
    letters.add([LETTER, LETTER])
    letters.add([replace(LETTER, reason="said differently")])
    letters.add([replace(LETTER, partition=1), replace(LETTER, source="arrivals")])
    assert letters.count() == {("departures", "type"): 2, ("arrivals", "type"): 1}


def test_a_letter_refused_at_the_door_is_kept_each_time(letters: DeadLetters) -> None:
    at_the_door = replace(LETTER, partition=None, offset=None)
    letters.add([at_the_door, at_the_door])
    letters.add([at_the_door])
    assert letters.read() == [replace(at_the_door, id=number) for number in (3, 2, 1)]


def test_letters_are_read_by_source_with_the_newest_first(letters: DeadLetters) -> None:
    letters.add([replace(LETTER, offset=n) for n in range(5)])
    letters.add([replace(LETTER, source="arrivals", code="late")])
    assert [letter.offset for letter in letters.read("departures", limit=2)] == [4, 3]
    assert letters.read(limit=1)[0].source == "arrivals"
    assert letters.count("arrivals") == {("arrivals", "late"): 1}
    assert letters.count("nobody") == {}


def test_many_writers_lose_nothing(letters: DeadLetters, tmp_path: Path) -> None:
    def write(name: int) -> None:
        with contextlib.closing(DeadLetters(tmp_path / "state" / "dead.sqlite")) as own:
            for offset in range(25):
                own.add([replace(LETTER, partition=name, offset=offset)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert letters.count() == {("departures", "type"): 100}


def test_a_file_of_another_kind_is_refused_with_its_path(letters: DeadLetters, tmp_path: Path) -> None:
    path = tmp_path / "state" / "dead.sqlite"
    path.write_bytes(b"this is a diary, not a database" * 1_000)
    with pytest.raises(SetupError, match="not a sound SQLite database") as caught:
        letters.add([LETTER])
    assert caught.value.where == str(path)
    assert path.read_bytes().startswith(b"this is a diary")
