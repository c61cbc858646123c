"""What can go wrong, as a tree whose branches say who must act.

    TrilaneError
    ├── DefinitionError    the author of the definitions
    ├── ContractError      the producer of a payload
    ├── SetupError         the operator of this machine or fleet
    ├── UnavailableError   the caller, later: overload, deadline, a backend that is down
    ├── ConflictError      the caller, after reading the present state again
    ├── ModelError         the owner of a model
    └── WorkflowError      the author or operator of a job

Each error is built from keyword facts, pickles, and says what is wrong, where, and what to do.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import ClassVar

__all__ = [
    "ConflictError",
    "ContractError",
    "DefinitionError",
    "ModelError",
    "SetupError",
    "TrilaneError",
    "UnavailableError",
    "WorkflowError",
]


class TrilaneError(Exception):
    """Base of all errors.

    `what` is one sentence on what is wrong, `where` the object or the path into the payload, `remedy` the next thing
    to do; further keyword facts are kept for machines.
    """

    code: ClassVar[str] = "trilane"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "", **facts: object) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.facts = facts

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.remedy, self.facts)

    def as_payload(self) -> dict[str, object]:
        """The error as plain JSON-able facts, as the HTTP API and `--json` print it."""
        facts = {name: value for name, value in self.facts.items() if _plain(value)}
        return {"code": self.code, "what": self.what, "where": self.where, "remedy": self.remedy, **facts}


def _rebuild(kind: type[TrilaneError], what: str, where: str, remedy: str, facts: dict[str, object]) -> TrilaneError:
    return kind(what, where=where, remedy=remedy, **facts)


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | type(None))


class DefinitionError(TrilaneError):
    """A definition contradicts itself, another definition or the rules. The author acts.

    The fact `file` says which line of the author's own code led here.
    """

    code = "definition"
    http_status = 422
    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "", **facts: object) -> None:
        facts.setdefault("file", _authors_line())
        super().__init__(what, where=where, remedy=remedy, **facts)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.facts['file']}: {text}" if self.facts["file"] else text


def _authors_line() -> str:
    """File and line of the nearest caller outside this package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in (
        "trilane",
        "dataclasses",
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


class ContractError(TrilaneError):
    """A payload breaks the contract of the boundary it came to. Its producer acts."""

    code = "contract"
    http_status = 422
    exit_code = 3


class SetupError(TrilaneError):
    """A file, port, package, permission or setting of this machine is wrong. The operator acts."""

    code = "setup"
    http_status = 500
    exit_code = 4


class UnavailableError(TrilaneError):
    """The answer cannot be had now: overload, a deadline, a backend that is down. The caller may try later."""

    code = "unavailable"
    retryable = True
    http_status = 503
    exit_code = 5


class ConflictError(TrilaneError):
    """The state is not what the caller believes. The caller rereads, then decides again."""

    code = "conflict"
    http_status = 409
    exit_code = 6


class ModelError(TrilaneError):
    """A model or its artifact is broken or does not fit. The owner of the model acts."""

    code = "model"
    http_status = 500
    exit_code = 7


class WorkflowError(TrilaneError):
    """A job cannot go on. Its author or operator acts."""

    code = "workflow"
    http_status = 500
    exit_code = 8
