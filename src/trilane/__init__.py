"""Trilane turns live events into decisions: features over three lanes, models, and serving contracts."""

import typing as _typing

from trilane.clock import SimulatedClock, WallClock, duration, format_instant, instant
from trilane.constraint import check
from trilane.errors import (
    ConflictError,
    ContractError,
    DefinitionError,
    ModelError,
    SetupError,
    TrilaneError,
    UnavailableError,
    WorkflowError,
)
from trilane.features.aggregation import count, first, max, mean, min, stddev, sum, variance
from trilane.features.catalogue import (
    approx_distinct,
    bottom_k,
    decayed_count,
    decayed_mean,
    decayed_sum,
    distinct,
    first_k,
    frequent_items,
    histogram,
    kurtosis,
    last_k,
    quantile,
    quantiles,
    rate,
    ratio,
    skew,
    time_since_last,
    top_k,
)
from trilane.features.declaration import batch, nearline, request
from trilane.features.entity import Entity
from trilane.features.fallback import age, default, last, prior, stale, status
from trilane.features.view import View
from trilane.models.model import Model
from trilane.models.own_process import python
from trilane.serving.degradation import cached, constant, smaller
from trilane.serving.endpoint import Endpoint
from trilane.serving.objective import objective
from trilane.serving.policy import Caller, Policy, Tier
from trilane.sources.change import Changes
from trilane.sources.event import EventSource
from trilane.sources.expectation import volume
from trilane.sources.formats.declaration import avro, protobuf
from trilane.sources.rule import rule, unique
from trilane.sources.table import TableSource
from trilane.types import Bool, Float64, Int64, String, Timestamp

if _typing.TYPE_CHECKING:
    from trilane.apps.client.local import open
    from trilane.apps.client.remote import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Bool",
    "Caller",
    "Changes",
    "Client",
    "ConflictError",
    "ContractError",
    "DefinitionError",
    "Endpoint",
    "Entity",
    "EventSource",
    "Float64",
    "Int64",
    "Model",
    "ModelError",
    "Policy",
    "SetupError",
    "SimulatedClock",
    "String",
    "TableSource",
    "Tier",
    "Timestamp",
    "TrilaneError",
    "UnavailableError",
    "View",
    "WallClock",
    "WorkflowError",
    "age",
    "approx_distinct",
    "avro",
    "batch",
    "bottom_k",
    "cached",
    "check",
    "constant",
    "count",
    "decayed_count",
    "decayed_mean",
    "decayed_sum",
    "default",
    "distinct",
    "duration",
    "first",
    "first_k",
    "format_instant",
    "frequent_items",
    "histogram",
    "instant",
    "kurtosis",
    "last",
    "last_k",
    "max",
    "mean",
    "min",
    "nearline",
    "objective",
    "open",
    "prior",
    "protobuf",
    "python",
    "quantile",
    "quantiles",
    "rate",
    "ratio",
    "request",
    "rule",
    "skew",
    "smaller",
    "stale",
    "status",
    "stddev",
    "sum",
    "time_since_last",
    "top_k",
    "unique",
    "variance",
    "volume",
]

__version__ = "0.1.0"

_LATER = {"AsyncClient": "remote", "Client": "remote", "open": "local"}


def __getattr__(name: str) -> object:
    """What needs libraries that defining features does not, and is loaded when it is first used."""
    if name not in _LATER:
        raise AttributeError(f"module 'trilane' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"trilane.apps.client.{_LATER[name]}"), name)
