"""Requests to simulate: drawn by a law of arrivals, or as they were recorded, at another rate if need be.

Laws: the same seed gives the same requests; requests come out in order of time, whatever order a record has; the mean
rate is the one that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from trilane.errors import ContractError
from trilane.features.algebra import Floats
from trilane.serving.simulation import Request

__all__ = ["SHAPES", "asked_by", "drawn", "mixed", "replayed", "share_of", "times", "with_burst"]

SHAPES = ("poisson", "bursts", "diurnal")
_FACTOR, _SHARE, _BURST = 10.0, 0.05, 0.5  # of bursts: how many times the rate, which part of the time, mean seconds
_SPREAD = 1.0  # seconds by which the copies of a recorded request may be moved


def drawn(
    shape: str, rate: float, seconds: float, *, seed: int, rows: int = 1, patience: float = math.inf, tier: int = 0
) -> list[Request]:
    """Requests of a law, `rate` a second on average.

    `poisson`: independently; `bursts`: so too, but now and then, a twentieth of the time, at ten times the rate of
    the rest, for half a second on average; `diurnal`: at a rate that goes up and
    down once, from a fifth of its highest.
    """
    random = np.random.default_rng(seed)
    if shape == "bursts":
        at = _bursts(random, rate, seconds)
    elif shape == "diurnal":
        at = _diurnal(random, rate, seconds)
    else:
        at = np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))
    return [Request(one, rows, patience, tier) for one in at.tolist()]


def _bursts(random: np.random.Generator, rate: float, seconds: float) -> Floats:
    """A Poisson process that is modulated by a Markov chain of two states."""
    spells, start, bursting = [], 0.0, False
    while start < seconds:
        lasts = random.exponential(_BURST if bursting else _BURST * (1 - _SHARE) / _SHARE)
        stop = min(start + lasts, seconds)
        spells.append((start, stop, _FACTOR if bursting else 1.0))
        start, bursting = stop, not bursting
    # So few bursts fall into a short time that the mean would depend on luck: the rate of the rest makes up for it.
    quiet = rate * seconds / sum((stop - start) * factor for start, stop, factor in spells)
    return np.sort(
        np.concatenate([random.uniform(a, b, random.poisson(quiet * factor * (b - a))) for a, b, factor in spells])
    )


def _diurnal(random: np.random.Generator, rate: float, seconds: float) -> Floats:
    at = random.uniform(0, seconds, random.poisson(rate * seconds * 5 / 3))
    height = (3 - 2 * np.cos(2 * np.pi * at / seconds)) / 5  # of the highest rate, 5/3 of the mean
    return np.sort(at[random.uniform(size=len(at)) < height])


def replayed(
    at: Sequence[float],
    rows: Sequence[int] | None = None,
    *,
    patience: float = math.inf,
    tiers: Sequence[int] | None = None,
    callers: Sequence[str] | None = None,
) -> list[Request]:
    """Recorded requests, by seconds and rows, from the first on. Raises ContractError for what is no trace."""
    if not len(at):
        raise ContractError("the trace is empty", where="at", remedy="Give a trace of one request or more")
    instants = np.asarray(at, float)
    sizes = np.ones(len(instants), int) if rows is None else np.asarray(rows)
    wrong = np.flatnonzero(~np.isfinite(instants))
    if len(wrong):
        raise ContractError("an instant is no number", where=f"at[{wrong[0]}]", remedy="Give every request its instant")
    wrong = np.flatnonzero(~(sizes >= 1) | (sizes != np.floor(sizes)))
    if len(wrong):
        raise ContractError("a request of no whole row", where=f"rows[{wrong[0]}]", remedy="Give 1 row or more")
    order = np.argsort(instants, kind="stable")
    since, whole = instants - instants[order[0]], sizes.astype(int).tolist()
    return [
        Request(float(since[one]), whole[one], patience, tiers[one] if tiers else 0, callers[one] if callers else "")
        for one in order.tolist()
    ]


def times(requests: Sequence[Request], factor: float, *, seed: int) -> list[Request]:
    """As many times the requests: copies that come up to half a second sooner or later, or as few drawn by lot."""
    random = np.random.default_rng(seed)
    copies, rest = divmod(factor, 1.0)
    many = int(copies) + (random.uniform(size=len(requests)) < rest)
    last = requests[-1].at if requests else 0.0
    found = []
    for request, number in zip(requests, many.tolist(), strict=True):
        if number:
            found.append(request)
        moves = random.uniform(-_SPREAD / 2, _SPREAD / 2, max(number - 1, 0)).tolist()
        found += [replace(request, at=min(max(request.at + move, 0.0), last)) for move in moves]
    return sorted(found, key=lambda request: request.at)


def share_of(requests: Sequence[Request], part: float, *, seed: int) -> list[Request]:
    """What one of several replicas gets if each request is sent to any of them: each with probability `part`."""
    return times(requests, part, seed=seed) if part < 1 else list(requests)


def mixed(requests: Sequence[Request], parts: Sequence[float], *, seed: int) -> list[Request]:
    """The requests, each in a tier by lot: tier 0 gets the first of `parts`, which are normed to 1 together."""
    tiers = _lots(len(requests), parts, seed, where="tiers")
    return [replace(request, tier=tier) for request, tier in zip(requests, tiers, strict=True)]


def asked_by(requests: Sequence[Request], parts: Mapping[str, float], *, seed: int) -> list[Request]:
    """The requests, each of a caller by lot, by the callers' parts, which are normed to 1 together."""
    names = list(parts)
    lots = _lots(len(requests), list(parts.values()), seed + 1, where="callers")  # not in step with the tiers
    return [replace(request, caller=names[lot]) for request, lot in zip(requests, lots, strict=True)]


def _lots(number: int, parts: Sequence[float], seed: int, *, where: str) -> list[int]:
    shares = np.asarray(parts, float)
    if not len(shares) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise ContractError(
            f"{list(parts)} are no parts", where=where, remedy="Give parts of 0 or more, such as 0.1,0.9"
        )
    return list(np.random.default_rng(seed).choice(len(shares), number, p=shares / shares.sum()).tolist())


def with_burst(requests: Sequence[Request], rate: float, seconds: float, *, seed: int) -> tuple[list[Request], float]:
    """The requests and a burst besides, from a third of their time on, and when it begins: `rate` a second that come
    independently and are like those there are, by lot.
    """
    random = np.random.default_rng(seed)
    begin = (requests[-1].at - requests[0].at) / 3
    at = begin + random.uniform(0, seconds, random.poisson(rate * seconds))
    like = random.integers(0, len(requests), len(at)).tolist()
    more = [replace(requests[one], at=instant) for one, instant in zip(like, at.tolist(), strict=True)]
    return sorted([*requests, *more], key=lambda request: request.at), begin
