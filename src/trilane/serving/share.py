"""What a request gets of an answer that was made for many, how that came about, and the refusal of one too many.

Law: to carry the account costs nothing until somebody asks for it; it is written once a batch.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from trilane.errors import ContractError, UnavailableError

__all__ = ["Account", "Share", "check_rows", "too_many"]

Result = TypeVar("Result")


class Account(msgspec.Struct, frozen=True):
    """How a batch came about: `began` is an instant; `predicted` and `actual` are seconds; `reason`: why then."""

    rows: int
    requests: int
    began: float
    predicted: float
    actual: float
    reason: str


class Share(msgspec.Struct, Generic[Result], frozen=True):
    """One request's part, rows `start` up to `stop`, of what was answered together; it had `arrived` before."""

    result: Result
    start: int
    stop: int
    account: Account | None = None
    arrived: float = 0.0

    def explained(self) -> dict[str, int | float | str]:
        """The batch as plain facts, times in milliseconds; empty if nobody kept its account."""
        told = self.account
        if told is None:
            return {}
        return {
            "rows": told.rows,
            "requests": told.requests,
            "wait_ms": _milliseconds(told.began - self.arrived),
            "predicted_ms": _milliseconds(told.predicted),
            "actual_ms": _milliseconds(told.actual),
            "reason": told.reason,
        }


def _milliseconds(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1e3, 3)


def check_rows(rows: int, *, queue: int) -> None:
    """Raises ContractError for a request that could never be queued: of no rows, or of more than a queue takes."""
    if rows < 1:
        raise ContractError(f"a request of {rows} rows", where="rows", remedy="Ask for one row or more")
    if rows > queue:
        remedy = f"Send at most {queue} rows in a request"
        raise ContractError(f"a request of {rows} rows", where="rows", remedy=remedy, status=413)


def too_many(waiting: int) -> UnavailableError:
    """The refusal (429) of a request that comes when the queue is full of `waiting` rows."""
    return UnavailableError(
        f"{waiting} rows are waiting",
        where="queue",
        remedy="Try again after the time in Retry-After, or add workers",
        overload=True,
    )
