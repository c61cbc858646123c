"""The scoring job: rows in, scores out, by a deployed bundle, on record as a run.

Laws: run again after any death, it scores what is missing and nothing else, and the output is the same to the byte (as
long as the stores are); a resumed job goes on with its own bundle and instant, whatever was deployed meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trilane.apps.project import Project
from trilane.apps.scoring.columns import OutputColumns
from trilane.apps.scoring.job import Done, Job, schema_of
from trilane.apps.scoring.opening import bundle_named, endpoint_of, format_of, keys_of
from trilane.apps.scoring.output import Output
from trilane.apps.scoring.source import Source, find_source, write_out
from trilane.apps.scoring.workers import score_parts
from trilane.clock import format_instant
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError
from trilane.lifecycle.graph import uri
from trilane.lifecycle.run import Run, run

__all__ = ["Asking", "Scored", "score"]

_LIKE = ("endpoint", "bundle", "at", "event_time", "keep", "strict", "source", "inputs", "parts")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What a caller asks for; None where the job that is there, or what is usual, decides."""

    endpoint: str
    input: str
    output: Path
    bundle: str | None = None
    at: int | None = None
    event_time: str = ""
    keep: Sequence[str] = ()
    strict: bool = False
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What there is in the output now; of the `parts`, `new` were scored in this run, in `seconds`: `new_rows` rows."""

    job: Job
    scored: int
    rejected: int
    degraded: int
    parts: int
    new: int
    new_rows: int
    seconds: float


def score(project: Project, asking: Asking, *, progress: Callable[[str, int, int], None] | None = None) -> Scored:
    """Scores what is missing of the job. Raises ConflictError for the folder of another job, and what scoring does."""
    tell = progress or _silent
    output = Output(asking.output.resolve())
    output.job()  # before a lock is put into a folder that is none of ours
    project.registry.abandon_dead()
    with output.held():
        there = output.job()
        job, bundle = _job(project, asking, output, there, tell)
        if there is None:
            output.begin(job)
        done = output.resume()
        with run(project.metadata, "score", job.endpoint, clock=project.clock) as present:
            _note(present, job, bundle, project)
            before = len(done)
            began = time.perf_counter()
            _score_rest(project, job, output, done, asking.workers or len(os.sched_getaffinity(0)), tell)
            found = _summary(job, done, before, time.perf_counter() - began)
            present.note(rows=found.scored, rejected=found.rejected, degraded=found.degraded, resumed=before > 0)
        output.clear_input()
    return found


def _job(
    project: Project, asking: Asking, output: Output, there: Job | None, tell: Callable[[str, int, int], None]
) -> tuple[Job, Bundle]:
    """The job as it is asked for now, checked to be the one that is there."""
    same = there is not None and there.endpoint == asking.endpoint
    bundle = bundle_named(project, asking.endpoint, asking.bundle or (there.bundle if there and same else None))
    endpoint = endpoint_of(project, bundle)
    format = format_of(endpoint, asking.event_time)
    source = find_source(project, asking.input, output.path)
    if asking.event_time:
        from trilane.apps.batch_job import archive_sources

        tell("archive the log", 0, 0)
        archive_sources(project, [*endpoint.model.plan.views, *endpoint.model.plan.stand_ins])
    if source.is_written_out and there is not None and there.source == source.name:
        root, inputs, parts = there.root, there.inputs, there.parts  # as it was written out then
    else:
        source = _written_out(project, source, output, tell)
        tell("look at the input", 0, 0)
        root, (inputs, parts) = str(source.root), source.parts(format)
    schema = schema_of(Path(inputs[0].path)) if there is None else None
    keys = [name for name in keys_of(endpoint) if schema is None or name in schema.names]
    keep = tuple(dict.fromkeys([*keys, *asking.keep]))
    if schema is not None:
        OutputColumns(bundle, schema, read=(), keep=keep)  # refused here, before anything is begun
    job = Job(
        endpoint=asking.endpoint,
        bundle=bundle.digest,
        at=asking.at if asking.at is not None else there.at if there else project.clock.now(),
        event_time=asking.event_time,
        keep=keep,
        strict=asking.strict,
        source=source.name,
        root=root,
        inputs=inputs,
        parts=parts,
    )
    if there is not None and there.digest != job.digest:
        differing = [name for name in _LIKE if getattr(there, name) != getattr(job, name)]
        raise ConflictError(
            f"this folder is the output of another job: {', '.join(differing) or 'version'} differs",
            where=str(output.path),
            remedy="Name another folder, or ask for the same to go on with it",
        )
    return job, bundle


def _written_out(project: Project, source: Source, output: Output, tell: Callable[[str, int, int], None]) -> Source:
    if not source.is_written_out or source.table is None:
        return source
    tell(f"write out {source.name}", 0, 0)
    return write_out(project, source.table, output)


def _score_rest(
    project: Project,
    job: Job,
    output: Output,
    done: dict[int, Done],
    workers: int,
    tell: Callable[[str, int, int], None],
) -> None:
    """Scores the parts that are not done, and adds them to `done`."""
    ready = sum(part.rows for part in job.parts if part.number in done)
    began, new = time.perf_counter(), 0

    def progress(rows: int) -> None:
        nonlocal new
        new += rows
        rate = new / max(time.perf_counter() - began, 1e-9)
        left = (job.rows - ready - new) / rate if rate else 0.0
        tell(f"{rate:,.0f} rows/s, {left:,.0f} s left", ready + new, job.rows)

    missing = [part for part in job.parts if part.number not in done]
    for one in score_parts(project.config, job, output, missing, workers=workers, progress=progress):
        output.finish(one)
        done[one.part] = one


def _note(present: Run, job: Job, bundle: Bundle, project: Project) -> None:
    present.reads(uri("bundle", job.endpoint, job.bundle[:16]))
    present.reads(uri("model", bundle.model, bundle.model_digest[:16]))
    if job.source in project.definitions.tables:
        present.reads(uri("source", job.source))
    present.writes(uri("scores", job.endpoint, job.digest[:16]))
    present.note(job=job.digest, input=job.source, at=format_instant(job.at), event_time=job.event_time)


def _summary(job: Job, done: dict[int, Done], before: int, seconds: float) -> Scored:
    new = list(done.values())[before:]
    return Scored(
        job=job,
        scored=sum(one.scored for one in done.values()),
        rejected=sum(one.rejected for one in done.values()),
        degraded=sum(one.degraded for one in done.values()),
        parts=len(job.parts),
        new=len(new),
        new_rows=sum(one.scored + one.rejected for one in new),
        seconds=seconds,
    )


def _silent(_stage: str, _done: int, _all: int) -> None:
    """Nobody listens."""
