"""How many rows a source is expected to bring in a period."""

from __future__ import annotations

from dataclasses import dataclass

from trilane.clock import duration, format_duration
from trilane.errors import DefinitionError

__all__ = ["Volume", "judge_volume", "volume"]


@dataclass(frozen=True, slots=True)
class Volume:
    """How many rows a period of `per` microseconds brings; `change`: by what share it may differ from the last."""

    per: int
    at_least: int = 0
    at_most: int | None = None
    change: float | None = None

    def spec(self) -> dict[str, object]:
        """The bounds as plain facts."""
        return {"per": self.per, "at_least": self.at_least, "at_most": self.at_most, "change": self.change}


def volume(per: str | int, *, at_least: int = 0, at_most: int | None = None, change: float | None = None) -> Volume:
    """The rows that each period of `per` is expected to bring.

    `change=0.5`: at most 50 % fewer or more than in the period before, if that brought any.
    """
    period = duration(per)
    bad = period < 1 or at_least < 0 or (at_most is not None and at_most < at_least) or (change or 0) < 0
    if bad or (not at_least and at_most is None and change is None):
        raise DefinitionError(
            "this volume bounds nothing, or no number of rows fits it",
            where="volume",
            remedy='Write tl.volume("1d", at_least=1000, at_most=5000, change=0.5)',
        )
    return Volume(period, at_least, at_most, change)


def judge_volume(bounds: Volume, rows: int, before: int | None) -> str | None:
    """What is wrong with `rows` in a period, after `before` in the one before it (None: there was none)."""
    per = format_duration(bounds.per)
    if rows < bounds.at_least:
        return f"{rows:,} rows in {per}, at least {bounds.at_least:,} are expected"
    if bounds.at_most is not None and rows > bounds.at_most:
        return f"{rows:,} rows in {per}, at most {bounds.at_most:,} are expected"
    if bounds.change is not None and before and abs(rows - before) > bounds.change * before:
        return f"{rows:,} rows in {per} after {before:,} in the one before, a change by {rows / before - 1:+.0%}"
    return None
