"""Deadlines as the protocols say them."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import ContractError
from trilane.serving.deadline import grpc_timeout, milliseconds, of_headers, of_parameters


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2H", 7_200), ("3M", 180), ("5S", 5), ("50m", 0.05), ("250u", 0.00025), ("99999999n", 0.099999999), ("0m", 0)],
)
def test_grpc_says_its_unit(text: str, seconds: float) -> None:
    assert grpc_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "50", "50x", "-5m", "1.5S", "123456789m", "\uff150m", " 5m", "5 m"])
def test_what_is_no_timeout_of_grpc_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="is no time to wait") as caught:
        grpc_timeout(text)
    assert caught.value.where == "grpc-timeout"


@given(st.text())
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    for read in (grpc_timeout, lambda one: milliseconds(one, "header"), lambda one: of_parameters({"timeout": one})):
        with contextlib.suppress(ContractError):
            assert read(text) >= 0


def test_the_least_of_all_that_is_said_counts() -> None:
    said = {"x-request-timeout-ms": "80", "x-envoy-expected-rq-timeout-ms": "60", "grpc-timeout": "70m"}
    assert of_headers(said) == pytest.approx(0.06)
    assert of_headers({**said, "grpc-timeout": "5m"}) == pytest.approx(0.005)
    assert of_headers({}) == math.inf


def test_a_route_of_envoy_without_a_time_limit_says_none() -> None:
    assert of_headers({"x-envoy-expected-rq-timeout-ms": "0"}) == math.inf


@pytest.mark.parametrize("header", ["x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms", "grpc-timeout"])
def test_a_header_that_cannot_be_read_is_refused_by_its_name(header: str) -> None:
    with pytest.raises(ContractError) as caught:
        of_headers({header: "soon"})
    assert caught.value.where == header
    assert caught.value.facts["status"] == 400


@pytest.mark.parametrize("said", [50_000, "50000"])
def test_the_open_inference_protocol_says_microseconds(said: object) -> None:
    assert of_parameters({"timeout": said}) == pytest.approx(0.05)


@pytest.mark.parametrize("parameters", [{}, {"timeout": 0}, {"timeout": "0"}, {"timeout": None}])
def test_no_timeout_of_the_open_inference_protocol_is_none(parameters: dict[str, object]) -> None:
    assert of_parameters(parameters) == math.inf


@pytest.mark.parametrize("said", [-1, 1.5, True, "soon", [], {}])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(said: object) -> None:
    with pytest.raises(ContractError, match="is no time to wait"):
        of_parameters({"timeout": said})
