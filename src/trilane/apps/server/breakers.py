"""The breakers of one server process, by what they guard, and what they tell.

Law: an open breaker makes no server unready, as long as its ladders can answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from trilane.apps.project import Project
from trilane.serving.breaker import CLOSED, OPEN, Breaker
from trilane.serving.engine import Engine
from trilane.serving.entries import Slot
from trilane.serving.guard import GuardedStore
from trilane.serving.metrics import Metrics

__all__ = ["Breakers"]


class Breakers:
    """Makes breakers that are counted in `metrics`, and knows which there are."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._known: dict[str, Breaker] = {}
        self._slots: Callable[[], Iterable[Slot]] = tuple

    def guard(self, project: Project) -> None:
        """Puts the online store of `project`, for all in this process, behind a breaker, if it can hang."""
        if not project.config.has_remote_store:
            return
        store, limit = project.online, project.config.read_limit / 1e6
        breaker = Breaker(slow=limit / 2, hang=limit / 2, rest=0.2, longest=2.0, heard=self._heard("online"))
        hedging = getattr(store, "hedging", None)  # of the stores that ask twice
        project.online = GuardedStore(store, limit=limit, breaker=breaker, hedging=hedging, read_twice=self._read_twice)
        self._known["online"] = breaker

    def watch(self, endpoint: str, engine: Engine) -> None:
        """Tells of the breakers of an endpoint's models from now on, in the place of those of its last bundle."""
        smaller = engine.ladder.smaller
        for name, breaker in (("model", engine.breaker), ("smaller", smaller and smaller.breaker)):
            if breaker:
                self._known[f"{name}:{endpoint}"] = breaker
                breaker.heard = self._heard(f"{name}:{endpoint}")

    def watch_models(self, slots: Callable[[], Iterable[Slot]]) -> None:
        """Tells of the breakers of models from files too; `slots` gives those that there are.

        Their metrics are told by model: `trilane_model_breaker_open`.
        """
        self._slots = slots

    def facts(self) -> dict[str, dict[str, object]]:
        """Of each dependency its state, why it is not closed, and how often it opened."""
        return {
            name: {"state": one.state, "reason": one.reason or None, "opened": one.opened} for name, one in self._all()
        }

    def open(self) -> list[str]:
        """What is left alone now, and why, in words."""
        return [f"{name}: {one.reason}" for name, one in self._all() if not one.is_closed]

    def _all(self) -> list[tuple[str, Breaker]]:
        models = [(f"file:{one.name}/{one.version}", one.breaker) for one in self._slots()]
        return sorted([*self._known.items(), *((name, one) for name, one in models if one is not None)])

    def _heard(self, dependency: str) -> Callable[[str], None]:
        gauge, counter = self._metrics.breaker_open.labels(dependency), self._metrics.breaker_opened.labels(dependency)
        gauge.set(0)
        known = {"state": CLOSED}

        def heard(state: str) -> None:
            if known["state"] is CLOSED and state is OPEN:
                counter.inc()
            known["state"] = state
            gauge.set(0 if state is CLOSED else 1)

        return heard

    def _read_twice(self, second_won: bool) -> None:
        self._metrics.hedged.labels("second" if second_won else "first").inc()
