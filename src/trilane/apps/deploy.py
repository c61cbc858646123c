"""From the author's files to what runs: what would change (`plan`), and making it so (`apply`).

Laws: `plan` changes nothing; `apply` freezes the definitions before it records them, and deploys a bundle only if a
trained artifact fits the declared features exactly: the pinned one, else the newest; an endpoint without one keeps
answering as before. Applying the same twice changes nothing. What is pinned and does not fit stops all before anything
is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from trilane.apps import swap
from trilane.apps.definitions import Definitions, load_snapshot, snapshot
from trilane.apps.evolution import Refusal, check, refusals
from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.decisions.bundle import Bundle, bundle_of
from trilane.errors import ConflictError, DefinitionError, SetupError
from trilane.features.view import View, stand_ins
from trilane.lifecycle.graph import uri
from trilane.lifecycle.metadata.protocol import ArtifactRecord, EdgeRecord
from trilane.lifecycle.registry import Change
from trilane.lifecycle.run import run
from trilane.models.model import Model
from trilane.models.own_process import ONNX
from trilane.serving.endpoint import Endpoint

if TYPE_CHECKING:
    from trilane.features.cost import ViewCost

__all__ = ["Effect", "Plan", "apply", "costs", "fitting_artifact", "plan"]

DEPLOY, FILL, KEEP, WAIT, SAME = "deploy", "fill", "keep", "wait", "same"
_Pins: TypeAlias = Sequence[str]  # each `NAME@DIGEST`: the model NAME is to answer by that artifact
_Chosen: TypeAlias = Mapping[str, ArtifactRecord | None]  # by model, what answers for it
_PIN = re.compile(r"(?P<name>\w+)@(?P<digest>[0-9a-f]{6,64})")


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What follows from a change for one thing: `action` is a word for machines, `text` a sentence for people."""

    kind: str
    name: str
    action: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `apply` would do, or did: the changed definitions, what follows from them, and what `apply` refuses."""

    definitions: str
    applied: str | None
    changes: tuple[Change, ...]
    effects: tuple[Effect, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Whether everything is as declared already."""
        acting = any(effect.action == DEPLOY for effect in self.effects)
        return self.definitions == self.applied and not acting


def plan(project: Project, pins: _Pins = (), breaking: Sequence[str] = ()) -> Plan:
    """Compares the working tree, with the artifacts that `pins` name (`NAME@DIGEST`), with what runs.

    `breaking`: the event sources whose author insists on a change that refuses events.
    """
    return _plan(project, project.working, _chosen(project, project.working, pins), breaking)


def costs(project: Project, changes: Sequence[Change] | None = None) -> list[ViewCost]:
    """What the windows of the stored views cost: of all, or of those that `changes` rebuild."""
    from trilane.features.cost import cost_of

    views_alone = [change for change in changes or () if change.kind == "view"]
    rebuilt = {change.name for change in views_alone if change.what == "added" or "version" in change.details}
    views = [view for view in project.working.views.values() if view.lane != "request"]
    return [cost_of(view) for view in views if changes is None or view.name in rebuilt]


def _plan(project: Project, working: Definitions, chosen: _Chosen, breaking: Sequence[str]) -> Plan:
    changes = tuple(project.registry.diff(working.specs()))
    effects = (
        *_view_effects(working, changes),
        *_model_effects(project, working, chosen),
        *(_endpoint_effect(project, working, endpoint, chosen) for _, endpoint in sorted(working.endpoints.items())),
    )
    refused = refusals(project, working, breaking)
    applied = project.applied_digest()
    return Plan(definitions=working.digest, applied=applied, changes=changes, effects=effects, refusals=refused)


def apply(
    project: Project, pins: _Pins = (), breaking: Sequence[str] = (), *, hold: bool = False, at_once: bool = False
) -> Plan:
    """Makes the working tree what runs, as far as its models are trained; returns what was done.

    What reads views that are not filled answers as before until they are (see `trilane.apps.swap`), unless `at_once`;
    with `hold` it then waits for `trilane swap`.

    `pins`, each `NAME@DIGEST` with 6 or more digits of the digest, deploy an older artifact of a model. Raises
    ConflictError if there is none, or it does not fit the definitions, or an event source changes in a way that its
    past does not allow (see `trilane.apps.evolution`), or somebody applies others meanwhile; `breaking` names the
    sources on which the author insists.
    """
    working, before = project.working, project.applied_digest()
    chosen = _chosen(project, working, pins)
    check(refusals(project, working, breaking))
    folder = snapshot(working, project.definitions_folder)
    if load_snapshot(folder).digest != working.digest:
        raise SetupError(
            "the frozen definitions do not read like the author's files",
            where=str(folder),
            remedy="Let the definitions depend on nothing but the modules they import from their own folder",
        )
    done = _plan(project, working, chosen, breaking)
    with run(project.metadata, "apply", project.config.name, clock=project.clock) as present:
        present.note(definitions=working.digest)
        project.registry.apply_definitions(working.digest, working.specs(), folder, after=before)
        _see_definitions(project, working)
        bundles = [found for one in working.endpoints.values() if (found := _bundle(one, chosen, working))]
        for bundle in bundles:
            if any((effect.name, effect.action) == (bundle.endpoint, DEPLOY) for effect in done.effects):
                present.reads(uri("model", bundle.model, bundle.model_digest[:16]))
                present.writes(uri("bundle", bundle.endpoint, bundle.digest[:16]))
        swap.want(project, bundles, hold=hold)
        swap.swap(project, unfilled_too=at_once)
    return done


def fitting_artifact(project: Project, model: Model) -> ArtifactRecord | None:
    """The newest artifact of `model` that was trained on exactly the features it now declares."""
    return next((one for one in _artifacts(project, model.name) if not _misfits(one, model)), None)


def _artifacts(project: Project, model: str) -> list[ArtifactRecord]:
    """Newest first."""
    return [record for record in project.registry.artifacts("model") if record.name == model]


def _misfits(artifact: ArtifactRecord, model: Model) -> list[str]:
    """In what the features that an artifact was trained on differ from those that its model declares now."""
    had: list[str] = list(artifact.facts.get("features", ()))
    views: dict[str, str] = dict(artifact.facts.get("views", {}))
    found = [f"lacks the feature {name}" for name in model.feature_names if name not in had]
    found += [f"needs the feature {name}, which is gone" for name in had if name not in model.feature_names]
    if not found and had != list(model.feature_names):
        found.append("has the features in another order")
    for name, version in sorted(model.plan.versions.items()):
        if views.get(name, version) != version:
            found.append(f"was trained on the view {name} in version {views[name][:16]}, now it is {version[:16]}")
    if not found and views != model.plan.versions:
        found.append("was trained on other views")
    kept = artifact.facts.get("runtime", ONNX)
    if kept != model.runtime:
        found.append(f"was kept for the runtime {kept}, now it is {model.runtime}")
    return found


def _chosen(project: Project, working: Definitions, pins: _Pins) -> _Chosen:
    """What answers for each model: the pinned artifact, else the newest that fits."""
    pinned: dict[str, ArtifactRecord] = {}
    for pin in pins:
        parts = _PIN.fullmatch(pin)
        if parts is None or parts["name"] in pinned:
            what = f"{pin!r} pins a model again" if parts else f"{pin!r} pins no artifact of a model"
            raise DefinitionError(what, where="--model", remedy="Write NAME@DIGEST, once a model", file="")
        pinned[parts["name"]] = _pinned(project, working, parts["name"], parts["digest"])
    return {name: pinned.get(name) or fitting_artifact(project, model) for name, model in working.models.items()}


def _pinned(project: Project, working: Definitions, name: str, digest: str) -> ArtifactRecord:
    from trilane.apps.training_job import model_named
    from trilane.models.artifact import load

    model = model_named(working, name)
    there = _artifacts(project, name)
    fitting = [f"{one.digest[:16]} ({format_instant(one.created_at)})" for one in there if not _misfits(one, model)]
    where, remedy = f"model {name!r}", f"Those that fit, newest first: {', '.join(fitting) or 'none'}"
    found = [one for one in there if one.digest.startswith(digest)]
    if len(found) != 1:
        number = len(found) or "no"
        raise ConflictError(f"{number} artifacts of it begin with {digest}", where=where, remedy=remedy)
    [artifact] = found
    reasons = _misfits(artifact, model)
    if reasons:
        what = f"the artifact {artifact.digest[:16]} does not fit the definitions: it {'; it '.join(reasons)}"
        raise ConflictError(what, where=where, remedy=remedy, reasons=reasons)
    if all(one.name != name for endpoint in working.endpoints.values() for one in endpoint.models):
        raise ConflictError("no endpoint answers by it", where=where, remedy="Declare an endpoint of this model")
    load(project.models_folder / name / artifact.digest[:16])  # here, rather than by a server that then cannot answer
    return artifact


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
                text=_kept_text(change),
            )
        elif view.lane != "request":
            yield Effect(kind="view", name=view.name, action="rebuild", text=_rebuild_text(view))


def _kept_text(change: Change) -> str:
    told = {detail.partition(".")[0] for detail in change.details} <= {"owner", "tags", "description"}
    return f"its values stay; only {'what is told about it' if told else 'how they are served'} changes"


def _rebuild_text(view: View) -> str:
    if view.lane == "nearline":
        past = f", and a history: run `trilane materialize {view.name}`, or wait for its next boundary"
        return f"gets new tiles: the worker reads the log from its start{past if view.has_history else ''}"
    return f"gets new versions: run `trilane materialize {view.name}`, or wait for its next boundary"


def _model_effects(project: Project, working: Definitions, chosen: _Chosen) -> Iterator[Effect]:
    for name, model in sorted(working.models.items()):
        if chosen[name] is not None:
            continue
        newest = project.registry.artifact("model", name)
        what = "runtime" if newest is not None and newest.facts.get("runtime", ONNX) != model.runtime else "features"
        text = "it was never trained" if newest is None else f"its {what} changed since it was trained"
        yield Effect(kind="model", name=name, action="train", text=f"{text}: run `trilane train {name}` after applying")


def _endpoint_effect(project: Project, working: Definitions, endpoint: Endpoint, chosen: _Chosen) -> Effect:
    action, text = _endpoint_action(project, working, endpoint, chosen)
    return Effect(kind="endpoint", name=endpoint.name, action=action, text=text)


def _endpoint_action(project: Project, working: Definitions, endpoint: Endpoint, chosen: _Chosen) -> tuple[str, str]:
    deployed, target = project.registry.deployed(endpoint.name), _bundle(endpoint, chosen, working)
    if target is None and deployed is not None:
        return KEEP, f"keeps answering with the bundle {deployed.bundle[:16]} until its model is trained again"
    if target is None:
        lacking = " and ".join(repr(one.name) for one in endpoint.models if chosen[one.name] is None)
        return WAIT, f"answers once the model {lacking} is trained and applied"
    if deployed is not None and deployed.bundle == target.digest:
        return SAME, f"answers with the bundle {deployed.bundle[:16]} already"
    text = f"switches to the bundle {target.digest[:16]} (model {target.model_digest[:16]})"
    waits = swap.awaited(project, endpoint.model.plan, deployed)
    if waits:
        text += f" once {', '.join(sorted({f'{one.view}@{one.version[:8]}' for one in waits}))} is filled"
    wanted = project.registry.wanted(endpoint.name)
    known = wanted is not None and wanted.bundle == target.digest and project.applied_digest() == working.digest
    return (FILL if known else DEPLOY), text


def _bundle(endpoint: Endpoint, chosen: _Chosen, definitions: Definitions) -> Bundle | None:
    """By what the endpoint shall answer; None while one of its models has no artifact that fits."""
    digests = {one.name: artifact.digest for one in endpoint.models if (artifact := chosen[one.name])}
    if len(digests) < len(endpoint.models):
        return None
    first = digests[endpoint.model.name]
    return bundle_of(endpoint, model_digest=first, definitions=definitions.digest, others=digests)


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
