"""What is counted in plain numbers and told to Prometheus now and then."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

import trilane as tl
from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers
from trilane.serving.metrics import Metrics
from trilane.serving.reading import Fault, Reading


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
    ours, theirs = (_lines(text, "trilane_decide_seconds") for text in (_told(metrics), generate_latest(plain)))
    assert [line for line in ours if "_sum" not in line] == [line for line in theirs if "_sum" not in line]


def _told(metrics: Metrics) -> bytes:
    metrics.tell_requests()
    return metrics.text()


def _one_bucketed() -> str:
    metrics = Metrics(shared=False)
    metrics.time("e", 0.0)
    return "\n".join(_lines(_told(metrics), "trilane_decide_seconds_bucket"))


def test_requests_are_told_once_however_often_they_are_asked_for() -> None:
    metrics = Metrics(shared=False)
    for status in (200, 200, 429):
        metrics.count_request("/v1/decide", status)
    for _ in range(2):
        assert _lines(_told(metrics), "trilane_requests_total") == [
            'trilane_requests_total{route="/v1/decide",status="200"} 2.0',
            'trilane_requests_total{route="/v1/decide",status="429"} 1.0',
        ]


def test_batches_and_their_values_are_told_once_by_rung_view_and_status() -> None:
    @tl.request(inputs={"x": tl.Float64}, features={"a": tl.Float64, "b": tl.Float64})
    def numbers(rows):  # type: ignore[no-untyped-def]
        return {"a": rows["x"], "b": rows["x"]}

    metrics = Metrics(shared=False)
    values = metrics.values_of("e", FeaturePlan.of([numbers], where="model"))
    for worse in (False, True):
        reading = Reading(np.ones((3, 2)), np.zeros((3, 2), np.uint8), np.full((3, 2), 2_000_000, np.int64), ())
        reading.statuses[0, 1] = STATUSES.index("missing") if worse else 0
        faults = (Fault("model: odd", frozenset([1])),) if worse else ()
        rungs = np.array([0, RUNGS.index("stale") if worse else 0, 0], np.uint8)
        metrics.count("e", Answers("0", "b", 5, [], np.zeros(3), reading, faults, rungs))
        values.add(reading)
    for _ in range(2):
        told = _told(metrics)
        assert _lines(told, "trilane_decisions_total") == [
            'trilane_decisions_total{degraded="false",endpoint="e"} 5.0',
            'trilane_decisions_total{degraded="true",endpoint="e"} 1.0',
        ]
        assert _lines(told, "trilane_rungs_total") == [
            'trilane_rungs_total{endpoint="e",rung="fresh"} 5.0',
            'trilane_rungs_total{endpoint="e",rung="stale"} 1.0',
        ]
        assert sorted(_lines(told, "trilane_feature_values_total")) == [
            'trilane_feature_values_total{endpoint="e",status="fresh",view="numbers"} 11.0',
            'trilane_feature_values_total{endpoint="e",status="missing",view="numbers"} 1.0',
        ]
        assert 'trilane_batch_rows_bucket{endpoint="e",le="4.0"} 2.0' in told.decode()
        assert 'trilane_feature_age_seconds_sum{endpoint="e",view="numbers"} 4.0' in told.decode()


def test_a_duration_with_a_trace_keeps_it_as_an_exemplar() -> None:
    metrics = Metrics(shared=False)
    metrics.time("e", 0.003)
    metrics.time("e", 0.004, "abc")
    metrics.tell_requests()
    text = metrics.text(exemplars=True).decode()
    assert re.search(r'trilane_decide_seconds_bucket\{endpoint="e",le="0.005"\} 2.0 # \{trace_id="abc"\} 0.004', text)
