"""Where questions to one model come in: by the admission of the whole process, in a tier and a line of the model's own.

Laws: a question is let in, or refused, before its inputs are looked at; that answers of one model come late, or never,
teaches nothing about those of others; a model that works apart shares no executor's time, and holds no more of the
limit than all of its kind leave free. So those that hang leave room for what does not: one takes half of it at most,
two a third each, and any number leaves as much as each of them has (dynamic thresholds, Choudhury and Hahne 1998).
"""

from __future__ import annotations

import time

from trilane.errors import UnavailableError
from trilane.serving.admission import Admission, Entry, Refusal
from trilane.serving.inference import Question
from trilane.serving.lateness import Lateness
from trilane.serving.line import Line
from trilane.serving.policy import TIERS
from trilane.serving.tiers import Shares

__all__ = ["Door", "afford"]


def afford(admission: Admission, question: Question, tier: str) -> None:
    """Takes a row of the caller's quota, before a model is loaded for it. Raises UnavailableError (429).

    Whoever can afford it is let in by `Door.enter` with `paid`.
    """
    if admission.quotas.limits:
        number = admission.prioritised(TIERS.index(tier), question.priority, question.caller)
        refusal = admission.afford(question.caller, number, time.perf_counter())
        if refusal is not None:
            raise refusal.error()


class Door:
    """Lets questions to one model in. `tier`: of those that name none; `apart`: whether it works in `executors` of its
    own, beside the event loop.
    """

    def __init__(self, admission: Admission, *, tier: str, where: str, apart: bool = False, executors: int = 1) -> None:
        self._admission, self._tier, self._where, self._apart = admission, TIERS.index(tier), where, apart
        self.shares = Shares(executors=executors) if apart else admission.shares
        self.lateness = Lateness() if apart else admission.lateness
        self._policy = None if apart else admission.policy
        self._inside = 0

    def enter(self, line: Line, question: Question, *, paid: bool = False) -> Entry:
        """Lets a question in, which must be given to `leave` once. Raises UnavailableError (429).

        `paid`: its first row is taken off the quota already.
        """
        now, admission = time.perf_counter(), self._admission
        if question.deadline <= now:
            remedy = "Give more time, or ask when less is asked"
            what = "no answer: deadline passed"
            raise UnavailableError(what, where=self._where, remedy=remedy, deadline=True, overload=True)
        tier = self._tier
        if question.priority or admission.asks_who:
            tier = admission.prioritised(tier, question.priority, question.caller)
        if self._apart and self._is_full() and not admission.make_room(tier, (line,)):
            found: Entry | Refusal = admission.refuse_full(
                line.wait(tier, 1, now), tier, now, caller=question.caller, paid=paid
            )
        else:
            found = admission.admit(line, tier, now, question.deadline, caller=question.caller, paid=paid)
        if isinstance(found, Refusal):
            raise found.error()
        self._inside += 1
        admission.apart += self._apart
        return found

    def foresee(self, line: Line, question: Question) -> None:
        """Raises UnavailableError (429) for a question that `enter` will refuse whatever its body says, which may set a
        priority where it has none, and an earlier deadline.
        """
        now, admission = time.perf_counter(), self._admission
        told = admission.prioritised(self._tier, question.priority, question.caller)
        tier = admission.prioritised(self._tier, question.priority or 1, question.caller)
        if self._apart and self._is_full() and not admission.can_make_room(tier, (line,)):
            raise admission.refuse_full(line.wait(tier, 1, now), told, now).error()
        found = admission.foresee(line, tier, now, question.deadline, caller=question.caller, told=told)
        if found is not None:
            raise found.error()

    def _is_full(self) -> bool:
        admission = self._admission
        if admission.policy is not self._policy:
            self._policy = admission.policy
            self.shares.promise(self._policy.floors(), self._policy.agings())
        free = admission.limit - admission.apart - 1  # once this one is in
        return admission.is_limited and admission.apart > 0 and self._inside >= free

    def charge(self, question: Question, rows: int, entry: Entry) -> None:
        """Counts the rows of a question that was let in."""
        self._admission.charge(question.caller, rows, entry.began)

    def leave(self, entry: Entry, answered: float | None = None) -> None:
        """Lets a question out, `answered` at this instant, or not at all."""
        self._inside -= 1
        self._admission.apart -= self._apart
        self._admission.leave(entry, None if self._apart else answered, alone=True)

    # -- what the model's queue asks ----------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """How many questions are let in now."""
        return self._inside

    def put_out(self, tier: int, seconds: float) -> UnavailableError:
        """What one of `tier` hears who was let in and waits no longer."""
        return self._admission.put_out(tier, seconds)

    def missed(self, line: Line, tier: int, now: float) -> None:
        """One that waited cannot be in time any more: other models know nothing by it."""
