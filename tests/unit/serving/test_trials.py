"""What seems to take too long is tried seldom, and once a second at least."""

from __future__ import annotations

from trilane.serving.trials import Trials


def test_what_is_expected_before_anything_ran_is_believed_for_a_second() -> None:
    trials = Trials()
    assert not trials.due(7.0)
    assert not trials.due(7.9)
    assert trials.due(8.0)


def test_the_next_is_due_after_twenty_times_what_one_takes() -> None:
    trials = Trials()
    trials.began(1.0, expected=0.02)
    assert not trials.due(1.3)
    assert trials.due(1.4)
    trials.ended(0.001)
    assert trials.due(1.03)


def test_one_is_due_once_a_second_however_long_they_take() -> None:
    trials = Trials()
    trials.began(1.0, expected=60.0)
    assert not trials.due(1.9)
    assert trials.due(2.0)


def test_none_follows_at_once_however_quick_one_was() -> None:
    trials = Trials()
    trials.began(1.0, expected=0.0)
    trials.ended(0.0)
    assert not trials.due(1.0)
    assert trials.due(1.01)
