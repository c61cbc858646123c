"""Budgets add up over processes and restarts, and wake somebody when they burn, and not when they no longer do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import SimulatedClock
from trilane.feedback.error_budget import DAY, HOUR, MINUTE, WINDOWS, BudgetLog, Budgets, standing
from trilane.serving.objective_count import ObjectiveCount

NOW = tl.instant("2026-03-02T12:00:30Z")
FRESH = tl.objective("fresh", at_least=0.99)
IN_TIME = tl.objective("in_time", at_least=0.999)


def _steady(rate: float, since: int = 30 * DAY, until: int = 0) -> dict[int, tuple[int, int]]:
    """By minutes ago, a thousand answers each; of those between `since` and `until` ago a share `rate` bad."""
    return {
        ago: (1_000, round(1_000 * rate) if until // MINUTE <= ago < since // MINUTE else 0)
        for ago in range(30 * DAY // MINUTE)
    }


def _counts(minutes: dict[int, tuple[int, int]], span: int) -> tuple[int, int]:
    chosen = [minutes[ago] for ago in minutes if ago < span // MINUTE]
    return sum(asked for asked, _ in chosen), sum(bad for _, bad in chosen)


@pytest.mark.parametrize(
    ("rate", "since", "until", "alert"),
    [
        (0.0, 0, 0, None),
        (0.01, 30 * DAY, 0, None),  # burns just as fast as it may
        (0.02, 4 * DAY, 0, "ticket"),
        (0.08, 7 * HOUR, 0, "page"),
        (0.2, 2 * HOUR, 0, "page"),
        (0.2, 2 * HOUR, HOUR, None),  # it is over, so nobody is woken
        (1.0, 3 * MINUTE, 0, None),  # too short yet to have burnt much
        (1.0, 15 * MINUTE, 0, "page"),
    ],
)
def test_somebody_is_woken_by_what_has_burnt_much_and_still_burns(
    rate: float, since: int, until: int, alert: str | None
) -> None:
    minutes = _steady(rate, since, until)
    found = standing(FRESH, lambda span: _counts(minutes, span))
    assert found.alert == alert


def test_the_budget_is_used_up_when_as_much_is_bad_as_it_allows() -> None:
    for rate, left in ((0.0, 1.0), (0.005, 0.5), (0.01, 0.0), (0.02, -1.0)):
        found = standing(FRESH, lambda _, rate=rate: (1_000, round(1_000 * rate)))  # type: ignore[misc]
        assert found.left == pytest.approx(left)
        assert found.compliance == pytest.approx(1 - rate)
        assert found.burn["1h"] == pytest.approx(rate / 0.01)


def test_of_no_answers_nothing_is_burnt_and_of_few_nobody_is_woken() -> None:
    idle = standing(FRESH, lambda _: (0, 0))
    assert (idle.compliance, idle.left, idle.alert, set(idle.burn.values())) == (1.0, 1.0, None, {0.0})
    assert standing(FRESH, lambda _: (9, 9)).alert is None


def test_windows_longer_than_the_objective_are_left_out() -> None:
    found = standing(tl.objective("fresh", at_least=0.9, over="1d"), lambda _: (100, 50))
    assert set(found.burn) == {"5m", "30m", "1h", "6h"}


@given(st.lists(st.tuples(st.integers(0, 40 * 24 * 60), st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_counts_of_any_windows_are_those_of_their_minutes(
    tmp_path_factory: pytest.TempPathFactory, minutes: list[tuple[int, int, int]]
) -> None:
    log = BudgetLog(tmp_path_factory.mktemp("budgets") / "o.db")
    for ago, good, bad in minutes:
        log.add({("e", "fresh"): (good + bad, bad), ("e", "in_time"): (1, 0)}, NOW - ago * MINUTE)
        log.add({("other", "fresh"): (7, 7)}, NOW)
    for span in (*WINDOWS.values(), 30 * DAY):
        chosen = [(good + bad, bad) for ago, good, bad in minutes if ago < span // MINUTE]
        assert log.counts("e", FRESH, NOW, span) == (sum(a for a, _ in chosen), sum(b for _, b in chosen))
    log.close()


def test_processes_add_up_and_a_restart_goes_on(tmp_path: Path) -> None:
    clock = SimulatedClock(NOW)
    for worker in range(3):
        budgets, count = (
            Budgets(tmp_path / "o.db", clock, period=3_600),
            ObjectiveCount([FRESH, IN_TIME], deadline=0.05),
        )
        budgets.keep("e", count)
        count.answered(10, 0.01)
        count.refused(worker)
        budgets.write()
        count.answered(5, 0.06)
        budgets.close()
    log = BudgetLog(tmp_path / "o.db")
    assert log.counts("e", IN_TIME, NOW, HOUR) == (48, 18)
    assert log.counts("e", FRESH, NOW, HOUR) == (0, 0)
    log.forget(NOW + 2 * MINUTE)
    assert log.counts("e", IN_TIME, NOW, HOUR) == (0, 0)
    log.close()


def test_what_cannot_be_written_is_written_with_the_next_and_counting_without_objectives_starts_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = threading.active_count()
    idle = Budgets(tmp_path / "none.db", SimulatedClock(NOW))
    assert threading.active_count() == before
    idle.close()
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "o.db").mkdir()  # something else has the name
    budgets, count = (
        Budgets(tmp_path / "o.db", SimulatedClock(NOW), period=3_600),
        ObjectiveCount([IN_TIME], deadline=1),
    )
    budgets.keep("e", count)
    count.answered(4, 0.1)
    budgets.write()
    assert "cannot be written" in caplog.text
    (tmp_path / "o.db").rmdir()
    count.answered(1, 0.1)
    budgets.write()
    budgets.close()
    log = BudgetLog(tmp_path / "o.db")
    assert log.counts("e", IN_TIME, NOW, HOUR) == (5, 0)
    log.close()
