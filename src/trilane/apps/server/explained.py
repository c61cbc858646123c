"""A decision explained: its record, and its score computed again from what was recorded.

Law: the recorded values are used, not read again, so the answer does not change when the stores move on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from trilane.apps.project import Project
from trilane.apps.server.compiling import compile_bundle
from trilane.clock import format_instant
from trilane.decisions.bundle import Bundle
from trilane.feedback.record import Decision
from trilane.serving.engine import rebuild

__all__ = ["explained_decision"]


def explained_decision(project: Project, decision: Decision, find: Callable[[str], Decision | None]) -> dict[str, Any]:
    """The facts of a record, with `rebuilt` and `identical`: None if the bundle, or a cached score's origin, is not
    known. `find` gives the record of a decision.
    """
    facts: dict[str, Any] = msgspec.to_builtins(decision)
    facts["at"] = format_instant(decision.at)
    facts["features"] = {n: None if v != v else v for n, v in decision.features.items()}  # noqa: PLR0124
    bundles = [
        found.facts for found in project.registry.deployments(decision.endpoint) if found.bundle == decision.bundle
    ]
    # A score from the cache was made of what was read for another decision, by the same bundle.
    made = decision if decision.origin is None else find(decision.origin)
    facts["rebuilt"] = facts["identical"] = None
    if bundles and made is not None:
        bundle = Bundle.from_facts(bundles[0])
        if made.rung == "constant":  # as the bundle declares it
            facts["rebuilt"] = next(float(step["score"]) for step in bundle.fallback if step["step"] == "constant")
        else:
            with contextlib.closing(compile_bundle(project, bundle)) as engine:
                facts["rebuilt"] = rebuild(engine, made.features, smaller=made.rung == "smaller")
        facts["identical"] = facts["rebuilt"] == decision.score
    return facts
