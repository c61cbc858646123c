"""From a job to what scores its parts: the bundle compiled, or the model opened, and the columns of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow as pa

from trilane.apps.project import Project
from trilane.apps.scoring.by_endpoint import ByEndpoint
from trilane.apps.scoring.by_model import ByModel
from trilane.apps.scoring.columns import OutputColumns
from trilane.apps.scoring.job import Job, schema_of
from trilane.apps.scoring.model import NamedModel, OpenModel, find_model, open_model
from trilane.apps.scoring.output import Output
from trilane.apps.scoring.part import PartScorer
from trilane.apps.scoring.patient import ForgivingRuntime, PatientRuntime
from trilane.apps.scoring.tensors import TensorColumns
from trilane.apps.server.compiling import compile_bundle
from trilane.contract import Contract
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError, DefinitionError, UnavailableError
from trilane.models.artifact import load
from trilane.models.profile import fastest_batch, read_profile
from trilane.models.runtime.sliced import SlicedRuntime
from trilane.serving.breaker import Breaker
from trilane.serving.degradation import CachedAnswer
from trilane.serving.endpoint import Endpoint
from trilane.serving.engine import Engine
from trilane.serving.ladder import Smaller
from trilane.serving.protocol.table import TableFormat
from trilane.serving.reading import FeatureReader
from trilane.types import Timestamp, as_field

__all__ = ["bundle_named", "columns_of", "endpoint_of", "format_of", "keys_of", "model_of", "open_scorer"]


def bundle_named(project: Project, endpoint: str, digest: str | None) -> Bundle:
    """The deployed bundle of `endpoint`, or the one ever deployed whose digest begins so."""
    there = {one.bundle: one for one in project.registry.deployments(endpoint)}
    if digest is None:
        present = project.registry.deployed(endpoint)
        if present is None:
            known = ", ".join(sorted(project.bundles())) or "none"
            what = f"nothing is deployed as endpoint {endpoint!r}"
            raise DefinitionError(what, where=endpoint, remedy=f"Deployed endpoints: {known}", file="")
        return Bundle.from_facts(present.facts)
    found = [one for name, one in there.items() if name.startswith(digest)]
    if len(found) != 1 or len(digest) < 6:
        known = ", ".join(name[:16] for name in there) or "none"
        what = f"{len(found) or 'no'} bundles of it begin with {digest!r}"
        raise ConflictError(what, where=f"endpoint {endpoint!r}", remedy=f"Give 6 or more digits of one of: {known}")
    return Bundle.from_facts(found[0].facts)


def endpoint_of(project: Project, bundle: Bundle) -> Endpoint:
    """The endpoint as the bundle's frozen definitions declare it."""
    found = project.snapshot(bundle.definitions).endpoints.get(bundle.endpoint)
    if found is None:
        what = "the frozen definitions do not hold what the bundle names"
        raise ConflictError(what, where=f"endpoint {bundle.endpoint!r}", remedy="Run `trilane apply` to deploy it anew")
    return found


def format_of(endpoint: Endpoint, event_time: str) -> TableFormat:
    """What checks the rows of an input: the endpoint's inputs, and each row's instant if `event_time` names it."""
    fields = {field.name: field for field in endpoint.contract.fields}
    if event_time:
        fields[event_time] = as_field(event_time, Timestamp)
    return TableFormat(Contract(endpoint.name, tuple(fields.values())), keys=keys_of(endpoint))


def keys_of(endpoint: Endpoint) -> list[str]:
    """The inputs by which stores are read."""
    keys = {name for entity in endpoint.model.plan.entities for name in entity.key_names}
    return [field.name for field in endpoint.contract.fields if field.name in keys]


def open_scorer(project: Project, job: Job, output: Output, *, progress: Callable[[int], None]) -> PartScorer:
    """Opens all that scoring a part takes. Raises ModelError or ConflictError if anything of the bundle, or the model,
    changed.
    """
    schema = schema_of(Path(job.inputs[0].path))
    answering = _by_model(project, job, schema) if job.model else _by_endpoint(project, job, schema)
    return PartScorer(job, answering, output=output, progress=progress)


def model_of(project: Project, job: Job) -> NamedModel:
    """The model of a job. Raises ConflictError if its files changed."""
    named = find_model(project, job.model, job.model_version)
    if named.digest != job.model_digest:
        remedy = "Put the files back, or name another folder for the output"
        raise ConflictError("its files changed since the job began", where=f"model {job.model!r}", remedy=remedy)
    return named


def columns_of(model: OpenModel, features: Sequence[str], *, name: str) -> TensorColumns:
    """What reads the inputs of a model: `features`, if they are named, or those that it knows itself."""
    return TensorColumns(model.inputs, features=features or model.names, where=f"model {name!r}")


def _by_model(project: Project, job: Job, schema: pa.Schema) -> ByModel:
    model = open_model(project, model_of(project, job))
    return ByModel(model, columns_of(model, job.features, name=job.model), schema, keep=job.keep)


def _by_endpoint(project: Project, job: Job, schema: pa.Schema) -> ByEndpoint:
    bundle = bundle_named(project, job.endpoint, job.bundle)
    failures = list[UnavailableError]()
    served = compile_bundle(project, bundle)
    artifact = load(project.models_folder / bundle.model / bundle.model_digest[:16], verify=False)
    endpoint, reader, prepare = served.endpoint, served.reader, None
    if job.event_time:
        # Here, for it brings the warehouse's engine along, which scoring as of one instant does not need.
        from trilane.apps.scoring.past import PastReader

        past = PastReader(
            endpoint.model,
            artifact,
            event_time=job.event_time,
            warehouse=project.warehouse,
            root=project.config.root,
        )
        reader, prepare = cast(FeatureReader, past), past.prepare
    else:
        reader = FeatureReader(
            endpoint.model.plan,
            project.online,
            unread=lambda: failures.append(_unreadable()),
            cache=project.config.cache_mib << 20,
            priors=artifact.manifest.priors,
        )
    engine = _unhurried(served, reader, rows=fastest_batch(read_profile(artifact)), lost=failures.append)
    names = [field.name for field in endpoint.contract.fields]
    columns = OutputColumns(bundle, schema, read=[*names, *filter(None, [job.event_time])], keep=job.keep)

    def failed() -> UnavailableError | None:
        first = failures[0] if failures else None
        failures.clear()
        return first

    format = format_of(endpoint, job.event_time)
    return ByEndpoint(engine, format, at=job.at, columns=columns, failed=failed, prepare=prepare)


def _unhurried(served: Engine, reader: FeatureReader, *, rows: int, lost: Callable[[UnavailableError], None]) -> Engine:
    """The engine without what only a request needs, and what would let an answer depend on those before it: kept
    answers, and breakers, which take a large batch for a slow call. `lost` is told of a model that is there no more.
    """
    own, smaller = served.endpoint, served.ladder.smaller
    rungs = [rung for rung in own.fallback if not isinstance(rung, CachedAnswer)]
    return Engine(
        Endpoint(own.name, model=own.model, deadline=own.deadline, fallback=rungs, threshold=own.threshold),
        bundle=served.bundle,
        reader=reader,
        runtime=SlicedRuntime(PatientRuntime(served.runtime, lost=lost), rows=rows),
        smaller=None if smaller is None else _thorough(smaller, lost),
        breaker=_never_open(),
        thorough=True,
    )


def _thorough(smaller: Smaller, lost: Callable[[UnavailableError], None]) -> Smaller:
    runtime = ForgivingRuntime(PatientRuntime(smaller.runtime, lost=lost))
    return replace(smaller, runtime=runtime, breaker=_never_open())


def _unreadable() -> UnavailableError:
    return UnavailableError(
        "the online store cannot be read", where="score", remedy="Run the same command once it is back: it goes on"
    )


def _never_open() -> Breaker:
    return Breaker(failures=2.0)
