"""From a deployed bundle to the engine that answers for it: frozen definitions, checked artifacts, opened models.

Law: a bundle of which anything has changed since it was deployed is refused.
"""

from __future__ import annotations

import time

import numpy as np

from trilane.apps.project import Project
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError
from trilane.models.artifact import Artifact, load
from trilane.models.model import Model
from trilane.models.profile import profile_here
from trilane.models.runtime.apart import ApartRuntime
from trilane.models.runtime.protocol import Runtime
from trilane.models.runtime.trained import open_trained
from trilane.models.stamps import Stamps
from trilane.serving.degradation import SmallerModel
from trilane.serving.endpoint import Endpoint
from trilane.serving.engine import Engine
from trilane.serving.ladder import Smaller, breaker_of
from trilane.serving.latency import LatencyModel
from trilane.serving.metrics import Metrics
from trilane.serving.reading import FeatureReader

__all__ = ["compile_bundle", "compile_measured"]


def compile_bundle(project: Project, bundle: Bundle, metrics: Metrics | None = None) -> Engine:
    """Loads and checks all that a bundle names; the engine is to be closed.

    Raises ModelError or ConflictError if anything of it has changed.
    """
    return compile_measured(project, bundle, metrics)[0]


def compile_measured(project: Project, bundle: Bundle, metrics: Metrics | None) -> tuple[Engine, dict[int, float]]:
    """The same, and the seconds that its model takes by number of rows, if a server, whose `metrics` count, is to
    know.
    """
    definitions = project.snapshot(bundle.definitions)
    endpoint = definitions.endpoints.get(bundle.endpoint)
    if endpoint is None or endpoint.model.plan.versions != bundle.views:
        raise ConflictError(
            "the frozen definitions do not hold what the bundle names",
            where=f"endpoint {bundle.endpoint!r}",
            remedy="Run `trilane apply` to deploy it anew",
        )
    artifact, runtime = _opened(project, endpoint.model, bundle.model_digest)
    try:
        return _engine(project, bundle, endpoint, artifact, runtime, metrics)
    except BaseException:
        runtime.close()
        raise


def _engine(
    project: Project, bundle: Bundle, endpoint: Endpoint, artifact: Artifact, runtime: Runtime, metrics: Metrics | None
) -> tuple[Engine, dict[int, float]]:
    failed = None if metrics is None else lambda view: metrics.failures.labels(view).inc()
    unread = None if metrics is None else metrics.store_failures.labels("online").inc
    cache = project.config.cache_mib << 20
    priors = artifact.manifest.priors
    reader = FeatureReader(
        endpoint.model.plan, project.online, failed=failed, unread=unread, cache=cache, priors=priors
    )
    measured = metrics is not None  # a server wants to know; whoever explains a decision does not
    if measured:
        reader.warm(project.clock.now(), within=project.config.read_limit / 1e6)
    prior = profile_here(artifact, runtime, timer=time.perf_counter) if measured else {}
    engine = Engine(
        endpoint,
        bundle=bundle.digest,
        reader=reader,
        runtime=runtime,
        smaller=_smaller(project, bundle, endpoint, measured=measured),
        breaker=breaker_of(endpoint, apart=isinstance(runtime, ApartRuntime)),
        latency=LatencyModel.of(prior),
    )
    return engine, prior


def _opened(project: Project, model: Model, digest: str) -> tuple[Artifact, Runtime]:
    """A checked artifact and its runtime; what was checked once is not read again, what is large is mapped."""
    kept = project.config.state / "models"
    stamps = Stamps(kept / "stamps")
    artifact = load(project.models_folder / model.name / digest[:16], stamps=stamps)
    return artifact, open_trained(artifact, process=model.process, kept=kept, stamps=stamps)


def _smaller(project: Project, bundle: Bundle, endpoint: Endpoint, *, measured: bool) -> Smaller | None:
    """The smaller model of the ladder, opened, and warmed by its golden rows."""
    rung = next((rung for rung in endpoint.fallback if isinstance(rung, SmallerModel)), None)
    if rung is None:
        return None
    name = rung.model.name
    digest = next(str(step["digest"]) for step in bundle.fallback if step["step"] == "smaller")
    artifact, runtime = _opened(project, rung.model, digest)
    prior = profile_here(artifact, runtime, timer=time.perf_counter) if measured else {}
    names = endpoint.model.feature_names
    columns = np.array([names.index(feature) for feature in rung.model.feature_names])
    return Smaller(name, runtime, columns, breaker_of(endpoint), LatencyModel.of(prior))
