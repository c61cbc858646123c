"""How a forecast is shown to a person: all traffic, then tier by tier, then what a burst did.

Law: a request that is not answered in time has no latency; where a quantile falls on one, it is `never`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trilane.apps.cli.terminal import Terminal
from trilane.serving.policy import Policy

if TYPE_CHECKING:
    from trilane.serving.capacity import Burst, Costs, Forecast, TierForecast

__all__ = ["Shown", "tell"]

_TRAFFIC = ["asked", "in time", "", "p50 ms", "p99 ms", "p99.9", "busy", "rows"]
_TIERS = ["tier", "asked", "let in", "refused", "in time", "ms"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What was simulated: `found` by number of replicas, of which `replicas` is the answer; `before`: with the present
    traffic; `burst`: if there was one.
    """

    endpoint: str
    times: float
    costs: Costs
    policy: Policy
    replicas: int
    found: dict[int, Forecast]
    before: Forecast | None
    burst: Burst | None

    @property
    def replica(self) -> Forecast:
        """One of the replicas."""
        return self.found[self.replicas]


def tell(terminal: Terminal, shown: Shown) -> None:
    """Shows it all."""
    one, replicas, before = shown.replica, shown.replicas, shown.before
    if len(shown.found) > 1:
        rows = [_row(f"{number:,}", number, other) for number, other in sorted(shown.found.items())]
    else:
        rows = [_row("now", replicas, before)] if before else []
        rows.append(_row(f"{shown.times:g} times" if before else f"{replicas:,}", replicas, one))
    title, first = f"{shown.endpoint}, simulated: requests a second", "traffic" if before else "replicas"
    terminal.table(title, [first, *_TRAFFIC], rows)
    _tell_tiers(terminal, one, " of one replica" if replicas > 1 else "")
    limit = "none" if one.limit is None else f"{one.limit:,} in at once at the end ({shown.policy.limit})"
    terminal.tell(f"policy [bold]{shown.policy.version[:16]}[/] as declared, limit {limit}")
    if shown.burst is not None:
        _tell_burst(terminal, shown.burst)
    if len(shown.found) > 1:
        terminal.tell(
            f"[bold]{replicas:,}[/] replicas are the fewest that keep it, if requests go to any of them by lot."
        )


def _tell_tiers(terminal: Terminal, one: Forecast, of: str) -> None:
    rows = [_tier(name, tier) for name, tier in one.tiers.items()]
    headings = list(_TIERS)
    if any(tier.instead for tier in one.tiers.values()):  # eighty columns hold no empty one
        headings.insert(-1, "instead")
        for row, tier in zip(rows, one.tiers.values(), strict=True):
            row.insert(-1, f"{tier.instead:,}")
    terminal.table(f"By tier{of}: requests", headings, rows)


def _tell_burst(terminal: Terminal, burst: Burst) -> None:
    terminal.tell(
        f"burst, from {burst.begin:.3g} s on for {burst.seconds:g} s: {burst.rate:,.0f}/s besides, asked of a replica "
        f"that can answer {burst.capacity:,.0f}/s; [bold]{burst.goodput:,.0f}/s[/] were in time, and all again "
        f"{burst.recovered:.2f} s after it"
    )


def _row(name: str, replicas: int, one: Forecast) -> list[str]:
    return [
        name,
        f"{one.rate * replicas:,.0f}",
        f"{one.goodput * replicas:,.0f}",
        _part(one.answered),
        *(_ms(one.quantiles[q]) for q in ("p50", "p99", "p999")),
        f"{one.utilisation:.0%}",
        f"{one.batch_rows['mean']:.1f}",
    ]


def _tier(name: str, one: TierForecast) -> list[str]:
    return [
        name,
        f"{one.requests:,}",
        f"{one.admitted:,}",
        "\n".join(f"{number:,} {reason}" for reason, number in one.refused.items()),
        f"{one.in_time:,}\n{_part(one.answered)}",
        "\n".join(f"{name} {_ms(one.quantiles[name])}" for name in ("p50", "p99")),
    ]


def _part(share: float) -> str:
    return f"{share:.1%}".replace("100.0%", "100%")


def _ms(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "never"
    # `g` writes a thousand with an exponent, which is wider than eighty columns have room for.
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"
