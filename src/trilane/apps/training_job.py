"""The training job: from the applied definitions and the log to a packed, checked and recorded artifact.

Laws: a model is trained on what is applied, never on the working tree alone; the same definitions, rows and period
give the same artifact; what the job read, wrote, or failed with is recorded as a run.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trilane.apps.batch_job import archive_sources
from trilane.apps.definitions import Definitions
from trilane.apps.module_files import authors_line, name_elsewhere
from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.errors import ConflictError, DefinitionError, ModelError, SetupError, TrilaneError
from trilane.lifecycle.graph import uri
from trilane.lifecycle.run import Run, run
from trilane.models.model import Model
from trilane.models.own_process import PYTHON

if TYPE_CHECKING:
    from trilane.models.artifact import Artifact, Golden
    from trilane.models.profile import Profile
    from trilane.models.runtime.protocol import Runtime
    from trilane.models.signature import Matrix, Signature
    from trilane.training.skew import Skew
    from trilane.training.staleness import Lags
    from trilane.training.training_set import TrainingSet

__all__ = ["Trained", "model_named", "skews", "train"]

Progress: TypeAlias = Callable[[str, int, int], None]
_EXTRAS = {"lightgbm": "train", "sklearn": "train", "skl2onnx": "train", "xgboost": "xgboost"}  # by package
_ALONE = 64  # rows of which each is asked alone, where the author says that it makes no difference


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training job made; `is_new` is false if the very same artifact was there before."""

    artifact: Artifact
    training_set: TrainingSet
    profile: Profile
    is_new: bool


def train(
    project: Project,
    name: str,
    *,
    since: int | None = None,
    until: int | None = None,
    training: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Trains model `name` on the labelled rows of its spine from `since` to before `until` (microseconds).

    `training`: "ideal", "as_served" or "sampled"; None: as the model declares.
    Raises ConflictError if the working tree is not what is applied, ModelError if the author's function fails.
    """
    definitions = _applied(project)
    model = model_named(definitions, name)
    tell = progress or _silent
    period = {key: format_instant(at) for key, at in (("since", since), ("until", until)) if at is not None}
    project.registry.abandon_dead()
    with run(project.metadata, "train", name, clock=project.clock, facts=period) as present:
        tell("archive the log", 0, 0)
        archive_sources(project, [*model.plan.views, *model.plan.stand_ins])
        training_set = _build(project, model, since, until, training or model.training, tell)
        tell("fit the model", 0, 0)
        fitted = _fit(project, definitions, model, training_set)
        tell("pack and check the artifact", 0, 0)
        artifact = _pack(project, definitions, model, training_set, fitted)
        profile = _measure(model, artifact, training_set)
        is_new = _record(project, definitions, model, training_set, artifact, present)
    return Trained(artifact=artifact, training_set=training_set, profile=profile, is_new=is_new)


def skews(
    project: Project, name: str, *, since: int | None = None, until: int | None = None, progress: Progress | None = None
) -> dict[str, Skew]:
    """How each feature of model `name` as served differs from the ideal one; trains and keeps nothing."""
    from trilane.training import skews_of

    model = model_named(_applied(project), name)
    archive_sources(project, [*model.plan.views, *model.plan.stand_ins])
    return skews_of(
        model.plan,
        model.spine,
        label=model.label,
        warehouse=project.warehouse,
        root=project.config.root,
        since=since,
        until=until,
        progress=progress,
    )


def model_named(definitions: Definitions, name: str) -> Model:
    """The model called `name`. Raises DefinitionError that tells which there are."""
    if name not in definitions.models:
        known = ", ".join(sorted(definitions.models)) or "none"
        raise DefinitionError(f"there is no model {name!r}", where=name, remedy=f"Models: {known}", file="")
    return definitions.models[name]


def _applied(project: Project) -> Definitions:
    if project.applied_digest() != project.working.digest:
        raise ConflictError(
            "the definitions differ from the applied ones", where=project.config.name, remedy="Run `trilane apply`"
        )
    return project.definitions


def _build(
    project: Project, model: Model, since: int | None, until: int | None, training: str, progress: Progress
) -> TrainingSet:
    from trilane.training.build import build
    from trilane.training.training_set import SAMPLED

    return build(
        model.plan,
        model.spine,
        label=model.label,
        warehouse=project.warehouse,
        root=project.config.root,
        out=project.training_folder / model.name,
        since=since,
        until=until,
        training=training,
        lags=_lags(project, model) if training == SAMPLED else None,
        progress=progress,
    )


def _lags(project: Project, model: Model) -> dict[str, Lags]:
    """How far the lanes were behind when the model's endpoints decided; as the model declares where nobody knows."""
    import numpy as np

    from trilane.feedback.record import Records
    from trilane.training.staleness import declared, measured

    records = Records(project.config.state / "records.db")
    names = [name for name, one in project.definitions.endpoints.items() if one.model.name == model.name]
    pairs = np.array([pair for name in names for pair in records.instants(name)], np.int64).reshape(-1, 2)
    records.close()
    instants = np.repeat(pairs[:, 0], pairs[:, 1])
    found = {name: declared(lags) for name, lags in model.staleness.items()}
    for view in (*model.plan.views, *model.plan.stand_ins):
        if view.lane != "request" and (lags := measured(project.warehouse, view, instants)) is not None:
            found[view.name] = lags
    return found


def _fit(project: Project, definitions: Definitions, model: Model, training_set: TrainingSet) -> object:
    try:
        return model.train(training_set)
    except TrilaneError:
        raise
    except Exception as error:
        package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if package in _EXTRAS:
            raise SetupError(
                f"the train function needs {package}, which is not installed",
                where=f"model {model.name!r}",
                remedy=f"Install it: `pip install 'trilane[{_EXTRAS[package]}]'`",
            ) from error
        frozen = project.definitions_folder / definitions.digest[:16]
        line = authors_line(error, frozen).replace(str(frozen.resolve()), str(project.config.definitions.parent))
        raise ModelError(
            f"the train function raised {type(error).__name__}: {error}",
            where=f"model {model.name!r}" + (f", {line}" if line else ""),
            remedy="Mend it, run `trilane apply`, then train again; import what it needs at the top of its file",
            file=line,
        ) from error


def _pack(
    project: Project, definitions: Definitions, model: Model, training_set: TrainingSet, fitted: object
) -> Artifact:
    from trilane.models.artifact import FeatureColumn, pack
    from trilane.models.packing import packed
    from trilane.models.signature import Signature

    signature = Signature.of(model.feature_names)
    code = definitions.files
    files = packed(
        fitted, signature, runtime=model.runtime, code=code, name_of=lambda module: name_elsewhere(module, code)
    )
    columns = [
        FeatureColumn(name=column.name, view=column.view.name, version=column.view.version)
        for column in model.plan.columns
    ]
    return pack(
        project.artifacts_folder,
        name=model.name,
        files=files,
        signature=signature,
        features=columns,
        training_set=training_set.digest,
        code=definitions.digest,
        metrics={"rows": float(len(training_set)), "label_mean": float(training_set.label.mean())},
        golden=_golden(model, files, signature, training_set),
        priors=training_set.manifest.priors,
        runtime=model.runtime,
        row_wise=model.process.row_wise,
    )


def _golden(model: Model, files: Mapping[str, bytes], signature: Signature, training_set: TrainingSet) -> Golden:
    """The golden rows, as the model scores them from its files, opened as a server would."""
    from trilane.models.artifact import make_golden
    from trilane.models.runtime.trained import open_files

    process, rows = model.process, training_set.matrix
    with tempfile.TemporaryDirectory(prefix="trilane-") as folder:
        for name, content in files.items():
            place = Path(folder) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        runtime = open_files(
            Path(folder),
            signature,
            name=model.name,
            runtime=model.runtime,
            process=process,
            row_wise=process.row_wise,
        )
        try:
            if process.row_wise:
                _check_row_wise(model, runtime, rows[:_ALONE])
            try:
                return make_golden(rows, runtime.predict, runtime=model.runtime)
            except ModelError:
                if model.runtime != PYTHON:
                    raise
                return make_golden(rows, runtime.predict, runtime=model.runtime, missing=False)
        finally:
            runtime.close()


def _check_row_wise(model: Model, runtime: Runtime, rows: Matrix) -> None:
    """Raises ModelError if the author promised the same bits in every batch, and it is not so."""
    import numpy as np

    together = runtime.predict(np.ascontiguousarray(rows, np.float32))
    for row in range(len(rows)):
        alone = runtime.predict(np.ascontiguousarray(rows[row : row + 1], np.float32))
        if alone.tobytes() != together[row : row + 1].tobytes():
            raise ModelError(
                f"row {row} scores {float(alone[0])!r} alone and {float(together[row])!r} among {len(rows)}",
                where=f"model {model.name!r}",
                remedy="Leave out `row_wise=True`: each row is then asked alone",
            )


def _measure(model: Model, artifact: Artifact, training_set: TrainingSet) -> Profile:
    """Opens the artifact as a server would, which checks its golden rows, and measures it."""
    import numpy as np

    from trilane.models.profile import measure, write_profile
    from trilane.models.runtime.trained import open_trained

    rows = np.ascontiguousarray(training_set.matrix[:4096], np.float32)
    opened = functools.partial(open_trained, process=model.process)
    profile = measure(artifact, open_runtime=opened, timer=time.perf_counter, rows=rows)
    write_profile(artifact, profile)
    return profile


def _record(
    project: Project,
    definitions: Definitions,
    model: Model,
    training_set: TrainingSet,
    artifact: Artifact,
    present: Run,
) -> bool:
    for view in model.plan.views:
        present.reads(uri("view", view.name, view.version[:16]))
    present.reads(uri("source", model.spine.name))
    present.reads(uri("definitions", project.config.name.replace(" ", "_"), definitions.digest[:16]))
    present.writes(uri("training_set", model.name, training_set.digest[:16]))
    present.writes(uri("model", model.name, artifact.digest[:16]))
    present.note(model=artifact.digest, training_set=training_set.digest, rows=len(training_set))
    _record_training_set(project, model, training_set)
    return project.registry.record_artifact(
        "model",
        model.name,
        artifact.digest,
        _relative(artifact.path, project),
        {
            "features": list(model.feature_names),
            "views": model.plan.versions,
            "definitions": definitions.digest,
            "training_set": training_set.digest,
            "metrics": dict(artifact.manifest.metrics),
            "runtime": model.runtime,
        },
    )


def _record_training_set(project: Project, model: Model, training_set: TrainingSet) -> None:
    facts = {
        "rows": len(training_set),
        "training": training_set.manifest.training,
        "views": training_set.views,
        "columns": list(training_set.columns),
        "tables": training_set.tables,
    }
    path = _relative(training_set.folder, project)
    project.registry.record_artifact("training_set", model.name, training_set.digest, path, facts)


def _relative(path: Path, project: Project) -> Path:
    """A path that stays true when the project moves, if it lies in the state folder."""
    state = project.config.state
    return path.relative_to(state) if path.is_relative_to(state) else path


def _silent(_stage: str, _done: int, _all: int) -> None:
    """Nobody listens."""
