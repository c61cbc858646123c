"""Questions to a model come in by the admission of the process, and what one model does teaches the others nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

import trilane as tl
from trilane.errors import UnavailableError
from trilane.serving.admission import Admission, Entry
from trilane.serving.door import Door, afford
from trilane.serving.inference import Question
from trilane.serving.lateness import Lateness
from trilane.serving.policy import TIERS


class _Line:
    """A model's queue in which any number waits; those who do are asked of `door` when they are put out."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.lateness, self.seconds, self.inside = Lateness(), seconds, list[tuple[Door, Entry]]()

    def wait(self, tier: int, rows: int, now: float) -> float:
        return self.seconds

    def unloaded(self, requests: int) -> float:
        return 1e-6

    def waiting(self, tier: int) -> int:
        return sum(entry.tier == tier for _, entry in self.inside)

    def may_try(self, deadline: float, now: float) -> bool:
        return False

    def put_out(self, tier: int) -> bool:
        door, entry = next(one for one in self.inside if one[1].tier == tier)
        self.inside.remove((door, entry))
        door.put_out(tier, self.seconds)
        door.leave(entry)
        return True

    def ask(self, door: Door, *, caller: str = "", priority: int = 0, deadline: float = math.inf) -> str:
        """Why a question is refused; nothing if it is let in."""
        asked = Question("m", (), deadline=deadline, caller=caller, priority=priority)
        return _reason(lambda: self.inside.append((door, door.enter(self, asked))))


def _reason(ask: Callable[[], None]) -> str:
    try:
        ask()
    except UnavailableError as error:
        return str(error.facts.get("reason", error.what))
    return ""


def _door(policy: tl.Policy, *, tier: str = "standard", apart: bool = True) -> tuple[Admission, Door, _Line]:
    admission, line = Admission(policy), _Line()
    admission.watch([line], of="models")
    return admission, Door(admission, tier=tier, where="model 'm'", apart=apart), line


def test_a_question_has_the_tier_of_its_model_and_may_lower_it() -> None:
    admission, door, line = _door(tl.Policy(limit=None), tier="standard")
    for priority in (0, 1, 3, 4):
        assert not line.ask(door, priority=priority)
    assert dict(zip(TIERS, admission.admitted, strict=True)) == {
        "critical": 0,
        "standard": 2,
        "sheddable": 1,
        "batch": 1,
    }


def test_a_model_that_works_apart_and_answers_nobody_leaves_half_of_the_limit_to_others() -> None:
    admission, door, line = _door(tl.Policy(limit=6))
    other, here = _Line(), Door(admission, tier="standard", where="model 'n'")
    assert [line.ask(door) for _ in range(5)] == ["", "", "", "full", "full"]
    assert [other.ask(here) for _ in range(4)] == ["", "", "", "full"]
    assert admission.total == 6
    assert not line.ask(Door(admission, tier="critical", where="model 'm'"))  # somebody lower waits
    assert admission.total == 6


@pytest.mark.parametrize("limit", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("models", [1, 2, 3, 9])
def test_models_that_work_apart_leave_as_much_of_the_limit_free_as_each_of_them_has(limit: int, models: int) -> None:
    admission = Admission(tl.Policy(limit=limit))
    doors = [Door(admission, tier="standard", where=f"model {n}", apart=True) for n in range(models)]
    lines = [_Line() for _ in doors]
    admission.watch(lines, of="models")
    for _ in range(4 * limit):  # those who are in leave one by one, at their deadlines, and all ask again
        for door, line in zip(doors, lines, strict=True):
            while not line.ask(door):
                pass
            if line.inside and len(line.inside) * (models + 1) > limit:
                line.inside[0][0].leave(line.inside.pop(0)[1])
    for door, line in zip(doors, lines, strict=True):
        while not line.ask(door):
            pass
    held = [len(line.inside) for line in lines]
    assert sum(held) == admission.apart == admission.total
    assert limit - sum(held) >= max(limit // (models + 1) - 1, int(limit > 1))
    assert max(held) <= max(limit // 2, 1)
    assert max(held) <= max(-(-limit // (models + 1)) + 1, 1)
    other, here = _Line(), Door(admission, tier="standard", where="model 'n'")
    assert [other.ask(here) for _ in range(limit - sum(held) + 1)] == [*[""] * (limit - sum(held)), "full"]
    for line in lines:
        for door, entry in line.inside:
            door.leave(entry)
    assert admission.apart == 0


def test_in_its_half_a_higher_question_takes_the_place_of_a_lower_one_that_waits() -> None:
    admission, door, line = _door(tl.Policy(callers=[tl.Caller("vital", up_to="critical")], limit=4))
    assert [line.ask(door, priority=3) for _ in range(3)] == ["", "", "full"]
    assert not line.ask(door, caller="vital", priority=1)
    assert [entry.tier for _, entry in line.inside] == [2, 0]
    assert admission.refused["put_out", 2] == 1


def test_what_is_past_its_deadline_is_no_overload() -> None:
    admission, door, line = _door(tl.Policy())
    assert "deadline passed" in line.ask(door, deadline=time.perf_counter() - 1)
    assert not admission.refused
    line.seconds = 100.0
    assert line.ask(door, deadline=time.perf_counter() + 50) == "deadline"


@pytest.mark.parametrize("apart", [True, False])
def test_late_answers_of_a_model_do_not_make_others_look_late(apart: bool) -> None:
    admission, door, line = _door(tl.Policy(), apart=apart)
    for _ in range(100):
        assert not line.ask(door)
        _, entry = line.inside.pop()
        door.leave(entry, entry.began + 50.0)
        door.missed(line, entry.tier, entry.began + 50.0)
    assert admission.lateness.by_tier == [0.0] * len(TIERS)
    assert admission.total == 0


def test_what_was_paid_before_the_load_is_not_paid_again_and_given_back_to_whom_finds_no_room() -> None:
    admission, door, line = _door(tl.Policy(others=tl.Caller(rate=1e-9, burst=3), limit=2))
    asked = Question("m", ())
    for _ in range(2):
        afford(admission, asked, "standard")
    line.inside.append((door, door.enter(line, asked, paid=True)))
    assert _reason(lambda: line.inside.append((door, door.enter(line, asked, paid=True)))) == "full"
    assert _reason(lambda: afford(admission, asked, "standard")) == ""
    assert _reason(lambda: afford(admission, asked, "standard")) == ""
    assert _reason(lambda: afford(admission, asked, "standard")) == "quota"


def test_a_policy_that_is_adopted_holds_for_a_model_that_works_apart() -> None:
    admission, door, line = _door(tl.Policy(limit=8))
    admission.adopt(tl.Policy(tiers=[tl.Tier("batch", floor=0.25)], limit=8))
    assert not line.ask(door)
    assert door.shares.floor(TIERS.index("batch")) == 0.25


def test_a_question_is_refused_before_its_body_is_read_only_if_no_priority_in_it_would_let_it_in() -> None:
    policy = tl.Policy(callers=[tl.Caller("vital", up_to="critical")], limit=4)
    _, door, line = _door(policy)

    def foreseen(**facts: Any) -> str:
        return _reason(lambda: door.foresee(line, Question("m", (), **facts)))

    assert not foreseen()
    while not line.ask(door):
        pass
    assert foreseen() == "full"
    assert not foreseen(caller="vital")  # its body may say that it is critical, and somebody lower waits
    assert foreseen(caller="vital", priority=2) == "full"  # its head says that it is not
    assert foreseen(caller="other", priority=1) == "full"  # it may not be
    assert len(line.inside) == line.waiting(TIERS.index("standard"))
