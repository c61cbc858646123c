"""A worker knows whether it is being replaced, and when its successor listens."""

from __future__ import annotations

from pathlib import Path

from trilane.apps.rounds import Rounds


def test_no_round_was_begun_at_first(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, 8321)
    assert not rounds.has_successor(1)
    assert not rounds.successor_listens(1)


def test_a_worker_has_a_successor_once_a_later_round_began_and_it_listens_only_then(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, 8321)
    rounds.listen(1)
    rounds.begin(2)
    assert rounds.has_successor(1)
    assert not rounds.has_successor(2)
    assert not rounds.successor_listens(1)
    rounds.listen(2)
    assert rounds.successor_listens(1)


def test_a_worker_of_an_earlier_round_that_listens_late_takes_nothing_back(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, 8321)
    rounds.listen(3)
    rounds.listen(2)
    assert rounds.successor_listens(2)


def test_the_rounds_of_another_port_and_of_a_former_server_are_not_ours(tmp_path: Path) -> None:
    Rounds(tmp_path, 8321).begin(2)
    assert not Rounds(tmp_path, 8322).has_successor(1)
    (tmp_path / "serve-8321.round").write_text("torn")
    assert not Rounds(tmp_path, 8321).has_successor(1)
    Rounds(tmp_path, 8321).begin(5)
    Rounds(tmp_path, 8321).clear()
    assert not Rounds(tmp_path, 8321).has_successor(1)
