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
from trilane.apps.scoring.job import Check, Job
from trilane.apps.scoring.model import find_model, open_model
from trilane.apps.scoring.opening import bundle_named, columns_of, endpoint_of, format_of, keys_of, model_of
from trilane.features.view import View

__all__ = ["Subject", "endpoint_subject", "model_subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`facts`: what the job keeps of it. `check`: refuses a file that does not fit. `keep`: the columns that the output
    shall have too, with those it always has, refused if the schema of the first file does not have them; of these a
    file may lack those in `optional`. `views`: what point in time is joined from.
    """

    facts: dict[str, Any]
    check: Check
    keep: Callable[[pa.Schema], tuple[str, ...]]
    asked: tuple[str, ...]
    optional: frozenset[str] = frozenset()
    views: tuple[View, ...] = ()

    def keep_again(self, kept: Sequence[str]) -> tuple[str, ...]:
        """`keep` for an input of which a job `kept` columns, and whose schema may be gone with it."""
        own = [name for name in kept if name in self.optional]
        return tuple(dict.fromkeys([*own, *self.asked]))


def endpoint_subject(
    project: Project, name: str, there: Job | None, *, bundle: str | None, event_time: str, keep: Sequence[str]
) -> Subject:
    """The endpoint `name` by `bundle`, or that of the job that is there, or the deployed one."""
    same = there is not None and there.endpoint == name
    chosen = bundle_named(project, name, bundle or (there.bundle if there and same else None))
    endpoint = endpoint_of(project, chosen)

    def kept(schema: pa.Schema) -> tuple[str, ...]:
        found = tuple(dict.fromkeys([*(name for name in keys_of(endpoint) if name in schema.names), *keep]))
        OutputColumns(chosen, schema, read=(), keep=found)  # refused here, before anything is begun
        return found

    return Subject(
        facts={"endpoint": name, "bundle": chosen.digest},
        check=format_of(endpoint, event_time).check_schema,
        keep=kept,
        asked=tuple(keep),
        optional=frozenset(keys_of(endpoint)),
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

    def kept(schema: pa.Schema) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(keep))
        check_kept(model, schema, found)
        return found

    facts = {"model": name, "model_version": named.version, "model_digest": named.digest, "features": tuple(features)}
    return Subject(facts=facts, check=columns.check_schema, keep=kept, asked=tuple(keep))
