"""The further aggregations: lists, shapes, distinct values, quantiles, histograms, frequent items, decays, ratios.

Law: what bounds the state of an aggregation (k, limit, error, half-life) is declared, checked here, and part of the
view's version. Beyond its bound an answer is capped, missing or less exact as its docstring says, never silently wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal, Unpack

from trilane.clock import SECOND, duration, format_duration
from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation, Scope, declare
from trilane.features.condition import within
from trilane.features.window import Window, default_hop

__all__ = [
    "approx_distinct",
    "bottom_k",
    "decayed_count",
    "decayed_mean",
    "decayed_sum",
    "distinct",
    "first_k",
    "frequent_items",
    "histogram",
    "kurtosis",
    "last_k",
    "quantile",
    "quantiles",
    "rate",
    "ratio",
    "skew",
    "time_since_last",
    "top_k",
]

_MOST_K, _MOST_KEPT, _MOST_BINS, _MOST_HOPS = 100, 10_000, 200, 10_000
_HALF_LIVES = 20  # a millionth of an event's weight is left out


def _bounded(name: str, value: int, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise DefinitionError(f"{name}={value!r} is not bounded", remedy=f"Give a whole number from 1 to {most}")
    return value


def _refuse_buckets(op: str, scope: Scope) -> None:
    if scope.get("by") is not None or scope.get("buckets"):
        raise DefinitionError(
            f"{op} has several answers or parts already, and cannot also go by={scope.get('by')!r}",
            remedy="Declare one aggregation with filter= for each bucket",
        )


def _several(plain: Aggregation, scope: Scope, members: Sequence[tuple[str, dict[str, float | int]]]) -> Aggregation:
    _refuse_buckets(plain.op, scope)
    family = [(s, dataclasses.replace(plain, options=(*plain.options, *more.items()))) for s, more in members]
    return dataclasses.replace(plain, family=tuple(family))


def _ranked(op: str, column: str, k: int, window: str | int | None, scope: Scope) -> Aggregation:
    _refuse_buckets(op, scope)
    plain = declare(op, column, window, scope, k=_bounded("k", k, _MOST_K))
    return _several(plain, scope, [(str(i), {"position": i}) for i in range(k)])


def first_k(column: str, *, k: int, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """The values of `column` at the k earliest event times, the earliest first: features `name_0`, `name_1`, ..."""
    return _ranked("first_k", column, k, window, scope)


def last_k(column: str, *, k: int, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """The values of `column` at the k latest event times, the latest first: features `name_0`, `name_1`, ..."""
    return _ranked("last_k", column, k, window, scope)


def top_k(column: str, *, k: int, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """The k largest values of `column`, the largest first, repeated ones as often as they come: `name_0`, ..."""
    return _ranked("top_k", column, k, window, scope)


def bottom_k(column: str, *, k: int, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """The k smallest values of `column`, the smallest first, repeated ones as often as they come: `name_0`, ..."""
    return _ranked("bottom_k", column, k, window, scope)


def skew(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Population skewness of `column`, from exact power sums; missing where the values do not vary."""
    return declare("skew", column, window, scope)


def kurtosis(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Population excess kurtosis of `column`, from exact power sums; missing where the values do not vary."""
    return declare("kurtosis", column, window, scope)


def distinct(column: str, *, window: str | int | None, limit: int = 1_000, **scope: Unpack[Scope]) -> Aggregation:
    """Number of distinct values of `column`, exact up to `limit`, at which it is capped. An empty window has 0."""
    bounded = _bounded("limit", limit, _MOST_KEPT)
    return declare("distinct", column, window, {**scope, "default": 0}, limit=bounded)


def approx_distinct(
    column: str, *, window: str | int | None, max_error: float = 0.02, **scope: Unpack[Scope]
) -> Aggregation:
    """Number of distinct values of `column` by HyperLogLog, with a relative standard error of at most `max_error`."""
    lg_k = math.ceil(2 * math.log2(1.04 / max_error)) if 0 < max_error < 1 else 0
    if not 1 <= lg_k <= 16:
        raise DefinitionError(f"max_error={max_error!r} cannot be kept", remedy="Give 0.0041 to 0.5")
    return declare("approx_distinct", column, window, {**scope, "default": 0}, lg_k=max(lg_k, 4))


def _checked_quantile(q: float) -> float:
    if not 0 <= q <= 1:
        raise DefinitionError(f"q={q!r} is no quantile", remedy="Give numbers from 0 to 1")
    return float(q)


def _most_buckets(max_rank_error: float) -> int:
    if not 0.001 <= max_rank_error <= 0.25:
        raise DefinitionError(f"max_rank_error={max_rank_error!r} cannot be kept", remedy="Give 0.001 to 0.25")
    return math.ceil(1 / max_rank_error)


def quantile(
    column: str, q: float, *, window: str | int | None, max_rank_error: float = 0.01, **scope: Unpack[Scope]
) -> Aggregation:
    """The value of `column` below or at which a part `q` of all values lies.

    Exact while no octave (the values between two powers of two) has more than 1 / max_rank_error distinct values.
    Beyond, an octave's values share as many buckets: the answer is off by at most 2 * max_rank_error of itself, and its
    rank by at most the share of one bucket; only where one bucket holds more than that part of all values, which must
    then lie this close together amid others of their octave, is the rank off by more than `max_rank_error`.
    """
    most = _most_buckets(max_rank_error)
    return declare("quantile", column, window, scope, most=most, q=_checked_quantile(q))


def quantiles(
    column: str,
    qs: Sequence[float],
    *,
    window: str | int | None,
    max_rank_error: float = 0.01,
    **scope: Unpack[Scope],
) -> Aggregation:
    """Several quantiles of one state, each a feature of its own: `name_p50`, `name_p99`, `name_p99_9`."""
    _refuse_buckets("quantiles", scope)
    plain = declare("quantile", column, window, scope, most=_most_buckets(max_rank_error))
    members = [(f"p{100 * _checked_quantile(q):.10g}".replace(".", "_"), {"q": float(q)}) for q in qs]
    if not members:
        raise DefinitionError("there is no quantile", remedy="Give qs=(0.5, 0.9)")
    return _several(plain, scope, [(suffix, {**more}) for suffix, more in members])


def histogram(column: str, *, edges: Sequence[float], window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """How many values of `column` lie in each bin: features `name_0` (below the first edge), `name_1`, ...

    Bin i holds edges[i - 1] <= value < edges[i]; the last holds what is at or above the last edge. Counts are exact.
    """
    _refuse_buckets("histogram", scope)
    _bounded("the number of edges", len(edges), _MOST_BINS)
    if any(not low < high for low, high in itertools.pairwise(edges)) or not all(math.isfinite(e) for e in edges):
        raise DefinitionError(f"the edges {list(edges)} do not ascend", remedy="Sort them, each once, all finite")
    plain = declare("count", column, window, {**scope, "default": 0})
    bounds = [None, *(float(edge) for edge in edges), None]
    members = [
        (str(i), dataclasses.replace(plain, where=(*plain.where, within(column, low, high))))
        for i, (low, high) in enumerate(itertools.pairwise(bounds))
    ]
    return dataclasses.replace(plain, family=tuple(members))


def frequent_items(
    column: str,
    *,
    k: int,
    window: str | int | None,
    output: Literal["item", "count", "share"] = "item",
    limit: int = 1_000,
    **scope: Unpack[Scope],
) -> Aggregation:
    """The k most frequent values of `column` (of equal ones the smallest first), or how often, or how large a part.

    Features `name_0`, `name_1`, ... Counts are exact up to `limit` distinct values in the window; beyond, missing.
    """
    if output not in ("item", "count", "share"):
        raise DefinitionError(f"output={output!r} is unknown", remedy='Write "item", "count" or "share"')
    _refuse_buckets("frequent_items", scope)
    bounds = {"k": _bounded("k", k, _MOST_K), "limit": _bounded("limit", limit, _MOST_KEPT)}
    plain = declare(f"frequent_{output}", column, window, scope, **bounds)
    return _several(plain, scope, [(str(i), {"position": i}) for i in range(k)])


def _decayed(op: str, column: str | None, half_life: str | int, window: str | int | None, scope: Scope) -> Aggregation:
    life = duration(half_life)
    if life < SECOND:
        raise DefinitionError(f"a half-life of {format_duration(life)} is too short", remedy="Give 1s or more")
    if scope.get("max_overhang") is not None:
        raise DefinitionError("the hop of a decay follows from its half-life", remedy="Give hop=, not max_overhang=")
    hop = scope.get("hop")
    step = default_hop(life) if hop is None else duration(hop)
    length = -(-_HALF_LIVES * life // step) * step if window is None else window
    if length == "lifetime" or duration(length) // step >= _MOST_HOPS:
        raise DefinitionError(
            f"a decay over {window} keeps more than {_MOST_HOPS} hops",
            remedy="Leave out window=: after 20 half-lives an event weighs less than a millionth",
        )
    span = Window.of(length, hop=step)
    return declare(op, column, span, scope, half_life=life)


def decayed_count(
    column: str | None = None, *, half_life: str | int, window: str | int | None = None, **scope: Unpack[Scope]
) -> Aggregation:
    """Number of events, each weighed by 2**(-age / half_life); the age is that of the middle of the event's hop.

    Without a window it looks back over 20 half-lives; without a hop, in steps of at most a twelfth of a half-life.
    """
    return _decayed("decayed_count", column, half_life, window, {**scope, "default": 0})


def decayed_sum(
    column: str, *, half_life: str | int, window: str | int | None = None, **scope: Unpack[Scope]
) -> Aggregation:
    """Sum of `column`, weighed like `decayed_count`."""
    return _decayed("decayed_sum", column, half_life, window, scope)


def decayed_mean(
    column: str, *, half_life: str | int, window: str | int | None = None, **scope: Unpack[Scope]
) -> Aggregation:
    """Mean of `column`, weighed like `decayed_count`."""
    return _decayed("decayed_mean", column, half_life, window, scope)


def time_since_last(column: str | None = None, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Seconds from the last event, or the last with a `column` that is not null, to the question."""
    return declare("time_since_last", column, window, scope)


def rate(aggregation: Aggregation, *, per: str | int = "1s", default: float | None = None) -> Aggregation:
    """A count or a sum per unit of time: its value over the length of its window."""
    if aggregation.op not in ("count", "sum", "distinct", "approx_distinct") or aggregation.family:
        raise DefinitionError(f"there is no rate of {aggregation.op}", remedy="Take the rate of one count or sum")
    if aggregation.window.is_lifetime:
        raise DefinitionError("there is no rate over a lifetime", remedy="Give the aggregation a window")
    unit = duration(per)
    if unit <= 0:
        raise DefinitionError(f"per={per!r} is no unit of time", remedy='Write per="1s"')
    return Aggregation("rate", None, aggregation.window, default, options=(("per", unit),), over=(aggregation,))


def ratio(numerator: Aggregation, denominator: Aggregation, *, default: float | None = None) -> Aggregation:
    """One aggregation over another, each over its own window; missing where either is, or the divisor is 0."""
    for part in (numerator, denominator):
        if part.family or part.over:
            raise DefinitionError(
                f"a ratio of {part.op} has no single value", remedy="Divide aggregations that have one value each"
            )
    return Aggregation("ratio", None, numerator.window, default, over=(numerator, denominator))
