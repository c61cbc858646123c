"""What a scoring job is asked to score by, before there is a job: the bundle of an endpoint, or a model alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trilane.apps.project import Project
from trilane.apps.scoring.by_model import check_kept
from trilane.apps.scoring.columns import OutputColumns
from trilane.apps.scoring.job import Job
from trilane.apps.scoring.model import find_model, open_model
from trilane.apps.scoring.opening import bundle_named, columns_of, endpoint_of, format_of, keys_of, model_of
from trilane.apps.scoring.source import Check
from trilane.features.view import View

__all__ = ["Subject", "endpoint_subject", "model_subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`facts`: what the job keeps of it. `check`: refuses a file that does not fit. `keep`: the columns that the output
    shall have too, with those it always has, refused if a schema does not have them. `views`: what point in time is
    joined from.
    """

    facts: dict[str, Any]
    check: Check
    keep: Callable[[pa.Schema | None], tuple[str, ...]]
    views: tuple[View, ...] = ()


def endpoint_subject(
    project: Project, name: str, there: Job | None, *, bundle: str | None, event_time: str, keep: Sequence[str]
) -> Subject:
    """The endpoint `name` by `bundle`, or that of the job that is there, or the deployed one."""
    same = there is not None and there.endpoint == name
    chosen = bundle_named(project, name, bundle or (there.bundle if there and same else None))
    endpoint = endpoint_of(project, chosen)

    def kept(schema: pa.Schema | None) -> tuple[str, ...]:
        keys = [name for name in keys_of(endpoint) if schema is None or name in schema.names]
        found = tuple(dict.fromkeys([*keys, *keep]))
        if schema is not None:
            OutputColumns(chosen, schema, read=(), keep=found)  # refused here, before anything is begun
        return found

    return Subject(
        facts={"endpoint": name, "bundle": chosen.digest},
        check=format_of(endpoint, event_time).check_schema,
        keep=kept,
        views=(*endpoint.model.plan.views, *endpoint.model.plan.stand_ins),
    )


def model_subject(
    project: Project, name: str, there: Job | None, *, version: str, features: Sequence[str], keep: Sequence[str]
) -> Subject:
    """The model `name` in `version`, or in that of the job that is there, or in the one that is served."""
    goes_on = there is not None and there.model == name and version in ("", there.model_version)
    named = model_of(project, there) if there is not None and goes_on else find_model(project, name, version)
    with contextlib.closing(open_model(project, named)) as model:
        columns = columns_of(model, features, name=name)

    def kept(schema: pa.Schema | None) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(keep))
        if schema is not None:
            check_kept(model, schema, found)
        return found

    facts = {"model": name, "model_version": named.version, "model_digest": named.digest, "features": tuple(features)}
    return Subject(facts=facts, check=columns.check_schema, keep=kept)
