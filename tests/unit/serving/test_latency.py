"""What a batch costs is learnt from what batches cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.latency import LatencyModel


def _line(rows: int) -> float:
    return 1e-3 + 2e-5 * rows


def test_the_line_is_found_whatever_the_model_began_with() -> None:
    model = LatencyModel(alpha=1.0, beta=1.0)
    random = np.random.default_rng(1)
    for rows in random.integers(1, 200, 400).tolist():
        model.observe(rows, _line(rows))
    assert model.alpha == pytest.approx(1e-3, rel=0.05)
    assert model.beta == pytest.approx(2e-5, rel=0.05)
    assert model.expected(100) == pytest.approx(_line(100), rel=0.05)


def test_a_sweep_is_a_prior_that_traffic_corrects() -> None:
    model = LatencyModel.of({rows: 2 * _line(rows) for rows in (1, 8, 64, 256)})
    assert model.expected(64) == pytest.approx(2 * _line(64), rel=0.05)
    for _ in range(300):
        for rows in (1, 8, 64, 256):
            model.observe(rows, _line(rows))
    assert model.expected(64) == pytest.approx(_line(64), rel=0.1)


def test_a_sweep_of_the_model_alone_is_soon_outweighed_by_what_reads_add_to_it() -> None:
    model = LatencyModel.of({rows: 1e-6 + 2e-7 * rows for rows in (1, 8, 64, 256)})
    sizes = np.random.default_rng(3).choice([1, 2, 5, 20, 60], 200).tolist()
    for rows in sizes[:20]:
        model.observe(rows, _line(rows))
    assert model.expected(1) == pytest.approx(_line(1), rel=0.5)
    for rows in sizes[20:]:
        model.observe(rows, _line(rows))
    assert model.alpha == pytest.approx(_line(0), rel=0.1)
    for rows in (1, 20, 60):
        assert model.expected(rows) == pytest.approx(_line(rows), rel=0.2)


def test_what_was_learnt_can_be_told_by_size() -> None:
    model = LatencyModel.of({rows: _line(rows) for rows in (1, 8, 64)})
    assert list(model.table()) == [1, 8, 64]
    for rows, (typical, upper) in model.table().items():
        assert typical == pytest.approx(_line(rows), rel=0.05)
        assert upper >= typical


def test_what_is_quicker_than_believed_after_a_silence_is_believed_at_once_for_all_sizes() -> None:
    model = LatencyModel.of({rows: _line(rows) for rows in (1, 8, 64)})
    random = np.random.default_rng(2)
    for rows in (1, 8, 64) * 200:
        model.observe(rows, _line(rows) * 100 * float(random.choice([1, 6])))
    assert model.upper(1) > 200 * _line(1)
    model.renew(1, _line(1))
    assert model.expected(1) == pytest.approx(_line(1), rel=0.1)
    assert model.expected(64) == pytest.approx(_line(64), rel=0.3)
    for _ in range(6):  # how far they stray is forgotten by halves
        model.renew(1, _line(1))
    assert model.upper(1) < 1.2 * _line(1)


def test_what_is_as_slow_as_believed_after_a_silence_is_one_observation_more() -> None:
    one, other = (LatencyModel.of({rows: _line(rows) for rows in (1, 8, 64)}) for _ in range(2))
    one.renew(8, 3 * _line(8))
    other.observe(8, 3 * _line(8))
    for seconds in (0.0, -1.0, math.inf, math.nan):
        one.renew(8, seconds)
    one.renew(0, 1e-9)
    assert one.table() == other.table()


def test_traffic_of_one_size_does_not_bend_the_line() -> None:
    model = LatencyModel.of({rows: _line(rows) for rows in (1, 8, 64, 256)})
    before = model.beta
    for _ in range(5_000):
        model.observe(1, 1.5 * _line(1))
    assert model.expected(1) == pytest.approx(1.5 * _line(1), rel=0.05)
    assert model.beta == pytest.approx(before, rel=0.5)


def test_one_pause_of_the_machine_hardly_moves_it() -> None:
    model = LatencyModel.of({rows: _line(rows) for rows in (1, 8, 64, 256)})
    model.observe(8, 10.0)
    assert model.expected(8) < 1.2 * _line(8)


def test_the_upper_estimate_is_exceeded_rarely_but_is_no_fantasy() -> None:
    random = np.random.default_rng(2)
    model = LatencyModel(alpha=1e-3, beta=2e-5, quantile=0.95)
    noise = random.lognormal(0, 0.3, 6_000)
    above = 0
    for i, factor in enumerate(noise.tolist()):
        rows = 1 << (i % 7)
        if i >= 3_000:
            above += _line(rows) * factor > model.upper(rows)
        model.observe(rows, _line(rows) * factor)
    assert 0.02 < above / 3_000 < 0.10


def test_an_upper_estimate_that_a_fault_left_behind_falls_within_some_hundred_batches() -> None:
    random = np.random.default_rng(2)
    model = LatencyModel.of({rows: _line(rows) for rows in (1, 8, 64)})
    for i in range(200):
        model.observe(1, _line(1) * (7.0 if i % 5 == 0 else 1.0))
    assert model.upper(1) > 5 * _line(1)
    for factor in random.lognormal(0, 0.1, 200).tolist():
        model.observe(1, _line(1) * factor)
    assert _line(1) < model.upper(1) < 1.6 * _line(1)


def test_how_quick_batches_ever_were_is_kept_while_they_are_slow_but_not_taken_from_a_sweep() -> None:
    model = LatencyModel.of({rows: _line(rows) / 10 for rows in (1, 8, 64)})
    assert model.at_best(8) == 0
    for seconds in (_line(8), 50 * _line(8)):
        for _ in range(100):
            model.observe(8, seconds)
    assert model.expected(8) == pytest.approx(50 * _line(8), rel=0.1)
    assert 0.5 * _line(8) < model.at_best(8) < 2 * _line(8)


def test_a_cost_that_bends_is_told_size_by_size() -> None:
    model = LatencyModel()
    for _ in range(300):
        for rows in (1, 8, 64, 512):
            model.observe(rows, _line(rows) * (3 if rows == 512 else 1))
    assert model.expected(512) == pytest.approx(3 * _line(512), rel=0.1)
    assert model.expected(8) == pytest.approx(_line(8), rel=0.1)


def test_a_size_that_was_never_seen_strays_from_the_line_as_the_nearest_that_was() -> None:
    model = LatencyModel()
    for _ in range(300):
        for rows in (1, 8, 512):
            model.observe(rows, _line(rows) * (3 if rows == 512 else 1))
    straying = {rows: model.expected(rows) / (model.alpha + model.beta * rows) for rows in (8, 32, 256, 512, 4_096)}
    assert straying[32] == pytest.approx(straying[8])
    assert straying[256] == straying[4_096] == pytest.approx(straying[512])
    model.observe(32, 2 * _line(32))
    assert model.expected(32) > 1.3 * _line(32)


@given(st.integers(1, 4_096), st.floats(1e-6, 10))
def test_as_many_rows_fit_as_take_no_longer(most: int, seconds: float) -> None:
    model = LatencyModel(alpha=1e-3, beta=2e-5)
    rows = model.rows_within(seconds, most)
    assert 0 <= rows <= most
    assert rows == 0 or model.upper(rows) <= seconds
    assert rows == most or model.upper(rows + 1) > seconds


@given(st.lists(st.tuples(st.integers(-3, 5_000), st.floats(allow_nan=True, allow_infinity=True))))
def test_no_observation_makes_it_answer_nonsense(observed: list[tuple[int, float]]) -> None:
    model = LatencyModel()
    for rows, seconds in observed:
        model.observe(rows, seconds)
    for rows in (1, 7, 1_000):
        assert 0 < model.expected(rows) < math.inf
        assert model.expected(rows) <= model.upper(rows) < math.inf


def test_of_brief_batches_that_take_as_long_as_usual_some_are_learnt_from() -> None:
    model = LatencyModel(alpha=1e-4, beta=1e-6)
    assert all(model.sample(1, 1e-4) for _ in range(64))  # until enough is known
    assert sum(model.sample(1, 1.1e-4) for _ in range(100)) == 25
    assert all(model.sample(1, 5e-3) for _ in range(100))  # long ones are no trouble
    model = LatencyModel(alpha=1e-4, beta=1e-6)
    for _ in range(70):
        model.sample(1, 1e-4)
    assert model.sample(1, 8e-4)  # and what is unusual is looked at closely
    assert all(model.sample(1, 8e-4) for _ in range(64))
    assert model.expected(1) == pytest.approx(8e-4, rel=0.2)
