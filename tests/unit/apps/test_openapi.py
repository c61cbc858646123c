"""The OpenAPI document says what the routes are."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec
from jsonschema_rs import validator_for

import trilane as tl
from trilane.apps.server.openapi import _OPERATIONS, document
from trilane.apps.server.routes import ROUTES
from trilane.contract import Contract
from trilane.types import fields_of

CONTRACT = Contract(
    "check",
    fields_of({"card": tl.String, "amount": Annotated[tl.Float64, msgspec.Meta(ge=0)], "at": tl.Timestamp | None}),
)
FOUND: dict[str, Any] = json.loads(
    msgspec.json.encode(document("1.0", endpoints={"check": CONTRACT}, sources={"check": CONTRACT}))
)


def _valid(schema: dict[str, Any], value: object) -> bool:
    whole = {**schema, "components": FOUND["components"]}
    return bool(validator_for(whole).is_valid(value))


def test_every_route_is_there_with_its_parameters_and_is_described() -> None:
    for route in ROUTES:
        path = route.path.replace(" ", "_")
        said = FOUND["paths"][path][route.method.lower()]
        named = {one["name"] for one in said["parameters"] if one["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))
    assert {route.operation for route in ROUTES} == set(_OPERATIONS)
    ids = [said["operationId"] for path in FOUND["paths"].values() for said in path.values()]
    assert len(set(ids)) == len(ids)


def test_an_endpoint_has_its_contract_as_schema() -> None:
    body = FOUND["paths"]["/v1/decide/check"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    row = {"card": "a", "amount": 1.5}
    assert _valid(body, row)
    assert _valid(body, {"rows": [row, {**row, "at": "2026-01-01T00:00:00Z"}]})
    assert not _valid(body, {**row, "amount": -1.0})
    assert not _valid(body, {"card": "a"})
    assert not _valid(body, {"rows": []})


def test_every_reference_leads_somewhere() -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(FOUND)))
    assert references <= set(FOUND["components"]["schemas"])
