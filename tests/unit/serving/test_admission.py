"""Who is let in and who is not, and that the books balance whatever happens."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.errors import ContractError, UnavailableError
from trilane.serving.admission import DEADLINE, FULL, PUT_OUT, QUOTA, Admission, Entry, Refusal
from trilane.serving.lateness import Lateness
from trilane.serving.policy import TIERS

CRITICAL, STANDARD, SHEDDABLE, BATCH = range(4)


class _Line:
    """A line in which a request waits `seconds`; those who wait are numbers by tier."""

    def __init__(self, admission: Admission, seconds: float = 0.0) -> None:
        self.admission, self.seconds, self.tries = admission, seconds, False
        self.lateness, self.answer_s = admission.lateness, 1e-3
        self.inside: dict[int, list[Entry]] = {tier: [] for tier in range(4)}
        self.refused: list[UnavailableError] = []

    def wait(self, tier: int, rows: int, now: float) -> float:
        return self.seconds

    def unloaded(self, requests: int) -> float:
        return self.answer_s

    def waiting(self, tier: int) -> int:
        return len(self.inside[tier])

    def may_try(self, deadline: float, now: float) -> bool:
        return self.tries

    def put_out(self, tier: int) -> bool:
        entry = self.inside[tier].pop()
        self.refused.append(self.admission.put_out(tier, self.seconds))
        self.admission.leave(entry)
        return True

    def ask(self, tier: int, *, now: float = 0.0, patience: float = math.inf, **facts: object) -> Entry | Refusal:
        found = self.admission.admit(self, tier, now, now + patience, **facts)  # type: ignore[arg-type]
        if isinstance(found, Entry):
            self.inside[tier].append(found)
        return found


def _line(policy: tl.Policy | None = None, seconds: float = 0.0) -> _Line:
    admission = Admission(policy)
    line = _Line(admission, seconds)
    admission.watch([line])
    return line


def _reason(found: Entry | Refusal) -> str:
    return found.reason if isinstance(found, Refusal) else "admitted"


def test_without_a_policy_everybody_who_can_be_in_time_is_let_in() -> None:
    line = _line(seconds=0.02)
    assert {_reason(line.ask(tier, patience=0.05)) for tier in range(4) for _ in range(10_000)} == {"admitted"}
    assert _reason(line.ask(CRITICAL, patience=0.01)) == DEADLINE


def test_what_cannot_be_in_time_is_refused_and_told_how_long_the_queue_is() -> None:
    refused = _line(seconds=1.5).ask(STANDARD, patience=0.05)
    assert refused == Refusal(DEADLINE, STANDARD, 1.5)
    assert isinstance(refused, Refusal)
    assert refused.seconds == 2


def test_with_a_ladder_what_cannot_be_in_time_is_let_in_for_a_worse_answer() -> None:
    line = _line(seconds=1.5)
    entry = line.ask(STANDARD, patience=0.05, ladder=True)
    assert isinstance(entry, Entry)
    assert entry.hopeless
    assert entry.due == -math.inf
    assert line.admission.total == 1


def test_a_full_server_puts_out_the_lowest_for_a_higher_and_refuses_the_lowest() -> None:
    line = _line(tl.Policy(limit=3))
    assert [_reason(line.ask(tier)) for tier in (BATCH, SHEDDABLE, STANDARD)] == ["admitted"] * 3
    assert _reason(line.ask(BATCH)) == FULL
    assert _reason(line.ask(CRITICAL)) == "admitted"
    assert _reason(line.ask(CRITICAL)) == "admitted"
    assert [error.facts["tier"] for error in line.refused] == ["batch", "sheddable"]
    assert {error.facts["reason"] for error in line.refused} == {PUT_OUT}
    assert line.admission.in_flight == [2, 1, 0, 0]


def test_a_tier_keeps_its_floor_of_the_limit_against_those_above_it_and_gives_up_the_rest() -> None:
    line = _line(tl.Policy(tiers=[tl.Tier("batch", floor=0.2)], limit=10))
    for _ in range(10):
        line.ask(BATCH)
    answers = [_reason(line.ask(CRITICAL)) for _ in range(10)]
    assert answers == ["admitted"] * 8 + [FULL] * 2
    assert line.admission.in_flight == [8, 0, 0, 2]


def test_a_tier_below_its_floor_is_let_in_even_if_those_above_it_fill_the_server() -> None:
    line = _line(tl.Policy(tiers=[tl.Tier("batch", floor=0.2)], limit=10))
    for _ in range(10):
        line.ask(CRITICAL)
    answers = [_reason(line.ask(BATCH)) for _ in range(4)]
    assert answers == ["admitted"] * 2 + [FULL] * 2
    assert line.admission.in_flight == [10, 0, 0, 2]
    assert _reason(line.ask(CRITICAL)) == FULL


def test_a_quota_is_refused_with_the_time_of_the_next_token_and_pays_for_rows_afterwards() -> None:
    line = _line(tl.Policy(callers=[tl.Caller("one", rate=10, burst=2)]))
    assert _reason(line.ask(STANDARD, caller="one")) == "admitted"
    line.admission.charge("one", 12, 0.0)
    refused = line.ask(STANDARD, caller="one")
    assert isinstance(refused, Refusal)
    assert refused.reason == QUOTA
    assert refused.retry_after == pytest.approx(1.1)
    assert _reason(line.ask(STANDARD, caller="two")) == "admitted"
    assert _reason(line.ask(STANDARD, caller="one", now=1.11)) == "admitted"


def test_who_is_refused_for_another_reason_pays_nothing_of_the_quota() -> None:
    line = _line(tl.Policy(callers=[tl.Caller("one", rate=1e-3, burst=1)]), seconds=1.0)
    assert [_reason(line.ask(STANDARD, caller="one", patience=0.5)) for _ in range(3)] == [DEADLINE] * 3
    assert _reason(line.ask(STANDARD, caller="one", patience=5)) == "admitted"


def test_nobody_gets_a_higher_tier_than_the_policy_allows() -> None:
    callers = [tl.Caller("checkout", up_to="critical"), tl.Caller("nightly", up_to="batch"), tl.Caller("plain")]
    admission = Admission(tl.Policy(callers=callers, others=tl.Caller(up_to="sheddable")))
    asked = {
        (caller, name): admission.tier(STANDARD, name, caller)
        for caller in ("checkout", "nightly", "plain", "", "new")
        for name in (None, *TIERS)
    }
    assert [asked["checkout", name] for name in (None, *TIERS)] == [STANDARD, 0, 1, 2, 3]
    assert [asked["nightly", name] for name in (None, *TIERS)] == [BATCH] * 5
    assert [asked["plain", name] for name in (None, *TIERS)] == [STANDARD, 1, 1, 2, 3]
    assert [asked["", name] for name in (None, *TIERS)] == [2, 2, 2, 2, 3]
    assert asked["new", "critical"] == asked["", "critical"]


def test_without_a_policy_a_request_can_only_lower_itself() -> None:
    assert [Admission().tier(STANDARD, name) for name in TIERS] == [1, 1, 2, 3]
    assert [Admission().prioritised(STANDARD, priority) for priority in (0, 1, 2, 3, 4, 99)] == [1, 1, 1, 2, 3, 3]


def test_a_tier_that_is_none_is_the_callers_fault() -> None:
    with pytest.raises(ContractError, match="Send one of critical") as caught:
        Admission().tier(STANDARD, "urgent")
    assert (caught.value.where, caught.value.facts["status"]) == ("x-trilane-tier", 400)


@pytest.mark.parametrize("reason", [QUOTA, DEADLINE, FULL, PUT_OUT])
def test_the_quick_body_of_a_refusal_is_that_of_its_error(reason: str) -> None:
    refusal = Refusal(reason, SHEDDABLE, 0.0375)
    facts = {name: fact for name, fact in refusal.error().as_payload().items() if name != "overload"}
    assert msgspec.json.decode(refusal.body()) == {"error": facts}
    assert refusal.seconds == 1


def test_answers_that_come_later_than_predicted_are_reckoned_with() -> None:
    line = _line(seconds=0.01)
    for number in range(8_000):
        entry = line.ask(STANDARD, now=number * 1e-4, patience=0.1)
        if isinstance(entry, Entry):
            line.admission.leave(entry, number * 1e-4 + 0.04)
    assert line.lateness.by_tier[STANDARD] == pytest.approx(0.03, abs=0.002)
    assert line.lateness.by_tier[CRITICAL] == 0
    assert _reason(line.ask(STANDARD, now=0.8, patience=0.035)) == DEADLINE
    assert _reason(line.ask(STANDARD, now=0.8, patience=0.045)) == "admitted"


def test_a_batch_that_comes_late_counts_once_however_many_were_in_it() -> None:
    found = []
    for many in (4, 400):
        line = _line(seconds=0.01)
        line.answer_s = 0.01
        entries = [line.ask(STANDARD, now=0.0, patience=0.1) for _ in range(many)]
        for entry in entries:
            assert isinstance(entry, Entry)
            line.admission.leave(entry, 0.04)
            line.admission.missed(line, STANDARD, 0.04)
        found.append(line.lateness.by_tier[STANDARD])
    assert 0 < found[0] == found[1] < 0.01


def test_late_answers_of_what_runs_apart_refuse_nobody_who_waits_elsewhere() -> None:
    shared = _line(seconds=0.01)
    apart = _Line(shared.admission, 0.01)
    shared.admission.watch([shared, apart])
    apart.lateness, apart.answer_s = Lateness(), 0.1
    for number in range(1_000):
        apart.admission.missed(apart, STANDARD, number * 1e-3)
    assert _reason(apart.ask(STANDARD, now=1.0, patience=0.1)) == DEADLINE
    assert _reason(shared.ask(STANDARD, now=1.0, patience=0.1)) == "admitted"
    told: Any = shared.admission.facts(1.0)["tiers"]
    assert told["standard"]["late_ms"] > 90
    told = shared.admission.facts(60.0)["tiers"]
    assert told["standard"]["late_ms"] == 0


def test_what_has_no_deadline_is_never_late_and_teaches_nothing_of_it() -> None:
    line = _line(seconds=0.02)
    for turn in range(400):
        entry = line.ask(STANDARD, now=float(turn))
        assert isinstance(entry, Entry)
        line.admission.leave(entry, turn + 0.9)
    assert line.lateness.by_tier == [0.0] * 4


def test_a_refusal_of_one_without_a_deadline_tells_when_the_line_will_be_shorter() -> None:
    line = _line(tl.Policy(limit=1), seconds=3.5)
    line.ask(CRITICAL)
    refusal = line.ask(BATCH)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == (FULL, 3.5)


def test_how_late_answers_were_is_forgotten_so_that_a_tier_is_tried_again() -> None:
    line = _line(seconds=0.01)
    line.answer_s = 0.1
    for number in range(1_000):
        line.admission.missed(line, STANDARD, number * 1e-3)
    assert _reason(line.ask(STANDARD, now=1.0, patience=0.1)) == DEADLINE
    assert _reason(line.ask(STANDARD, now=20.0, patience=0.1)) == DEADLINE
    assert _reason(line.ask(STANDARD, now=20.0, patience=0.1)) == "admitted"


@pytest.mark.parametrize("ladder", [False, True])
def test_how_late_answers_were_is_forgotten_whether_or_not_there_is_a_worse_answer(ladder: bool) -> None:
    line = _line(seconds=0.01)
    line.answer_s = 0.1
    for number in range(1_000):
        line.admission.missed(line, STANDARD, number * 1e-3)
    for now in (1.0, 20.0):
        line.ask(STANDARD, now=now, patience=0.1, ladder=ladder)
    entry = line.ask(STANDARD, now=20.0, patience=0.1, ladder=ladder)
    assert isinstance(entry, Entry)
    assert not entry.hopeless


def test_one_that_seems_to_be_late_is_let_in_where_it_would_be_tried() -> None:
    line = _line(seconds=1.0)
    assert _reason(line.ask(STANDARD, patience=0.1)) == DEADLINE
    line.tries = True
    entry = line.ask(STANDARD, patience=0.1)
    assert isinstance(entry, Entry)
    assert entry.due == pytest.approx(0.1)


def test_nobody_is_let_in_to_be_tried_at_the_cost_of_others_or_where_the_line_is_not_what_is_slow() -> None:
    line = _line(tl.Policy(limit=1), seconds=1.5)
    line.tries = True
    assert _reason(line.ask(STANDARD, patience=0.05)) == "admitted"
    assert _reason(line.ask(CRITICAL, patience=0.05)) == DEADLINE
    line.admission.leave(line.inside[STANDARD].pop())
    line.seconds, line.lateness.by_tier[STANDARD] = 0.01, 1.0
    assert _reason(line.ask(STANDARD, patience=0.05)) == DEADLINE


def test_another_policy_counts_from_the_next_request_and_who_is_in_stays_in() -> None:
    line = _line()
    for _ in range(5):
        line.ask(STANDARD)
    line.admission.adopt(tl.Policy(limit=2))
    assert line.admission.total == 5
    assert _reason(line.ask(STANDARD)) == FULL


asks = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["", "one", "two"]), st.floats(0, 0.1), st.booleans(), st.booleans()),
    max_size=150,
)
policies = st.builds(
    lambda floors, limit, rate: tl.Policy(
        tiers=[tl.Tier(name, floor=floor / 4) for name, floor in zip(TIERS, floors, strict=True)],
        callers=[tl.Caller("one", rate=rate, burst=1)],
        limit=limit,
    ),
    st.lists(st.floats(0, 0.9), min_size=4, max_size=4),
    st.integers(1, 20),
    st.floats(1, 1e3),
)


@given(policies, asks)
def test_the_books_balance_and_the_limit_holds(
    policy: tl.Policy, found: list[tuple[int, str, float, bool, bool]]
) -> None:
    line, now = _line(policy, seconds=0.01), 0.0
    admission, asked = line.admission, 0
    for tier, caller, gap, ladder, leaves in found:
        now, asked = now + gap, asked + 1
        line.ask(tier, now=now, patience=0.02 if ladder else 1.0, caller=caller, ladder=ladder)
        if leaves and line.inside[tier]:
            admission.leave(line.inside[tier].pop(0), now)
        assert admission.total == sum(admission.in_flight) == sum(map(len, line.inside.values()))
        assert admission.total <= 2 * int(policy.limit or 0) + len(TIERS)
        assert all(number >= 0 for number in admission.in_flight)
        outright = sum(number for (reason, _), number in admission.refused.items() if reason != PUT_OUT)
        assert sum(admission.admitted) + outright == asked


def _scene(limit: int | None, inside: list[int], seconds: float, used: int) -> _Line:
    """A line in which those of the tiers `inside` wait; the caller `one` has used so many of its three rows."""
    line = _line(tl.Policy(callers=[tl.Caller("one", rate=0.5, burst=3)], limit=limit))
    for tier in inside:
        line.ask(tier)
    for _ in range(used):
        line.admission.quotas.of("one", 0.0).take(0.0)  # type: ignore[union-attr]
    line.seconds = seconds
    return line


@given(
    limit=st.sampled_from([None, 1, 2, 4]),
    inside=st.lists(st.integers(0, 3), max_size=6),
    seconds=st.sampled_from([0.0, 1.0]),
    patience=st.sampled_from([0.5, math.inf]),
    used=st.integers(0, 4),
    tier=st.integers(0, 3),
    ladder=st.booleans(),
)
def test_who_is_refused_before_the_body_is_read_would_have_been_refused_after_it(
    limit: int | None, inside: list[int], seconds: float, patience: float, used: int, tier: int, ladder: bool
) -> None:
    line = _scene(limit, inside, seconds, used)
    before = line.admission.facts(0.0)
    foreseen = line.admission.foresee(line, tier, 0.0, patience, caller="one", ladder=ladder)
    if foreseen is None:
        assert line.admission.facts(0.0) == before  # nobody was put out for it, and nothing taken
        found = line.ask(tier, patience=patience, caller="one", ladder=ladder)
        tried = seconds > patience and not any(map(line.waiting, range(4)))
        assert tried or isinstance(found, Entry)
    else:
        again = _scene(limit, inside, seconds, used).ask(tier, patience=patience, caller="one", ladder=ladder)
        assert again == foreseen
        assert line.admission.refused[foreseen.reason, tier] == 1 + _refused_before(before, foreseen.reason, tier)


def _refused_before(facts: dict[str, Any], reason: str, tier: int) -> int:
    return int(facts["tiers"][TIERS[tier]]["refused"].get(reason, 0))


def test_a_refusal_that_is_foreseen_is_told_by_the_tier_that_was_asked_for() -> None:
    admission = Admission(tl.Policy(limit=1))
    line = _Line(admission, 1.0)
    admission.watch([line])
    line.ask(CRITICAL)
    assert admission.foresee(line, CRITICAL, 0.0, math.inf, told=BATCH) == Refusal(FULL, BATCH, 1.0)
    assert admission.refused == {(FULL, BATCH): 1}
