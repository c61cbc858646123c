"""What is usual (`tl.prior("mean")`), as a deployed endpoint knows it: it is part of the model that answers there.

Law: one endpoint tells all of it, the one that was asked for or the first by name, by what was deployed at the instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trilane.apps.project import Project
from trilane.decisions.bundle import Bundle
from trilane.errors import DefinitionError
from trilane.features.plan import FeaturePlan
from trilane.features.view import Prior
from trilane.models.artifact import load

__all__ = ["Usual", "usual_of"]


@dataclass(frozen=True, slots=True)
class Usual:
    """What the model `model` of `endpoint`, with the artifact `digest`, holds to be usual, by `view.feature`.

    `others`: the endpoints that read the same views, and may know otherwise.
    """

    endpoint: str
    model: str
    digest: str
    priors: Mapping[str, float]
    others: tuple[str, ...]

    @property
    def source(self) -> str:
        """Who says so, for people."""
        return f"endpoint {self.endpoint}, model {self.model} {self.digest[:16]}"

    def facts(self, names: tuple[str, ...]) -> dict[str, Any]:
        """As plain facts; of the priors those of `names`."""
        return {
            "endpoint": self.endpoint,
            "model": self.model,
            "digest": self.digest[:16],
            "priors": {name: self.priors[name] for name in names if name in self.priors},
            "other_endpoints": list(self.others),
        }


def usual_of(project: Project, plan: FeaturePlan, *, at: int, endpoint: str | None = None) -> Usual | None:
    """What is usual for the views of `plan` at instant `at`; None where no cascade asks, or nothing was deployed.

    Raises DefinitionError if `endpoint` was not deployed then, or reads none of the views that ask.
    """
    asking = {v.name: v.version for v in plan.views if any(isinstance(step, Prior) for step in v.fallback)}
    found = {bundle.endpoint: bundle for bundle in _deployed(project, at) if asking.items() & bundle.views.items()}
    if endpoint is not None and endpoint not in found:
        known = ", ".join(found) or "none"
        remedy = f"Endpoints that knew what is usual for this feature: {known}"
        raise DefinitionError(f"nothing is usual for endpoint {endpoint!r}", where="--endpoint", remedy=remedy, file="")
    if not found:
        return None
    chosen = found.pop(endpoint or next(iter(found)))
    priors = load(project.models_folder / chosen.model / chosen.model_digest[:16]).manifest.priors
    return Usual(chosen.endpoint, chosen.model, chosen.model_digest, priors, tuple(found))


def _deployed(project: Project, at: int) -> Iterator[Bundle]:
    """What answered each endpoint at an instant, in order of name."""
    for name in sorted(project.definitions.endpoints):
        record = next((one for one in project.registry.deployments(name) if one.at <= at), None)
        if record is not None:
            yield Bundle.from_facts(record.facts)
