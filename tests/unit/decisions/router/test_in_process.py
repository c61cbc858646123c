"""Routes are seen whole, and replaced in one step."""

from __future__ import annotations

import pytest

from trilane.decisions.router.in_process import InProcessRouter
from trilane.errors import DefinitionError


def test_a_router_answers_with_the_bundle_it_was_given() -> None:
    router = InProcessRouter({"ask": "a"})
    assert router.route("ask") == "a"
    router.switch({"ask": "b", "tell": "c"})
    assert (router.route("ask"), router.route("tell")) == ("b", "c")


def test_routes_once_read_do_not_change() -> None:
    given = {"ask": "a"}
    router = InProcessRouter(given)
    seen = router.routes()
    given["ask"] = "x"
    router.switch({})
    assert dict(seen) == {"ask": "a"}
    assert dict(router.routes()) == {}


def test_an_endpoint_that_nobody_deployed_is_refused_with_those_that_are() -> None:
    with pytest.raises(DefinitionError, match="nothing is deployed") as caught:
        InProcessRouter({"ask": "a"}).route("aks")
    assert "ask" in caught.value.remedy
