"""The scoring job: rows in, scores out, by a deployed bundle or a model alone, on record as a run.

Laws: run again after any death, it scores what is missing and nothing else, and the output is the same to the byte (as
long as the stores are); a resumed job goes on with its own bundle or model and instant, whatever is deployed meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from trilane.apps.project import Project
from trilane.apps.scoring.job import JOINED_ROWS, PART_ROWS, Done, InputFile, Job, Part, cut
from trilane.apps.scoring.kept import KeptColumns
from trilane.apps.scoring.opening import bundle_named
from trilane.apps.scoring.output import Output
from trilane.apps.scoring.source import Source, find_source, write_out
from trilane.apps.scoring.subject import Subject, endpoint_subject, model_subject
from trilane.apps.scoring.workers import score_parts
from trilane.clock import format_instant
from trilane.errors import ConflictError
from trilane.lifecycle.graph import uri
from trilane.lifecycle.run import Run, run

__all__ = ["Asking", "Scored", "score"]

_SCORERS = ("endpoint", "bundle", "model", "model_version", "model_digest", "features")
_LIKE = (*_SCORERS, "at", "event_time", "keep", "strict", "source", "inputs", "parts")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What a caller asks for, by an `endpoint` or by a `model`; None where the job that is there, or what is usual,
    decides.
    """

    endpoint: str = ""
    model: str = ""
    input: str
    output: Path
    bundle: str | None = None
    version: str = ""
    features: Sequence[str] = ()
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
        job = _job(project, asking, output, there, tell)
        if there is None:
            output.begin(job)
        done = output.resume()
        with run(project.metadata, "score", job.scorer, clock=project.clock) as present:
            _note(present, job, project)
            before = len(done)
            began = time.perf_counter()
            _score_rest(project, job, output, done, asking.workers or len(os.sched_getaffinity(0)), tell)
            found = _summary(job, done, before, time.perf_counter() - began)
            present.note(rows=found.scored, rejected=found.rejected, degraded=found.degraded, resumed=before > 0)
        output.clear_input()
    return found


def _job(
    project: Project, asking: Asking, output: Output, there: Job | None, tell: Callable[[str, int, int], None]
) -> Job:
    """The job as it is asked for now, checked to be the one that is there."""
    subject = _subject(project, asking, there)
    source = find_source(project, asking.input, output.path)
    if asking.event_time:
        from trilane.apps.batch_job import archive_sources

        tell("archive the log", 0, 0)
        archive_sources(project, list(subject.views))
    if source.is_written_out and there is not None and there.source == source.name:
        root, inputs, parts = there.root, there.inputs, there.parts  # as it was written out then
        keep = subject.keep_again(there.keep)
    else:
        source = _written_out(project, source, output, tell)
        tell("look at the input", 0, 0)
        root, (inputs, parts, keep) = str(source.root), _cut(source, subject, joined=bool(asking.event_time))
    job = Job(
        **subject.facts,
        at=_instant(project, asking, there),
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
    return job


def _cut(
    source: Source, subject: Subject, *, joined: bool
) -> tuple[tuple[InputFile, ...], tuple[Part, ...], tuple[str, ...]]:
    """The files that are scored, their parts, and the columns that are kept, after a look at the schema of each."""
    kept: KeptColumns | None = None

    def check(schema: pa.Schema, *, where: str) -> None:
        nonlocal kept
        subject.check(schema, where=where)
        if kept is None:
            kept = KeptColumns(schema, subject.keep(schema), where=where)
        kept.check_schema(schema, where=where, optional=subject.optional)

    inputs, parts = cut(source.files, check, largest=JOINED_ROWS if joined else PART_ROWS)
    return inputs, parts, kept.names if kept is not None else ()


def _instant(project: Project, asking: Asking, there: Job | None) -> int:
    """As of when features are read; a model alone reads none, so its output is the same whenever it is made."""
    if asking.model:
        return 0
    return asking.at if asking.at is not None else there.at if there else project.clock.now()


def _subject(project: Project, asking: Asking, there: Job | None) -> Subject:
    if asking.model:
        return model_subject(
            project, asking.model, there, version=asking.version, features=asking.features, keep=asking.keep
        )
    return endpoint_subject(
        project, asking.endpoint, there, bundle=asking.bundle, event_time=asking.event_time, keep=asking.keep
    )


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
    began, first, new = 0.0, 0, 0

    def progress(rows: int) -> None:
        nonlocal began, first, new
        if not new:  # the start of processes is no part of the rate
            began, first = time.perf_counter(), rows
        new += rows
        rate = (new - first) / max(time.perf_counter() - began, 1e-9)
        left = (job.rows - ready - new) / rate if rate else 0.0
        tell(f"{rate:,.0f} rows/s, {left:,.0f} s left" if rate else "begun", ready + new, job.rows)

    tell("start", 0, 0)
    missing = [part for part in job.parts if part.number not in done]
    for one in score_parts(project.config, job, output, missing, workers=workers, progress=progress):
        output.finish(one)
        done[one.part] = one


def _note(present: Run, job: Job, project: Project) -> None:
    if job.model:
        present.reads(uri("model", job.model, job.model_digest[:16]))
    else:
        bundle = bundle_named(project, job.endpoint, job.bundle)
        present.reads(uri("bundle", job.endpoint, job.bundle[:16]))
        present.reads(uri("model", bundle.model, bundle.model_digest[:16]))
    if not Path(job.source).is_absolute():  # as paths are: then it is a table
        present.reads(uri("source", job.source))
    present.writes(uri("scores", job.scorer, job.digest[:16]))
    at = {} if job.model else {"at": format_instant(job.at), "event_time": job.event_time}
    present.note(job=job.digest, input=job.source, **at)


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
