"""A decision explained: its record, and its score computed again from what was recorded.

Law: the recorded values are used, not read again, so the answer does not change when the stores move on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trilane.apps.project import Project
from trilane.apps.server.deployments import compile_bundle
from trilane.clock import format_instant
from trilane.decisions.bundle import Bundle
from trilane.feedback.record import Decision
from trilane.serving.engine import rebuild

__all__ = ["explained_decision"]


def explained_decision(project: Project, decision: Decision) -> dict[str, Any]:
    """The facts of a record, with `rebuilt` and `identical`: None if the bundle is not known."""
    facts: dict[str, Any] = msgspec.to_builtins(decision)
    facts["at"] = format_instant(decision.at)
    facts["features"] = {n: None if v != v else v for n, v in decision.features.items()}  # noqa: PLR0124
    bundles = [
        found.facts for found in project.registry.deployments(decision.endpoint) if found.bundle == decision.bundle
    ]
    facts["rebuilt"] = facts["identical"] = None
    if bundles:
        bundle = Bundle.from_facts(bundles[0])
        if decision.by_model:
            facts["rebuilt"] = rebuild(compile_bundle(project, bundle), decision.features)
        else:  # by the rung of the ladder that answered, as the bundle declares it
            facts["rebuilt"] = float(bundle.fallback[0]["score"])
        facts["identical"] = facts["rebuilt"] == decision.score
    return facts
