"""What one request went through, stage by stage: for a trace, or for whoever asks why it took so long.

Laws: it is told after the answer, from what was noted anyway, so that requests that nobody asks about cost nothing;
stages that lie within another one are within its time. Instants are seconds of `time.perf_counter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trilane.serving.share import Account

__all__ = ["Fact", "Stage", "Story", "stages_of"]

Fact: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way, `within` the stage of that name, or of the request itself."""

    name: str
    start: float
    end: float
    within: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """A request that was answered with `status`. `facts` explain it; `parent` is the caller's `traceparent`."""

    route: str
    name: str
    start: float
    end: float
    status: int
    stages: Sequence[Stage]
    facts: Mapping[str, Fact]
    parent: str = ""

    def plain(self) -> dict[str, object]:
        """The story as plain facts, times in milliseconds."""
        return {
            "route": self.route,
            "name": self.name,
            "status": self.status,
            "ms": _ms(self.end - self.start),
            "stages": {
                f"{stage.within}.{stage.name}" if stage.within else stage.name: _ms(stage.end - stage.start)
                for stage in self.stages
            },
            **self.facts,
        }


def stages_of(
    start: float, decoded: float, account: Account, parts: Mapping[str, float], end: float
) -> tuple[Stage, ...]:
    """The stages of a request whose body was decoded at `decoded`, and that a batch answered.

    `parts`: what the batch did, in order, in seconds.
    """
    ran = account.began + account.actual
    found = [Stage("decode", start, decoded), Stage("queue", decoded, max(account.began, decoded))]
    found.append(Stage("batch", account.began, ran))
    at = account.began
    for name, seconds in parts.items():
        upto = min(at + seconds, ran)
        found.append(Stage(name, at, upto, "batch"))
        at = upto
    found.append(Stage("answer", min(ran, end), end))
    return tuple(found)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
