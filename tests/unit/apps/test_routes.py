"""Which operation answers a path."""

from __future__ import annotations

from typing import Any

import pytest

from trilane.apps.server.routes import ROUTES, Route, Router


async def _answer(*_: Any) -> int:
    return 200


def _router(*paths: str) -> Router:
    routes = [Route(path.partition(" ")[0], path.partition(" ")[2], path) for path in paths]
    return Router(dict.fromkeys(paths, _answer), routes)


MODELS = _router(
    "GET /v2",
    "GET /v2/models/{m}",
    "GET /v2/models/{m}/ready",
    "POST /v2/models/{m}/versions/{v}/infer",
    "GET /v2/models/stats",
)


@pytest.mark.parametrize(
    ("method", "path", "label", "parameters"),
    [
        ("GET", "/v2", "/v2", ()),
        ("GET", "/v2/models/a", "/v2/models", ("a",)),
        ("GET", "/v2/models/ready", "/v2/models", ("ready",)),
        ("GET", "/v2/models/ready/ready", "/v2/models/ready", ("ready",)),
        ("POST", "/v2/models/a b/versions/1/infer", "/v2/models/versions/infer", ("a b", "1")),
        ("GET", "/v2/models/stats", "/v2/models/stats", ()),
    ],
)
def test_a_path_is_answered_with_its_parameters(
    method: str, path: str, label: str, parameters: tuple[str, ...]
) -> None:
    found = MODELS.find(method, path)
    assert found is not None
    assert (found.label, found.parameters) == (label, parameters)


@pytest.mark.parametrize(
    "path", ["", "/", "v2", "/v2/", "/v2/models", "/v2/models/", "/v2/models//ready", "/v2/models/a/b", "//v2", "/V2"]
)
def test_a_path_that_is_none_is_answered_by_nothing_and_told_the_paths(path: str) -> None:
    assert MODELS.find("GET", path) is None
    error = MODELS.missing("GET", path)
    assert error.facts["status"] == 404
    assert "/v2/models/{m}/ready" in error.remedy


def test_another_method_on_a_path_is_told_which_ones_it_takes() -> None:
    assert MODELS.find("GET", "/v2/models/a/versions/1/infer") is None
    error = MODELS.missing("GET", "/v2/models/a/versions/1/infer")
    assert (error.facts["status"], error.remedy, error.facts["allow"]) == (405, "Use POST", "POST")
    assert MODELS.missing("POST", "/v2/models/a/ready").facts["allow"] == "GET, HEAD"


def test_a_route_without_its_operation_is_a_defect_that_shows_at_the_start() -> None:
    with pytest.raises(KeyError, match="decide"):
        Router({})


def test_no_two_routes_are_the_same() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_any_number_of_names_is_found_rightly_again_and_again() -> None:
    for turn in range(2):
        for number in range(2_000):
            found = MODELS.find("GET", f"/v2/models/m{number}/ready")
            assert found is not None
            assert found.parameters == (f"m{number}",), turn
