"""The way down: each row gets the first rung that has an answer, is told which and why, and is rebuilt bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Never

import numpy as np
import pytest

import trilane as tl
from tests.shop import MINUTE, T0, event
from tests.unit.serving.conftest import Shop
from trilane.errors import DefinitionError, ModelError, UnavailableError
from trilane.models.model import Model
from trilane.models.signature import Matrix, Scores, Signature
from trilane.serving.breaker import OPEN, Breaker
from trilane.serving.degradation import RUNGS, Rung, SmallerModel
from trilane.serving.endpoint import Endpoint
from trilane.serving.engine import Answers, Engine, rebuild
from trilane.serving.guard import GuardedStore, HeldUp
from trilane.serving.ladder import Smaller
from trilane.serving.latency import LatencyModel
from trilane.serving.reading import FeatureReader

DAY = 24 * 60 * MINUTE


class Formula:
    """A runtime by a function of the matrix; `calls` counts how often it was asked."""

    def __init__(self, width: int, formula: Callable[[Matrix], Scores]) -> None:
        self.signature = Signature.of([f"c{n}" for n in range(width)])
        self.formula, self.calls = formula, 0

    def predict(self, matrix: Matrix) -> Scores:
        self.calls += 1
        return self.formula(matrix)

    def close(self) -> None:
        """There is nothing to close."""


class Watch:
    """A timer that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _broken(_: Matrix) -> Scores:
    raise ModelError("it broke")


def _baskets(matrix: Matrix) -> Scores:
    return matrix[:, -2].astype(np.float64)


class Made:
    """An endpoint whose models can be mended and broken while it answers."""

    def __init__(self, shop: Shop, ladder: Sequence[Rung], *, breaker: Breaker | None = None) -> None:
        model = shop.definitions.models["big"]
        self.first = Formula(len(model.feature_names), _baskets)
        self.second = Formula(1, lambda matrix: matrix[:, 0].astype(np.float64) / 3.0)
        self.watch = Watch()
        names = model.feature_names
        latency = LatencyModel(alpha=0.01, beta=0.0)
        other = None
        for rung in ladder:
            if isinstance(rung, SmallerModel):
                columns = np.array([names.index(name) for name in rung.model.feature_names])
                other = Smaller("small", self.second, columns, Breaker(least=3, rest=1.0), latency)
        self.engine = Engine(
            Endpoint("e", model=model, deadline="1s", fallback=ladder),
            bundle="b" * 64,
            reader=shop.reader(),
            runtime=self.first,
            smaller=other,
            breaker=breaker,
            latency=LatencyModel(alpha=0.1, beta=0.0),
            timer=self.watch,
        )
        self._shop, self._number = shop, 0

    def ask(self, *baskets: float, key: str = "a", now: int = T0, deadline: float = math.inf) -> Answers:
        self._number += 1
        rows = [row for basket in baskets for row in self._shop.rows(key, basket=basket)]
        return self.engine.answer(rows, now=now, id=f"{self._number:x}", deadline=deadline)


def _rungs(answers: Answers) -> list[str]:
    return [RUNGS[code] for code in answers.rungs.tolist()]


def _small(shop: Shop, name: str = "basket.basket") -> Model:
    big = shop.definitions.models["big"]
    view, _, feature = name.partition(".")
    return Model("small", features=[shop.view(view)[feature]], spine=big.spine, label=big.label, train=big.train)


@pytest.fixture
def filled(shop: Shop) -> Shop:
    shop.deliver(event(1, at=T0 - MINUTE, amount=4.0))
    shop.run_nearline()
    shop.land(T0 - DAY)
    return shop


def test_each_rung_answers_when_those_before_it_cannot(filled: Shop) -> None:
    made = Made(filled, [tl.cached(ttl="5m"), tl.smaller(_small(filled)), tl.constant(0.25)])
    assert _rungs(made.ask(6.0)) == ["fresh"]
    made.first.formula = _broken
    answers = made.ask(6.0, 9.0)
    assert _rungs(answers) == ["cached", "smaller"]
    assert answers.scores.tolist() == [6.0, 3.0]
    assert answers.origins == {0: "1-0"}
    assert answers.why(0) == answers.why(1) == ("model: it broke",)
    made.second.formula = _broken
    answers = made.ask(6.0, 9.0)
    assert _rungs(answers) == ["cached", "constant"]
    assert answers.why(1) == ("model: it broke", "small: it broke")
    assert answers.why(0) == ("model: it broke",)
    assert answers.by_model.tolist() == [False, False]


def test_a_score_that_was_kept_too_long_is_no_answer(filled: Shop) -> None:
    made = Made(filled, [tl.cached(ttl="5s", by="inputs"), tl.constant(0.25)])
    made.ask(6.0)
    made.first.formula = _broken
    assert _rungs(made.ask(6.0, now=T0 + 5_000_000)) == ["cached"]
    assert _rungs(made.ask(6.0, now=T0 + 5_000_001)) == ["constant"]


def test_a_score_is_kept_for_all_inputs_or_for_the_key_alone(filled: Shop) -> None:
    by_inputs = Made(filled, [tl.cached(ttl="5m", by="inputs"), tl.constant(0.25)])
    by_key = Made(filled, [tl.cached(ttl="5m", by="key"), tl.constant(0.25)])
    for made in (by_inputs, by_key):
        made.ask(6.0)
        made.first.formula = _broken
    assert _rungs(by_inputs.ask(6.0, 7.0)) == ["cached", "constant"]
    assert by_key.ask(7.0).scores.tolist() == [6.0]
    assert _rungs(by_key.ask(7.0, key="b")) == ["constant"]


def test_a_score_of_late_features_is_not_kept_for_a_question(shop: Shop) -> None:
    made = Made(shop, [tl.cached(ttl="5m", by="inputs"), tl.constant(0.25)])  # no lane has run
    assert _rungs(made.ask(6.0)) == ["stale"]
    made.first.formula = _broken
    assert _rungs(made.ask(6.0)) == ["constant"]


@pytest.mark.parametrize("by", ["inputs", "features"])
def test_what_is_kept_may_answer_before_the_model_is_asked(filled: Shop, by: str) -> None:
    made = Made(filled, [tl.cached(ttl="5m", by=by, serve="always"), tl.constant(0.25)])
    made.ask(6.0)
    answers = made.ask(6.0)
    assert made.first.calls == 1
    assert (_rungs(answers), answers.degraded, answers.why(0)) == (["cached"], 0, ())
    answers = made.ask(7.0, 6.0)
    assert (answers.scores.tolist(), _rungs(answers)) == ([7.0, 6.0], ["fresh", "cached"])
    made.first.formula = _broken
    answers = made.ask(6.0, 8.0, 7.0)
    assert _rungs(answers) == ["cached", "constant", "cached"]
    assert [answers.why(row) for row in range(3)] == [(), ("model: it broke",), ()]
    assert answers.origins == {0: "1-0", 2: "3-0"}


def test_no_more_is_kept_than_was_declared(filled: Shop) -> None:
    made = Made(filled, [tl.cached(ttl="5m", by="inputs", size=2), tl.constant(0.25)])
    made.ask(1.0, 2.0)
    made.ask(3.0)
    made.first.formula = _broken
    assert _rungs(made.ask(1.0, 2.0, 3.0)) == ["constant", "cached", "cached"]


def test_an_endpoint_says_how_far_behind_its_features_may_be(filled: Shop) -> None:
    daily = Made(filled, [tl.stale(max_age="3m"), tl.smaller(_small(filled, "shop_daily.n_7d")), tl.constant(0.25)])
    request = Made(filled, [tl.stale(max_age="3m"), tl.smaller(_small(filled)), tl.constant(0.25)])
    assert _rungs(daily.ask(6.0, now=T0 + 2 * MINUTE)) == ["stale"]
    answers = daily.ask(6.0, now=T0 + 4 * MINUTE)
    assert answers.why(0)[-1] == "shop_now: more than 3m behind"
    assert _rungs(answers) == ["smaller"]  # which does not read what is late
    assert _rungs(request.ask(6.0, now=T0 + 4 * MINUTE)) == ["constant"]  # for a request view uses what is late


def test_where_no_lane_has_run_features_are_behind_without_end(shop: Shop) -> None:
    made = Made(shop, [tl.stale(max_age="300d"), tl.constant(0.25)])
    assert _rungs(made.ask(6.0)) == ["constant"]
    assert made.first.calls == 0


def test_a_deadline_that_leaves_no_room_for_the_first_model_is_met_by_the_smaller(filled: Shop) -> None:
    made = Made(filled, [tl.smaller(_small(filled)), tl.constant(0.25)])
    assert _rungs(made.ask(6.0, deadline=1.0)) == ["fresh"]
    answers = made.ask(6.0, deadline=0.05)
    assert _rungs(answers) == ["smaller"]
    assert answers.why(0) == ("model: the deadline leaves no room for it",)
    assert _rungs(made.ask(6.0, deadline=0.005)) == ["constant"]


def test_rows_that_waited_too_long_for_the_first_model_may_still_be_in_time_for_the_smaller(filled: Shop) -> None:
    made = Made(filled, [tl.smaller(_small(filled)), tl.constant(0.25)])
    rows = filled.rows("a", basket=6.0)
    asked = [(0.05, "smaller"), (0.005, "constant"), (-1.0, "constant")]
    for deadline, rung in asked:
        answers = made.engine.answer_without_model(rows, now=T0, id="x", reason="deadline passed", deadline=deadline)
        assert (_rungs(answers), answers.why(0)[0]) == ([rung], "deadline passed")
    assert made.first.calls == 0


def test_rows_that_waited_too_long_are_not_read_for_while_the_store_would_hold_up_the_loop(filled: Shop) -> None:
    made = Made(filled, [tl.smaller(_small(filled)), tl.constant(0.25)])
    rows = filled.rows("a", basket=6.0)

    def rung(patience: float) -> str:
        engine = made.engine
        found = engine.answer_without_model(rows, now=T0, id="x", reason="late", deadline=0.05, patience=patience)
        assert found.why(0)[0] == "late"
        return _rungs(found)[0]

    assert [rung(math.inf), rung(0.0)] == ["smaller", "constant"]
    made.engine.reader = FeatureReader(made.engine.reader.plan, Hanging(filled.store))
    assert rung(0.005) == "constant"
    with pytest.raises(HeldUp):
        made.engine.answer(rows, now=T0, id="x", deadline=1.0, patience=0.005)
    assert (made.first.calls, made.second.calls) == (0, 1)


class Hanging(GuardedStore):
    """A store that never answers in time."""

    def read(self, requests: object, *, within: float = math.inf, patience: float = math.inf) -> Never:
        raise HeldUp if patience < within else UnavailableError("no answer in time")


def test_a_model_that_keeps_failing_is_not_asked_until_a_probe_finds_it_well(filled: Shop) -> None:
    made = Made(filled, [tl.smaller(_small(filled))], breaker=Breaker(least=3, rest=1.0))
    made.first.formula = _broken
    for _ in range(3):
        made.ask(6.0)
    asked = made.first.calls
    assert made.engine.breaker.state == OPEN
    answers = made.ask(6.0)
    assert (made.first.calls, _rungs(answers)) == (asked, ["smaller"])
    assert answers.why(0) == ("model: its breaker is open: 3 of the last 3 calls failed",)
    made.first.formula = _baskets
    made.watch.now = 1.0
    assert _rungs(made.ask(6.0)) == ["fresh"]
    assert _rungs(made.ask(6.0)) == ["fresh"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda matrix: np.zeros((len(matrix), 2)),
        lambda matrix: np.zeros(len(matrix) + 1),
        lambda matrix: [0.5] * len(matrix),
        lambda matrix: np.array(["x"] * len(matrix)),
        lambda _: None,
    ],
)
def test_what_is_not_one_number_for_each_row_is_no_answer(filled: Shop, wrong: Callable[[Matrix], Scores]) -> None:
    made = Made(filled, [tl.constant(0.25)])
    made.first.formula = wrong
    answers = made.ask(6.0, 7.0)
    assert _rungs(answers) == ["constant", "constant"]
    assert "instead of as many scores" in answers.why(0)[0]


def test_a_row_on_which_the_model_raises_costs_its_company_nothing(filled: Shop) -> None:
    def picky(matrix: Matrix) -> Scores:
        if (matrix[:, -2] == 13).any():
            raise ZeroDivisionError("thirteen")
        return _baskets(matrix)

    made = Made(filled, [tl.constant(0.25)])
    made.first.formula = picky
    answers = made.ask(6.0, 13.0, 7.0)
    assert answers.scores.tolist() == [6.0, 0.25, 7.0]
    assert _rungs(answers) == ["fresh", "constant", "fresh"]
    assert [bool(answers.why(row)) for row in range(3)] == [False, True, False]
    made.first.formula, made.first.calls = _broken, 0
    assert made.ask(*map(float, range(50))).degraded == 50
    assert made.first.calls < 6  # a model that takes no row at all is not asked for each


def test_without_a_rung_that_answers_the_caller_is_told(filled: Shop) -> None:
    made = Made(filled, [tl.cached(ttl="5m")])
    made.first.formula = _broken
    with pytest.raises(UnavailableError, match="it broke"):
        made.ask(6.0)


def test_scores_of_the_smaller_model_and_of_the_cache_are_rebuilt_from_what_was_recorded(filled: Shop) -> None:
    made = Made(filled, [tl.cached(ttl="5m", by="key"), tl.smaller(_small(filled))])
    made.first.formula = _broken
    made.second.formula = lambda matrix: np.tanh(matrix[:, 0].astype(np.float64))
    answers = made.ask(0.3)
    features = dict(zip(made.engine.reader.plan.names, answers.reading.values[0].tolist(), strict=True))
    assert rebuild(made.engine, features, smaller=True) == answers.scores[0]


def test_a_ladder_that_cannot_work_is_refused(shop: Shop) -> None:
    small = tl.smaller(_small(shop))
    wrong = [
        ([tl.constant(0.1), tl.cached(ttl="1m")], "nothing can follow tl.constant"),
        ([tl.cached(ttl="1m"), tl.stale(max_age="1m")], "nothing can come before it"),
        ([tl.cached(ttl="1m"), tl.cached(ttl="2m")], r"tl\.cached twice"),
        ([tl.default()], "is no rung"),
        ([0.5], "is no rung"),
        ([small, small], r"tl\.smaller twice"),
    ]
    for ladder, what in wrong:
        with pytest.raises(DefinitionError, match=what):
            Endpoint("e", model=shop.definitions.models["big"], deadline="1s", fallback=ladder)  # type: ignore[arg-type]


def test_a_smaller_model_reads_nothing_that_the_first_does_not(shop: Shop) -> None:
    big = shop.definitions.models["big"]
    with pytest.raises(DefinitionError, match=r"needs .*shop_now.n_10m.*, which 'small' does not read"):
        Endpoint("e", model=_small(shop), deadline="1s", fallback=[tl.smaller(big)])
    with pytest.raises(DefinitionError, match="no smaller than itself"):
        Endpoint("e", model=big, deadline="1s", fallback=[tl.smaller(big)])


@pytest.mark.parametrize(
    "wrong", [{"by": "name"}, {"serve": "never"}, {"ttl": "0s"}, {"size": 0}], ids=["by", "serve", "ttl", "size"]
)
def test_a_cache_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DefinitionError, match=r"tl\.cached"):
        tl.cached(**{"ttl": "1m", **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("rung", ["fresh", "smaller"])
def test_a_model_that_seemed_too_slow_is_tried_a_while_later_and_found_to_be_quick(filled: Shop, rung: str) -> None:
    made = Made(filled, [tl.smaller(_small(filled)), tl.constant(0.25)])
    instead, within = {"fresh": ("smaller", 0.05), "smaller": ("constant", 0.005)}[rung]

    def quick(matrix: Matrix) -> Scores:
        made.watch.now += 0.001
        return _baskets(matrix) if rung == "fresh" else matrix[:, 0].astype(np.float64)

    made.first.formula = quick if rung == "fresh" else _broken
    made.second.formula = quick if rung == "smaller" else made.second.formula

    def asked() -> list[str]:
        return _rungs(made.ask(6.0, deadline=made.watch.now + within))

    assert asked() == [instead]
    made.watch.now += 3.0
    for _ in range(3):
        assert asked() == [rung]
