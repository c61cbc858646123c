"""From what answers to what shall answer: each endpoint, and reads by name, switch once all they newly read is filled.

Laws: a switch is one write, which all server processes follow; until then the former answers, whole; what was applied
last decides, so that a change that is overtaken never comes to answer; where nothing answered before, nothing is
awaited. Doing it again, or at once elsewhere, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trilane.apps.definitions import Definitions
from trilane.apps.filling import Filling, unfilled
from trilane.apps.project import Project
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError, TrilaneError
from trilane.features.plan import FeaturePlan
from trilane.features.view import View, stand_ins
from trilane.lifecycle.graph import uri
from trilane.lifecycle.metadata.protocol import DeploymentRecord, EdgeRecord

__all__ = ["BY_NAME", "HELD", "Switch", "awaited", "pending", "swap", "want"]

BY_NAME = "reads by name"
HELD = "held"  # the fact of what is wanted that it waits for `trilane swap`


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """An endpoint (or reads by name) that shall answer by `target`, and what it waits for."""

    name: str
    target: str
    held: bool
    waits: tuple[Filling, ...]
    fresh: tuple[View, ...]  # the views that are read newly

    @property
    def why(self) -> str:
        """What it waits for, in words."""
        told = [
            f"{one.view}@{one.version[:8]}{' (its history)' if one.space.startswith('history/') else ''} "
            f"is {one.share:.0%} filled" + (f", but {one.fault}" if one.fault else "")
            for one in self.waits
        ]
        return "; ".join([*told, *(["`trilane swap`"] if self.held and not told else [])])


def want(project: Project, bundles: Iterable[Bundle], *, hold: bool) -> None:
    """Notes that the endpoints of `bundles` shall answer by them, and reads by name by the applied definitions.

    With `hold` they wait for `swap(held=True)`. Raises ConflictError if others than theirs are applied meanwhile.
    """
    fact = {HELD: True} if hold else {}
    for bundle in bundles:
        project.registry.want(bundle.endpoint, bundle.digest, bundle.facts() | fact, of=bundle.definitions)
    digest = project.definitions.digest
    project.registry.want(BY_NAME, digest, {"definitions": digest, **fact}, of=digest)


def pending(project: Project) -> list[Switch]:
    """What shall answer and does not yet."""
    applied = project.definitions
    found = [_endpoint(project, applied, name) for name in sorted(applied.endpoints)]
    return [one for one in (*found, _by_name(project, applied)) if one is not None]


def swap(project: Project, *, held: bool = False, unfilled_too: bool = False) -> list[Switch]:
    """Switches what need not wait any longer; `held`: also what waits for this call. What was switched.

    Raises ConflictError if other definitions are applied meanwhile.
    """
    applied, done = project.definitions, []
    for switch in pending(project):
        if (switch.held and not held) or (switch.waits and not unfilled_too):
            continue
        if switch.name == BY_NAME:
            project.registry.serve(applied.digest, of=applied.digest)
        else:
            _deploy(project, switch.name)
        done.append(switch)
    return done


def _endpoint(project: Project, applied: Definitions, name: str) -> Switch | None:
    wanted, deployed = project.registry.wanted(name), project.registry.deployed(name)
    if wanted is None or wanted.facts["definitions"] != applied.digest:
        return None
    if deployed is not None and deployed.bundle == wanted.bundle:
        return None
    model = applied.models.get(wanted.facts["model"])
    fresh = _fresh(project, model.plan, deployed) if model else ()
    waits = tuple(unfilled(project, fresh)) if deployed is not None else ()
    return Switch(name=name, target=wanted.bundle, held=HELD in wanted.facts, waits=waits, fresh=fresh)


def awaited(project: Project, plan: FeaturePlan, deployed: DeploymentRecord | None) -> tuple[Filling, ...]:
    """What `plan` waits for before it may answer in the place of what is deployed; nothing where nothing is."""
    return tuple(unfilled(project, _fresh(project, plan, deployed))) if deployed is not None else ()


def _fresh(project: Project, plan: FeaturePlan, deployed: DeploymentRecord | None) -> tuple[View, ...]:
    """The stored views of `plan` that what is deployed does not read."""
    known: set[str] = set()
    if deployed is not None:
        try:
            model = project.snapshot(deployed.facts["definitions"]).models.get(deployed.facts["model"])
        except TrilaneError:
            model = None  # its definitions are lost: then all is new
        known = {view.space for view in (*model.plan.views, *model.plan.stand_ins)} if model else set()
    return tuple(view for view in _stored((*plan.views, *plan.stand_ins)) if view.space not in known)


def _by_name(project: Project, applied: Definitions) -> Switch | None:
    served = project.registry.served(limit=1)
    if served and served[0].bundle == applied.digest:
        return None
    known = {view.space for view in _with_stand_ins(project.served.views.values())} if served else set()
    fresh = tuple(view for view in _with_stand_ins(applied.views.values()) if view.space not in known)
    # A view that has no former version keeps nobody waiting: whoever asks for it gets what there is.
    names = set(project.served.views) if served else set()
    waits = tuple(unfilled(project, [view for view in fresh if view.name in names]))
    wanted = project.registry.wanted(BY_NAME)
    held = wanted is not None and wanted.bundle == applied.digest and HELD in wanted.facts
    return Switch(name=BY_NAME, target=applied.digest, held=held, waits=waits, fresh=fresh)


def _with_stand_ins(views: Iterable[View]) -> tuple[View, ...]:
    return _stored(one for view in views for one in (view, *view.uses, *stand_ins(view)))


def _stored(views: Iterable[View]) -> tuple[View, ...]:
    return tuple({view.space: view for view in views if view.lane != "request"}.values())


def _deploy(project: Project, endpoint: str) -> None:
    wanted = project.registry.wanted(endpoint)
    if wanted is None:
        raise ConflictError("nothing is wanted of it", where=f"endpoint {endpoint!r}", remedy="Run `trilane apply`")
    bundle = Bundle.from_facts(wanted.facts)
    project.registry.deploy(endpoint, bundle.digest, bundle.facts(), of=bundle.definitions)
    model = uri("model", bundle.model, bundle.model_digest[:16])
    target, now = uri("bundle", endpoint, bundle.digest[:16]), project.clock.now()
    edges = {(model, target): "is part of", (target, uri("endpoint", endpoint)): "answers"}
    project.metadata.see_edges(
        [
            EdgeRecord(source=source, target=end, relation=relation, first_seen=now, last_seen=now)
            for (source, end), relation in edges.items()
        ]
    )
