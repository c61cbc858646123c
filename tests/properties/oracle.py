"""Every aggregation by brute force over a list of events, and a sample declaration of each.

The oracle knows nothing of tiles, states or sketches: a window W asked at q sees [floor(q - W, h), q).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np

import trilane as tl
from trilane.features.aggregation import Aggregation
from trilane.features.condition import Condition

Row: TypeAlias = Mapping[str, float | str | None]  # one event: its instant "at" and its columns
Declare: TypeAlias = Callable[[str, str], Aggregation]  # from a column and a window

# Each public name of the two modules of aggregations, and the declarations of it that the laws are tried on.
SAMPLES: dict[str, list[Declare]] = {
    "count": [lambda _, w: tl.count(window=w), lambda c, w: tl.count(c, window=w)],
    "sum": [lambda c, w: tl.sum(c, window=w)],
    "mean": [lambda c, w: tl.mean(c, window=w)],
    "min": [lambda c, w: tl.min(c, window=w)],
    "max": [lambda c, w: tl.max(c, window=w)],
    "first": [lambda c, w: tl.first(c, window=w)],
    "last": [lambda c, w: tl.last(c, window=w)],
    "variance": [lambda c, w: tl.variance(c, window=w), lambda c, w: tl.variance(c, window=w, sample=True)],
    "stddev": [lambda c, w: tl.stddev(c, window=w), lambda c, w: tl.stddev(c, window=w, sample=True)],
    "first_k": [lambda c, w: tl.first_k(c, k=3, window=w)],
    "last_k": [lambda c, w: tl.last_k(c, k=3, window=w)],
    "top_k": [lambda c, w: tl.top_k(c, k=2, window=w)],
    "bottom_k": [lambda c, w: tl.bottom_k(c, k=2, window=w)],
    "skew": [lambda c, w: tl.skew(c, window=w)],
    "kurtosis": [lambda c, w: tl.kurtosis(c, window=w)],
    "distinct": [lambda c, w: tl.distinct(c, window=w), lambda c, w: tl.distinct(c, window=w, limit=3)],
    "approx_distinct": [lambda c, w: tl.approx_distinct(c, window=w)],
    "quantile": [
        lambda c, w: tl.quantile(c, 0.5, window=w),
        lambda c, w: tl.quantile(c, 0.9, window=w, max_rank_error=0.25),
    ],
    "quantiles": [lambda c, w: tl.quantiles(c, (0, 0.25, 0.999), window=w)],
    "histogram": [lambda c, w: tl.histogram(c, edges=(-1, 0.1, 5), window=w)],
    "frequent_items": [
        lambda c, w: tl.frequent_items(c, k=2, window=w),
        lambda c, w: tl.frequent_items(c, k=2, window=w, output="count", limit=4),
        lambda c, w: tl.frequent_items(c, k=2, window=w, output="share"),
    ],
    "decayed_count": [lambda *_: tl.decayed_count(half_life="1m"), lambda c, _: tl.decayed_count(c, half_life="5s")],
    "decayed_sum": [lambda c, _: tl.decayed_sum(c, half_life="1h")],
    "decayed_mean": [lambda c, _: tl.decayed_mean(c, half_life="20m")],
    "rate": [lambda _, w: tl.rate(tl.count(window=w if w != "lifetime" else "1h"), per="1m")],
    "ratio": [lambda c, w: tl.ratio(tl.sum(c, window=w), tl.count(window="1h"))],
    "time_since_last": [lambda _, w: tl.time_since_last(window=w), lambda c, w: tl.time_since_last(c, window=w)],
}

EXACT = {
    "count", "min", "max", "first", "last", "first_k", "last_k", "top_k", "bottom_k", "distinct", "quantile",
    "frequent_item", "frequent_count", "frequent_share", "time_since_last",
}  # fmt: skip


def answer(aggregation: Aggregation, events: Sequence[Row], right: int) -> float:
    """What the aggregation answers at `right`; NaN where there is no value."""
    value = _value(aggregation, events, right)
    if value is None:
        return math.nan if aggregation.default is None else aggregation.default
    return value


def unbounded(aggregation: Aggregation, events: Sequence[Row]) -> bool:
    """Whether the answer is exact only within a bound that the events may exceed."""
    return aggregation.op == "quantile" and len(events) > dict(aggregation.options)["most"]


def _value(aggregation: Aggregation, events: Sequence[Row], right: int) -> float | None:
    window = aggregation.window
    if aggregation.op == "rate":
        return answer(aggregation.over[0], events, right) * dict(aggregation.options)["per"] / window.length
    if aggregation.op == "ratio":
        top, bottom = (answer(part, events, right) for part in aggregation.over)
        return None if math.isnan(top) or math.isnan(bottom) or bottom == 0 else top / bottom
    left = -math.inf if window.is_lifetime else (right - window.length) // window.hop * window.hop
    inside = [e for e in events if left <= _at(e) < right and all(_holds(c, e) for c in aggregation.where)]
    column = aggregation.column
    if column is None:
        rows = [(_at(e), 0.0) for e in inside]
    else:
        rows = [(_at(e), v if isinstance(v, str) else v + 0) for e in inside if (v := e[column]) is not None]  # type: ignore[misc]
    return value_of(aggregation, sorted(rows), right)


def _at(event: Row) -> int:
    return int(event["at"])  # type: ignore[arg-type]


def _holds(condition: Condition, event: Row) -> bool:
    value = event[condition.column]
    if value is None:
        return False
    if condition.kind == "true":
        return bool(value)
    if condition.kind == "from":
        low, high = condition.values
        return (low is None or value >= low) and (high is None or value < high)  # type: ignore[operator]
    return (value in condition.values) == (condition.kind == "in")


def value_of(aggregation: Aggregation, rows: list[tuple[int, float]], right: int) -> float | None:
    """The answer from instants and values, in order."""
    op, options = aggregation.op, dict(aggregation.options)
    values = [v for _, v in rows]
    if op == "count":
        return len(values)
    if op in ("distinct", "approx_distinct"):
        return min(len(set(values)), options.get("limit", math.inf))
    if op == "decayed_count" or not values:
        return sum(_weights(aggregation, rows, right)) if op == "decayed_count" else None
    if op == "time_since_last":
        return (right - rows[-1][0]) / 1e6
    if op.startswith("decayed"):
        weights = _weights(aggregation, rows, right)
        total = math.fsum(w * v for w, v in zip(weights, values, strict=True))
        return total if op == "decayed_sum" else total / math.fsum(weights)
    if op.startswith("frequent"):
        return _frequent(op, options, values)
    if op in ("first_k", "last_k", "top_k", "bottom_k"):
        ordered = sorted(values) if op in ("top_k", "bottom_k") else values
        ordered = ordered[::-1] if op in ("last_k", "top_k") else ordered
        position = int(options["position"])
        return float(ordered[position]) if position < len(ordered) else None
    if op == "quantile":
        rank = max(math.ceil(Fraction(str(options["q"])) * len(values)), 1)
        return float(sorted(values)[rank - 1])
    return _moment(op, rows, [Fraction(v) for v in values])


def _weights(aggregation: Aggregation, rows: list[tuple[int, float]], right: int) -> list[float]:
    hop, life = aggregation.window.hop, dict(aggregation.options)["half_life"]
    return [2.0 ** (-max(right - (at // hop * hop + hop // 2), 0) / life) for at, _ in rows]


def _frequent(op: str, options: Mapping[str, float], values: list[float]) -> float | None:
    counts = Counter(values)
    position = int(options["position"])
    if len(counts) > options["limit"] or position >= len(counts):
        return None
    item, number = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[position]
    return float({"frequent_item": item, "frequent_count": number, "frequent_share": number / len(values)}[op])


def _moment(op: str, rows: list[tuple[int, float]], exact: list[Fraction]) -> float | None:
    if len(exact) < (2 if op.endswith("_sample") else 1):
        return None
    mean = sum(exact) / len(exact)
    if op in ("sum", "mean"):
        return float(sum(exact)) if op == "sum" else float(mean)
    if op in ("min", "max"):
        return float(min(exact) if op == "min" else max(exact))
    if op == "first":
        return float(rows[0][1])
    if op == "last":
        return float(rows[-1][1])
    if op in ("skew", "kurtosis"):
        second, third, fourth = (sum((v - mean) ** p for v in exact) / len(exact) for p in (2, 3, 4))
        if second == 0:
            return None
        return float(fourth / second**2 - 3) if op == "kurtosis" else float(third) / float(second) ** 1.5
    variance = float(statistics.variance(exact) if op.endswith("_sample") else statistics.pvariance(exact))
    return math.sqrt(variance) if op.startswith("stddev") else variance


def check(aggregation: Aggregation, events: Sequence[Row], got: float, want: float) -> None:
    """Compares a value with the oracle's: equal where the aggregation is exact, else within its promise."""
    if unbounded(aggregation, events):
        assert math.isnan(got) == math.isnan(want), (aggregation, got, want)
    elif math.isnan(want) or aggregation.op in EXACT:
        assert got == want or (math.isnan(got) and math.isnan(want)), (aggregation, got, want)
    elif aggregation.op == "approx_distinct":
        assert abs(got - want) <= max(1, 0.08 * want), (aggregation, got, want)
    else:
        # Sums are exact down to 2**-96; weights of a decay within 2e-11; moments are ratios of exact sums.
        exact = aggregation.op in ("sum", "mean", "variance", "stddev", "variance_sample", "stddev_sample")
        # What cancels leaves the error of the weights, so a decay is held against the size of what it adds up.
        values = (row.get(aggregation.column or "") for row in events)
        size = sum(abs(value) for value in values if isinstance(value, float)) + 1
        close = np.isclose(got, want, rtol=1e-12 if exact else 1e-9, atol=1e-13 if exact else 1e-10 * size)
        assert close, (aggregation, got, want)
