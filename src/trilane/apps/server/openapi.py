"""The OpenAPI document of a server, 3.1: from the table of routes, and from the contracts of what is deployed now.

Laws: each route is there, with each parameter of its path; an endpoint's own path has the schema by which its rows are
checked, and a source's that of its events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from trilane.apps.server.limits import DECISIONS
from trilane.apps.server.routes import ROUTES, Route
from trilane.contract import Contract
from trilane.models.tensor import DATATYPES

__all__ = ["document"]

Schema: TypeAlias = dict[str, Any]

_PARAMETER = re.compile(r"\{([^}]+)\}")
_TEXT, _NUMBER, _FLAG, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "integer"}
_ANY: Schema = {"type": "object"}


def _object(required: str = "", **properties: Schema) -> Schema:
    return (
        {"type": "object", "properties": properties, "required": required.split()}
        if required
        else {
            "type": "object",
            "properties": properties,
        }
    )


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_SCALARS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
_TENSOR = {
    "name": _TEXT,
    "shape": _list({"type": "integer", "minimum": 0}),
    "datatype": {"enum": list(DATATYPES)},
    "parameters": _SCALARS,
    "data": {"type": "array", "description": "flat, or nested as the shape says; absent where binary data follows"},
}
_SPEC = _object("name datatype shape", name=_TEXT, datatype={"enum": list(DATATYPES)}, shape=_list(_WHOLE))
_SCHEMAS: dict[str, Schema] = {
    "Error": _object("error", error=_object("code what", code=_TEXT, what=_TEXT, where=_TEXT, remedy=_TEXT)),
    "InferenceError": _object("error", error=_TEXT, code=_TEXT, where=_TEXT),
    "Decisions": _object(
        "bundle decisions",
        bundle=_TEXT,
        decisions=_list(
            _object(
                "id score degraded rung why statuses",
                id=_TEXT,
                score=_NUMBER,
                positive=_FLAG,
                degraded=_FLAG,
                rung=_TEXT,
                why=_list(_TEXT),
                statuses={"type": "object", "additionalProperties": _list(_TEXT)},
            )
        ),
    ),
    "Accepted": _object("accepted rejected offsets", accepted=_WHOLE, rejected=_list(_ANY), offsets=_ANY),
    "Clock": _object("now", now=_TEXT, wait_ms={"type": "integer", "minimum": 0, "maximum": 3_600_000}),
    "InferenceRequest": _object(
        "inputs",
        id=_TEXT,
        parameters=_SCALARS,
        inputs=_list(_object("name shape datatype", **_TENSOR)),
        outputs=_list(_object("name", name=_TEXT, parameters=_SCALARS)),
    ),
    "InferenceResponse": _object(
        "model_name outputs",
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_SCALARS,
        outputs=_list(_object("name shape datatype", **_TENSOR)),
    ),
    "Model": _object(
        "name platform inputs outputs",
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_SPEC),
        outputs=_list(_SPEC),
    ),
    "Index": _list(
        _object(
            "name state",
            name=_TEXT,
            version=_TEXT,
            state=_TEXT,
            reason=_TEXT,
            memory_bytes=_WHOLE,
            load_ms=_NUMBER,
        )
    ),
    "IndexRequest": _object(ready=_FLAG),
}


@dataclass(frozen=True, slots=True)
class _Operation:
    """What an operation does, and the schemas of what it takes and gives; `also`: statuses of it that are answers."""

    summary: str
    takes: Schema | None = None
    gives: Schema | None = None
    status: int = 200
    also: tuple[int, ...] = ()
    media: tuple[str, ...] = ("application/json",)


_PACKED = ("application/json", "application/msgpack")
_TABLES = (*_PACKED, "application/vnd.apache.arrow.stream")
_BINARY = ("application/json", "application/octet-stream")
_OPERATIONS = {
    "decide": _Operation("Decide about one or many rows", _ANY, _ref("Decisions"), media=_PACKED),
    "features": _Operation("Read the features of rows, without deciding", _ANY, _ANY, media=_TABLES),
    "events": _Operation("Take events: one, an array, or one a line", {}, _ref("Accepted"), 202, (422,)),
    "explain": _Operation("The record of a decision, and its score computed again", gives=_ANY),
    "status": _Operation("What runs, and how far the lanes are", gives=_ANY),
    "slo": _Operation("How answers do against their objectives", gives=_ANY),
    "signals": _Operation("What an autoscaler needs of this process", gives=_ANY),
    "policy": _Operation("The policy by which requests are let in", gives=_ANY),
    "clock": _Operation("Move the clock of a replay", _ref("Clock"), _ANY),
    "live": _Operation("Whether the process answers", gives=_ANY),
    "ready": _Operation("Whether every deployed endpoint answers", gives=_ANY, also=(503,)),
    "metrics": _Operation("Metrics as Prometheus text", gives=_TEXT, media=("text/plain",)),
    "openapi": _Operation("This document", gives=_ANY),
    "oip_server": _Operation("Name, version and extensions of the server", gives=_ANY),
    "oip_live": _Operation("Whether the process answers", gives=_ANY),
    "oip_ready": _Operation("Whether the server should be asked", gives=_ANY, also=(503,)),
    "oip_model": _Operation("What a model takes and gives", gives=_ref("Model")),
    "oip_model_ready": _Operation("Whether a model would answer", gives=_ANY, also=(503,)),
    "oip_infer": _Operation("Outputs for inputs", _ref("InferenceRequest"), _ref("InferenceResponse"), media=_BINARY),
    "oip_config": _Operation("How a model is run, in Triton's words", gives=_ANY),
    "oip_stats": _Operation("What models did since the process began", gives=_ANY),
    "oip_index": _Operation("All models with their state", _ref("IndexRequest"), _ref("Index")),
    "oip_load": _Operation("Load a model", gives=_ANY),
    "oip_unload": _Operation("Unload a model", gives=_ANY),
}
_REFUSED = {
    400: "the body is malformed",
    404: "there is no such thing",
    406: "`Accept` names no format of answers",
    409: "the state does not allow it",
    413: "the body is too large",
    415: "the content type names no format of requests",
    422: "the body does not keep the contract; `where` is the path into it",
    429: "too much waits; `Retry-After` says when to try again",
    500: "a defect; it is in the server's log",
    503: "no answer now; `Retry-After` says when to try again",
}
_WAITS = {"Retry-After": {"schema": _WHOLE, "description": "seconds"}}


def document(version: str, *, endpoints: Mapping[str, Contract], sources: Mapping[str, Contract]) -> Schema:
    """The document of a server of `version` that answers for these contracts."""
    schemas, paths = dict(_SCHEMAS), dict[str, Schema]()
    for name, contract in sorted(endpoints.items()):
        row = _row(schemas, f"endpoint.{name}", contract)
        rows = {"type": "array", "items": row, "minItems": 1, "maxItems": DECISIONS}
        takes = {"anyOf": [row, _object("rows", rows=rows)]}
        paths[f"/v1/decide/{name}"] = {"post": _described(_OPERATIONS["decide"], (), f"decide.{name}", takes)}
    for name, contract in sorted(sources.items()):
        event = _row(schemas, f"source.{name}", contract)
        takes = {"anyOf": [event, _list(event)]}
        paths[f"/v1/events/{name}"] = {"post": _described(_OPERATIONS["events"], (), f"events.{name}", takes)}
    for route in ROUTES:
        path = route.path.replace(" ", "_")
        known = _OPERATIONS.get(route.operation) or _Operation(route.operation, gives=_ANY)
        paths.setdefault(path, {})[route.method.lower()] = _described(known, _names(path), _id(route), known.takes)
    told = {"title": "Trilane", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}}
    return {"openapi": "3.1.0", "info": told, "paths": paths, "components": {"schemas": schemas}}


def _row(schemas: dict[str, Schema], name: str, contract: Contract) -> Schema:
    """The schema of a contract's row, put among the others under `name`."""
    _, found = msgspec.json.schema_components([contract.struct], ref_template="#/components/schemas/{name}")
    schemas[name] = found[contract.struct.__name__]
    return _ref(name)


def _names(path: str) -> tuple[str, ...]:
    return tuple(_PARAMETER.findall(path))


def _id(route: Route) -> str:
    """A name of the operation on this path; one with a version is another."""
    return ".".join((route.operation, *(name.replace(" ", "_") for name in _PARAMETER.findall(route.path))))


def _described(operation: _Operation, names: tuple[str, ...], id: str, takes: Schema | None) -> Schema:
    error = _ref("InferenceError" if id.startswith("oip") else "Error")
    media = {kind: {"schema": operation.gives or _ANY} for kind in operation.media}
    responses: Schema = {str(operation.status): {"description": "the answer", "content": media}}
    for status in operation.also:
        responses[str(status)] = {"description": "the answer", "content": media}
    for status, why in _REFUSED.items():
        told: Schema = {"description": why, "content": {"application/json": {"schema": error}}}
        responses.setdefault(str(status), {**told, "headers": _WAITS} if status in (429, 503) else told)
    found: Schema = {"summary": operation.summary, "operationId": id, "responses": responses}
    found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    if takes is not None:
        found["requestBody"] = {
            "required": not id.startswith("oip_index"),
            "content": {"application/json": {"schema": takes}},
        }
        wait = {"type": "integer", "minimum": 1}
        found["parameters"].append({"name": "x-request-timeout-ms", "in": "header", "schema": wait})
    return found
