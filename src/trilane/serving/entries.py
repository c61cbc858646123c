"""What a repository knows of each model: its versions on disk, which is served, what is loaded, and what to tell of it.

Laws: a version that nothing is wrong with is READY before it is loaded, for the first question loads it; one whose
breaker is open is not, until a question may find out whether it is well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from trilane.errors import ContractError, DefinitionError, TrilaneError, UnavailableError
from trilane.models.folder import Listed
from trilane.models.wishes import Wish
from trilane.serving.breaker import Breaker
from trilane.serving.inference import Question, State
from trilane.serving.opened import Opened
from trilane.serving.tally import Tally

__all__ = ["Entry", "Slot", "facts_of", "known_versions", "no_model", "number", "state_of", "unloaded"]

_AGAIN_S = 5.0  # until a load that failed is tried again though no file changed: memory may be there by then


@dataclass(eq=False, slots=True)
class Slot:
    """One version of a model: what answers for it, if it is loaded; why not, if that failed."""

    name: str
    version: str
    tally: Tally
    opened: Opened | None = None
    opening: asyncio.Task[Opened] | None = None
    reason: str = ""
    error: TrilaneError | None = None
    loads: int = 0
    memory: int = 0  # bytes, when it was loaded
    broke: int = 0  # how often the breakers of those before opened
    tried: tuple[str, float] = ("", 0.0)  # the mark of the files that failed, and when
    failures: dict[str, int] = field(default_factory=lambda: {"load": 0, "invalid": 0, "refused": 0, "failed": 0})
    told: tuple[float, ...] = ()  # what metrics have told of it

    def answer_by(self, opened: Opened | None) -> Opened | None:
        """Puts what was loaded, or nothing, in the place of what answered, which is returned."""
        before, self.broke = self.opened, self.breaks
        self.opened = opened
        if opened is not None:
            self.reason, self.error = "", None
        return before

    def could_not_load(self, mark: str, now: float) -> None:
        """The files with this mark could not be loaded."""
        self.tried = mark, now
        self.failures["load"] += 1

    @property
    def breaker(self) -> Breaker | None:
        """That of what is loaded, if there is one."""
        return self.opened.breaker if self.opened is not None else None

    @property
    def breaks(self) -> int:
        """How often a breaker of it opened."""
        return self.broke + (self.breaker.opened if self.breaker is not None else 0)

    def check_tried(self, mark: str, now: float) -> None:
        """Raises what the last try raised, if it is a moment ago and nothing changed since."""
        before, at = self.tried
        if self.error is not None and mark == before and now - at < _AGAIN_S:
            raise self.error

    def foresee(self, question: Question) -> None:
        """Raises what a question will be refused with whatever its inputs are; unless it is loaded nothing is known."""
        if self.opened is None:
            return
        try:
            self.opened.foresee(question)
        except UnavailableError as error:
            self.failed(error, 0.0)
            raise

    def failed(self, error: TrilaneError, seconds: float) -> None:
        """A question was not answered."""
        self.tally.failed(seconds)
        invalid = isinstance(error, ContractError)
        self.failures["invalid" if invalid else "refused" if isinstance(error, UnavailableError) else "failed"] += 1


@dataclass(eq=False, slots=True)
class Entry:
    """A model: what is on disk, the version that is served, and what is loaded of it."""

    listed: Listed
    served: str
    wish: Wish
    slots: dict[str, Slot] = field(default_factory=dict)
    leaving: set[asyncio.Task[None]] = field(default_factory=set)

    def renew(self, listed: Listed | None, *, keep: bool = False) -> None:
        """Where nothing is loaded: is served in the highest version on disk, or in the one before if it may `keep` it
        and it is there.
        """
        self.listed = listed or self.listed
        versions = known_versions(self.listed)
        if not keep or self.served not in versions:
            self.served = versions[0]


def number(version: str) -> tuple[int, str]:
    """By which versions are ordered."""
    return int(version) if version.isdecimal() else 0, version


def known_versions(listed: Listed) -> list[str]:
    """All versions on disk, the highest first, those that cannot be opened too."""
    return sorted({*listed.versions, *listed.errors}, key=number, reverse=True)


def no_model(name: str, known: Sequence[str]) -> DefinitionError:
    """The refusal of a question for a model that is not there, with those that are."""
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    remedy = f"There are {shown or 'none yet'}; `/v2/repository/index` tells of all"
    return DefinitionError(f"there is no model {name!r}", where=name, remedy=remedy, status=404, file="")


def unloaded(name: str) -> UnavailableError:
    """The refusal of a question for a model that was unloaded."""
    remedy = f"Load it with `trilane models load {name}`"
    return UnavailableError("it was unloaded", where=f"model {name!r}", remedy=remedy)


def state_of(entry: Entry, slot: Slot) -> State:
    """Where a version is in its life."""
    name, version, loaded = slot.name, slot.version, slot.opened is not None
    if entry.wish.off:
        leaving = bool(entry.leaving)
        return State(name, version, "UNLOADING" if leaving else "UNAVAILABLE", "it was unloaded", loaded=leaving)
    breaker = slot.breaker
    if breaker is not None and not breaker.would_enter(time.perf_counter()):
        return State(name, version, "UNAVAILABLE", f"its breaker is open: {breaker.reason}", loaded=True)
    if loaded:
        return State(name, version, "READY", slot.reason, loaded=True)
    if slot.opening is not None:
        return State(name, version, "LOADING")
    error = slot.reason or str(entry.listed.errors.get(version, ""))
    return State(name, version, "UNAVAILABLE" if error else "READY", error)


def facts_of(entry: Entry, slot: Slot) -> dict[str, object]:
    """How a version is run."""
    opened = slot.opened
    found = opened.found if opened is not None else entry.listed.versions.get(slot.version)
    if found is None:
        return {"loaded": False}
    options = found.options
    facts: dict[str, object] = {
        "runtime": found.runtime,
        "file": str(found.path),
        "batching": options.batching if opened is None else opened.rows,
        "max_rows": options.max_rows,
        "process": found.isolated,
        "instances": options.instances,
        "tier": options.tier,
        "pinned": options.pinned,
        "warm": options.warm,
        "loaded": opened is not None,
    }
    if opened is not None:
        facts |= {
            "memory_bytes": opened.size,
            "load_ms": round(opened.load_s * 1e3, 3),
            "queued_rows": opened.batcher.queued,
            "processes": opened.processes,
        }
    if slot.breaker is not None:
        facts["breaker"] = slot.breaker.state
    return facts
