"""A second question is asked of slow reads alone, and of no more than the declared share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trilane.stores.online.hedging import Hedging


def _asked(hedging: Hedging, times: list[float]) -> int:
    for seconds in times:
        delay = hedging.delay
        if delay is not None and seconds > delay:
            hedging.ask()
        hedging.note(seconds)
    return hedging.asked


def test_nothing_is_asked_twice_before_it_is_known_how_long_reads_take() -> None:
    assert _asked(Hedging(1.0), [1.0] * 49) == 0


def test_most_reads_are_shorter_than_the_delay_at_any_scale() -> None:
    for scale in (1e-6, 1e-3, 1.0):
        hedging = Hedging(0.05)
        times = [(1 + (number * 7919) % 100) * scale for number in range(5_000)]
        _asked(hedging, times)
        assert hedging.delay is None or 80 * scale < hedging.delay < 110 * scale


@given(st.lists(st.floats(0.0, 10.0), max_size=400), st.floats(0.0, 1.0))
def test_no_more_than_the_share_is_asked_twice(times: list[float], share: float) -> None:
    assert _asked(Hedging(share), times) <= share * len(times) + 1e-6
