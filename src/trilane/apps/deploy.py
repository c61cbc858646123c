"""From the author's files to what runs: what would change (`plan`), and making it so (`apply`).

Laws: `plan` changes nothing; `apply` freezes the definitions before it records them, and deploys a bundle only if a
trained artifact fits the declared features exactly; an endpoint without one keeps answering as before. Applying
the same twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trilane.apps.definitions import Definitions, load_snapshot, snapshot
from trilane.apps.project import Project
from trilane.decisions.bundle import Bundle, bundle_of
from trilane.errors import SetupError
from trilane.features.view import View, stand_ins
from trilane.lifecycle.graph import uri
from trilane.lifecycle.metadata.protocol import ArtifactRecord, EdgeRecord
from trilane.lifecycle.registry import Change
from trilane.lifecycle.run import Run, run
from trilane.models.model import Model
from trilane.serving.endpoint import Endpoint

__all__ = ["Effect", "Plan", "apply", "fitting_artifact", "plan"]

DEPLOY, KEEP, WAIT, SAME = "deploy", "keep", "wait", "same"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What follows from a change for one thing: `action` is a word for machines, `text` a sentence for people."""

    kind: str
    name: str
    action: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `apply` would do, or did: the changed definitions and what follows from them."""

    definitions: str
    applied: str | None
    changes: tuple[Change, ...]
    effects: tuple[Effect, ...]

    @property
    def does_nothing(self) -> bool:
        """Whether everything is as declared already."""
        acting = any(effect.action == DEPLOY for effect in self.effects)
        return self.definitions == self.applied and not acting


def plan(project: Project) -> Plan:
    """Compares the working tree with what runs."""
    working = project.working
    changes = tuple(project.registry.diff(working.specs()))
    effects = (
        *_view_effects(working, changes),
        *_model_effects(project, working),
        *(_endpoint_effect(project, working, endpoint) for _, endpoint in sorted(working.endpoints.items())),
    )
    return Plan(definitions=working.digest, applied=project.applied_digest(), changes=changes, effects=effects)


def apply(project: Project) -> Plan:
    """Makes the working tree what runs, as far as its models are trained; returns what was done."""
    working = project.working
    folder = snapshot(working, project.definitions_folder)
    if load_snapshot(folder).digest != working.digest:
        raise SetupError(
            "the frozen definitions do not read like the author's files",
            where=str(folder),
            remedy="Let the definitions depend on nothing but the modules they import from their own folder",
        )
    done = plan(project)
    with run(project.metadata, "apply", project.config.name, clock=project.clock) as present:
        present.note(definitions=working.digest)
        project.registry.apply_definitions(working.digest, working.specs(), folder)
        _see_definitions(project, working)
        for effect in done.effects:
            if effect.action == DEPLOY:
                _deploy(project, working, working.endpoints[effect.name], present)
    return done


def fitting_artifact(project: Project, model: Model) -> ArtifactRecord | None:
    """The newest artifact of `model` that was trained on exactly the features it now declares."""
    for record in project.registry.artifacts("model"):
        same = record.facts.get("features") == list(model.feature_names)
        if record.name == model.name and same and record.facts.get("views") == model.plan.versions:
            return record
    return None


def _view_effects(working: Definitions, changes: tuple[Change, ...]) -> Iterator[Effect]:
    for change in changes:
        if change.kind != "view" or change.what == "removed":
            continue
        view = working.views[change.name]
        if change.what == "changed" and "version" not in change.details:
            yield Effect(
                kind="view",
                name=view.name,
                action="reconfigure",
                text="its values stay; only how they are served changes",
            )
        elif view.lane != "request":
            yield Effect(kind="view", name=view.name, action="rebuild", text=_rebuild_text(view))


def _rebuild_text(view: View) -> str:
    if view.lane == "nearline":
        return "gets new tiles: the worker reads the log from its start"
    return f"gets new versions: run `trilane materialize {view.name}`, or wait for its next boundary"


def _model_effects(project: Project, working: Definitions) -> Iterator[Effect]:
    for name, model in sorted(working.models.items()):
        if fitting_artifact(project, model) is not None:
            continue
        trained = project.registry.artifact("model", name) is not None
        text = "its features changed since it was trained" if trained else "it was never trained"
        yield Effect(kind="model", name=name, action="train", text=f"{text}: run `trilane train {name}` after applying")


def _endpoint_effect(project: Project, working: Definitions, endpoint: Endpoint) -> Effect:
    action, text = _endpoint_action(project, working, endpoint)
    return Effect(kind="endpoint", name=endpoint.name, action=action, text=text)


def _endpoint_action(project: Project, working: Definitions, endpoint: Endpoint) -> tuple[str, str]:
    deployed = project.registry.deployed(endpoint.name)
    artifact = fitting_artifact(project, endpoint.model)
    if artifact is None and deployed is None:
        return WAIT, f"answers once the model {endpoint.model.name!r} is trained and applied"
    if artifact is None and deployed is not None:
        return KEEP, f"keeps answering with the bundle {deployed.bundle[:16]} until its model is trained again"
    wanted = _bundle(endpoint, artifact, working)
    if deployed is not None and deployed.bundle == wanted.digest:
        return SAME, f"answers with the bundle {deployed.bundle[:16]} already"
    return DEPLOY, f"switches to the bundle {wanted.digest[:16]} (model {wanted.model_digest[:16]})"


def _bundle(endpoint: Endpoint, artifact: ArtifactRecord | None, definitions: Definitions) -> Bundle:
    digest = artifact.digest if artifact else ""
    return bundle_of(endpoint, model_digest=digest, definitions=definitions.digest)


def _deploy(project: Project, definitions: Definitions, endpoint: Endpoint, present: Run) -> None:
    artifact = fitting_artifact(project, endpoint.model)
    bundle = _bundle(endpoint, artifact, definitions)
    model = uri("model", bundle.model, bundle.model_digest[:16])
    target = uri("bundle", endpoint.name, bundle.digest[:16])
    present.reads(model)
    present.writes(target)
    project.registry.deploy(endpoint.name, bundle.digest, bundle.facts())
    _see(project, {(model, target): "is part of", (target, uri("endpoint", endpoint.name)): "answers"})


def _see_definitions(project: Project, definitions: Definitions) -> None:
    """Draws what the definitions alone say: source to view to view."""
    edges: dict[tuple[str, str], str] = {}
    for view in definitions.views.values():
        target = uri("view", view.name, view.version[:16])
        if view.source is not None:
            edges[uri("source", view.source.name), target] = "feeds"
        for used in (*view.uses, *stand_ins(view)):
            relation = "feeds" if used in view.uses else "stands in for"
            edges[uri("view", used.name, used.version[:16]), target] = relation
    _see(project, edges)


def _see(project: Project, edges: Mapping[tuple[str, str], str]) -> None:
    now = project.clock.now()
    project.metadata.see_edges(
        [
            EdgeRecord(source=source, target=target, relation=relation, first_seen=now, last_seen=now)
            for (source, target), relation in edges.items()
        ]
    )
