"""What one process of a server counted is told by the others, and stays when it is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from trilane.apps.server.counts import Counts, forget_counts
from trilane.serving.inference import Statistics
from trilane.serving.tally import Tally

PORT = 8321


def counted(*questions: int) -> list[Statistics]:
    return [tally.statistics() for tally in tallies(*questions) if tally.questions]


def tallies(*questions: int) -> list[Tally]:
    """Of so many models, each with so many questions that failed."""
    found = [Tally(f"m{place}", "1", now=lambda: 0) for place, _ in enumerate(questions)]
    for tally, number in zip(found, questions, strict=True):
        for _ in range(number):
            tally.failed(0.25)
    return found


def written(folder: Path, *processes: list[Tally], alone: bool = False) -> list[Counts]:
    """Processes that counted so much, and have ended."""

    async def begin() -> list[Counts]:
        found = [Counts(folder, PORT, alone=alone) for _ in processes]
        for counts, own in zip(found, processes, strict=True):
            counts.begin(lambda own=own: own, asyncio.get_running_loop())  # type: ignore[misc]
            counts.close()
        return found

    return asyncio.run(begin())


def test_each_tells_what_the_others_counted(tmp_path: Path) -> None:
    one, other = written(tmp_path, tallies(3, 0, 1), tallies(4))
    assert list(one.others()) == counted(4)
    assert list(other.others()) == counted(3, 0, 1)
    assert list(other.others()) == counted(3, 0, 1)  # read once, and still told


def test_hundreds_are_written_in_pieces_and_whole(tmp_path: Path) -> None:
    one, _ = written(tmp_path, tallies(1), tallies(*range(300)))
    assert list(one.others()) == counted(*range(300))


def test_what_was_counted_since_is_written_again(tmp_path: Path) -> None:
    async def count() -> None:
        one, other, own = Counts(tmp_path, PORT, alone=False), Counts(tmp_path, PORT, alone=False), tallies(1)
        one.begin(lambda: own, asyncio.get_running_loop())
        assert list(other.others()) == counted(1)
        own[0].failed(0.25)
        one.close()
        assert list(other.others()) == counted(2)

    asyncio.run(count())


def test_one_that_counted_nothing_writes_nothing(tmp_path: Path) -> None:
    one, _ = written(tmp_path, tallies(3), tallies(0, 0))
    assert list(one.others()) == []


def test_what_is_torn_is_left_out(tmp_path: Path) -> None:
    one, _ = written(tmp_path, tallies(3), tallies(4))
    (tmp_path / "statistics" / str(PORT) / "7-torn.json").write_bytes(b'[["m"')
    assert list(one.others()) == counted(4)


def test_a_server_that_is_started_anew_counts_from_nothing(tmp_path: Path) -> None:
    one, _ = written(tmp_path, tallies(3), tallies(4))
    forget_counts(tmp_path, PORT + 1)
    assert list(one.others()) == counted(4)
    forget_counts(tmp_path, PORT)
    assert list(one.others()) == []


def test_one_process_alone_writes_and_reads_nothing(tmp_path: Path) -> None:
    (one,) = written(tmp_path, tallies(3), alone=True)
    assert list(one.others()) == []
    assert not [*tmp_path.iterdir()]
