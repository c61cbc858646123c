"""How the objectives of the applied endpoints stand, by the counts that the servers of this state folder wrote."""

from __future__ import annotations

from typing import Any

from trilane.apps.project import Project
from trilane.feedback.error_budget import BudgetLog, Standing

__all__ = ["BUDGETS", "slo_facts", "standings"]

BUDGETS = "objectives.db"


def standings(project: Project, endpoint: str | None = None) -> dict[str, list[Standing]]:
    """By endpoint, how each of its objectives stands now; of one `endpoint`, or of all that have objectives."""
    found = {name: one.objectives for name, one in sorted(project.definitions.endpoints.items()) if one.objectives}
    now, log = project.clock.now(), BudgetLog(project.config.state / BUDGETS)
    try:
        return {
            name: [log.standing(name, objective, now) for objective in objectives]
            for name, objectives in found.items()
            if endpoint in (None, name)
        }
    finally:
        log.close()


def slo_facts(project: Project, endpoint: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """The same as plain facts."""
    return {name: [_facts(one) for one in ones] for name, ones in standings(project, endpoint).items()}


def _facts(one: Standing) -> dict[str, Any]:
    return {
        "objective": one.objective.text,
        "what": one.objective.what,
        "budget": one.objective.budget,
        "over_s": one.objective.over / 1e6,
        "asked": one.asked,
        "bad": one.bad,
        "compliance": one.compliance,
        "budget_left": one.left,
        "burn": dict(one.burn),
        "alert": one.alert,
    }
