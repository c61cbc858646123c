"""The degradation ladder: whatever the model does, an answer is a declared one and says so; else nobody gets one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trilane as tl
from tests.shop import T0
from tests.unit.serving.conftest import Shop
from trilane.errors import ModelError, UnavailableError
from trilane.models.signature import Matrix, Scores, Signature
from trilane.serving.endpoint import Endpoint
from trilane.serving.engine import Engine, Scored, rebuild
from trilane.serving.reading import Reading, Rows


class Formula:
    """A runtime that scores by a function of the last two columns: basket.basket and basket.over_mean."""

    def __init__(self, width: int, formula: Callable[[Matrix], Scores]) -> None:
        self.signature = Signature.of([f"c{n}" for n in range(width)])
        self._formula = formula

    def predict(self, matrix: Matrix) -> Scores:
        return self._formula(matrix)

    def close(self) -> None:
        """There is nothing to close."""


def _engine(
    shop: Shop, formula: Callable[[Matrix], Scores] = lambda m: m[:, -2].astype(np.float64), *, ladder: bool = True
) -> Engine:
    model = shop.definitions.models["big"]
    endpoint = Endpoint("e", model=model, deadline="1s", fallback=[tl.constant(0.25)] if ladder else [])
    return Engine(endpoint, bundle="b" * 64, reader=shop.reader(), runtime=Formula(len(model.feature_names), formula))


def _raising(error: Exception) -> Callable[[Matrix], Scores]:
    def formula(_: Matrix) -> Scores:
        raise error

    return formula


def test_a_healthy_answer_is_the_models_own(shop: Shop) -> None:
    shop.run_nearline()
    shop.land(T0 - 86_400_000_000)
    answers = _engine(shop).answer(shop.rows("a", "b"), now=T0, id="x")
    assert answers.scores.tolist() == [10, 10]
    assert answers.by_model.tolist() == [True, True]
    assert (answers.degraded, answers.why(0)) == (0, ())


@pytest.mark.parametrize("error", [ModelError("it broke"), RuntimeError("a defect of the runtime")])
def test_a_model_that_raises_is_answered_by_the_ladder(shop: Shop, error: Exception) -> None:
    answers = _engine(shop, _raising(error)).answer(shop.rows("a", "b"), now=T0, id="x")
    assert answers.scores.tolist() == [0.25, 0.25]
    assert not answers.by_model.any()
    assert answers.degraded == 2
    assert str(error) in answers.why(0)[-1]


@pytest.mark.parametrize("error", [ModelError("it broke"), RuntimeError("a defect of the runtime")])
def test_without_a_ladder_a_model_that_raises_is_unavailable(shop: Shop, error: Exception) -> None:
    with pytest.raises(UnavailableError, match=r"it broke|a defect") as refused:
        _engine(shop, _raising(error), ladder=False).answer(shop.rows("a"), now=T0, id="x")
    assert refused.value.remedy


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_degrades_its_own_row_alone(shop: Shop, score: float) -> None:
    shop.run_nearline()
    shop.land(T0 - 86_400_000_000)

    def formula(matrix: Matrix) -> Scores:
        return np.where(matrix[:, -2] > 50, score, matrix[:, -2]).astype(np.float64)

    rows = [*shop.rows("a"), *shop.rows("a", basket=60.0), *shop.rows("a", basket=5.0)]
    answers = _engine(shop, formula).answer(rows, now=T0, id="x")
    assert answers.scores.tolist() == [10, 0.25, 5]
    assert answers.by_model.tolist() == [True, False, True]
    assert [answers.why(row) for row in range(3)] == [(), ("model: a score is not a finite number",), ()]
    assert answers.degraded == 1
    for some, degraded, whys in (([0, 2], 0, [(), ()]), ([1, 2], 1, [answers.why(1), ()])):
        part = answers.of(some)
        assert (part.degraded, [part.why(row) for row in range(2)]) == (degraded, whys)
        assert part.scores.tolist() == [answers.scores[row] for row in some]
        assert part.by_model.tolist() == [answers.by_model[row] for row in some]
        assert part.reading.values.shape == (2, answers.reading.values.shape[1])


def test_a_score_that_is_no_number_is_unavailable_without_a_ladder(shop: Shop) -> None:
    engine = _engine(shop, lambda m: np.full(len(m), np.nan), ladder=False)
    with pytest.raises(UnavailableError, match="not a finite number"):
        engine.answer(shop.rows("a"), now=T0, id="x")


def test_past_its_deadline_a_row_is_answered_by_the_ladder_with_nothing_read(shop: Shop) -> None:
    engine = _engine(shop, _raising(AssertionError("no work may be done")))
    answers = engine.answer_without_model(shop.rows("a"), now=T0, id="x", reason="deadline passed")
    assert answers.scores.tolist() == [0.25]
    assert answers.why(0) == ("deadline passed",)
    assert np.isnan(answers.reading.values).all()
    with pytest.raises(UnavailableError, match="deadline passed"):
        _engine(shop, ladder=False).answer_without_model(shop.rows("a"), now=T0, id="x", reason="deadline passed")


@pytest.mark.parametrize("is_long", [False, True])
def test_what_is_awaited_of_store_and_model_gives_the_same_answers(shop: Shop, is_long: bool) -> None:
    shop.run_nearline()
    engine, rows, until = _engine(shop, lambda m: np.tanh(m[:, -2].astype(np.float64))), shop.rows("a", "b"), []

    async def read(rows: Rows, now: int, due: float) -> Reading:
        until.append(due)
        await asyncio.sleep(0)
        return engine.reader.read(rows, now)

    async def elsewhere(score: Callable[[], Scored]) -> Scored:
        await asyncio.sleep(0)
        return score()

    start = time.perf_counter()
    found = asyncio.run(
        engine.answer_later(
            rows, now=T0, id="x", deadline=start + 60, read=read, elsewhere=elsewhere if is_long else None
        )
    )
    expected = engine.answer(rows, now=T0, id="x")
    assert (found.scores.tolist(), found.faults) == (expected.scores.tolist(), expected.faults)
    assert found.reading.values.tobytes() == expected.reading.values.tobytes()
    assert [*found.parts] == ["features", "model"]
    assert start < until[0] < start + 60, "a part of the time is left for the model"


def test_values_beyond_float32_are_infinite_and_no_warning(shop: Shop) -> None:
    answers = _engine(shop, lambda m: np.isinf(m[:, -2]).astype(np.float64)).answer(
        shop.rows("a", basket=1e300), now=T0, id="x"
    )
    assert answers.scores.tolist() == [1]


def test_a_recorded_row_gives_its_score_again(shop: Shop) -> None:
    engine = _engine(shop, lambda m: np.tanh(m[:, -2].astype(np.float64)))
    answers = engine.answer(shop.rows("a", basket=0.3), now=T0, id="x")
    features = dict(zip(engine.reader.plan.names, answers.reading.values[0].tolist(), strict=True))
    assert rebuild(engine, features) == answers.scores[0]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.one_of(st.just(-1.0), st.floats(-1e3, 1e3))),
        min_size=1,
        max_size=12,
    )
)
def test_one_rows_answer_is_the_same_in_any_company(shop: Shop, asked: list[tuple[str | None, float]]) -> None:
    def formula(matrix: Matrix) -> Scores:
        return np.where(np.isnan(matrix[:, -2]), np.nan, np.where(matrix[:, -2] > 500, np.inf, matrix[:, -2] * 0.1))

    engine = _engine(shop, formula)
    rows = [row for key, basket in asked for row in shop.rows(key, basket=basket)]
    together = engine.answer(rows, now=T0, id="x")
    for number, row in enumerate(rows):
        alone = engine.answer([row], now=T0, id="x")
        assert together.scores[number] == alone.scores[0]
        assert together.by_model[number] == alone.by_model[0]
        assert together.why(number) == alone.why(0)
    assert together.degraded == sum(bool(together.why(row)) for row in range(len(rows)))


def test_a_batch_is_long_by_the_models_own_work_and_not_by_what_it_waited_for(shop: Shop) -> None:
    worked, waited = 0.0, 0.0

    def formula(matrix: Matrix) -> Scores:
        nonlocal worked, waited
        worked += 1e-5 * len(matrix)
        waited += 1.0  # for other threads, say
        return np.zeros(len(matrix))

    model = shop.definitions.models["big"]
    engine = Engine(
        Endpoint("e", model=model, deadline="1h"),
        bundle="b" * 64,
        reader=shop.reader(),
        runtime=Formula(len(model.feature_names), formula),
        timer=lambda: waited,
        work=lambda: worked,
    )
    for size in (1, 100) * 200:
        engine.answer(shop.rows(*"a" * size), now=T0, id="x")
    assert not engine.is_long(100)
    assert engine.is_long(300)
