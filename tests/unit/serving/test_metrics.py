"""What is counted in plain numbers and told to Prometheus now and then."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from trilane.serving.metrics import Metrics


def _lines(text: bytes, name: str) -> list[str]:
    """The samples of a metric, but for when it was made."""
    return [line for line in text.decode().splitlines() if line.startswith(name) and "_created" not in line]


# The bounds of the buckets themselves too: a duration counts in the bucket of which it is the bound.
@given(st.lists(st.sampled_from([0.0, 0.0005, 0.001, 0.5, 1.0]) | st.floats(0, 2), max_size=20))
def test_durations_are_told_as_if_each_had_been_observed_at_once(durations: list[float]) -> None:
    metrics, plain = Metrics(shared=False), CollectorRegistry()
    bounds = [float(one) for one in re.findall(r'le="([0-9.]+)"', _one_bucketed())]
    observed = Histogram("trilane_decide_seconds", "", ["endpoint"], registry=plain, buckets=bounds).labels("e")
    metrics.time("e", 0.002)
    observed.observe(0.002)
    for place, seconds in enumerate(durations):
        metrics.time("e", seconds)
        observed.observe(seconds)
        if place == 7:
            metrics.tell_requests()
    ours, theirs = (_lines(text, "trilane_decide_seconds") for text in (metrics.text(), generate_latest(plain)))
    assert [line for line in ours if "_sum" not in line] == [line for line in theirs if "_sum" not in line]


def _one_bucketed() -> str:
    metrics = Metrics(shared=False)
    metrics.time("e", 0.0)
    return "\n".join(_lines(metrics.text(), "trilane_decide_seconds_bucket"))


def test_requests_are_told_once_however_often_they_are_asked_for() -> None:
    metrics = Metrics(shared=False)
    for status in (200, 200, 429):
        metrics.count_request("/v1/decide", status)
    for _ in range(2):
        assert _lines(metrics.text(), "trilane_requests_total") == [
            'trilane_requests_total{route="/v1/decide",status="200"} 2.0',
            'trilane_requests_total{route="/v1/decide",status="429"} 1.0',
        ]


def test_a_duration_with_a_trace_keeps_it_as_an_exemplar() -> None:
    metrics = Metrics(shared=False)
    metrics.time("e", 0.003)
    metrics.time("e", 0.004, "abc")
    text = metrics.text(exemplars=True).decode()
    assert re.search(r'trilane_decide_seconds_bucket\{endpoint="e",le="0.005"\} 2.0 # \{trace_id="abc"\} 0.004', text)
