"""`trilane sensitivity`: what a view that is late costs a model, and the cheapest lane that will do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import duration, format_duration
from trilane.errors import DefinitionError

if TYPE_CHECKING:
    from trilane.apps.prices import Prices
    from trilane.apps.sensitivity import Sensitivity

__all__ = ["sensitivity"]

_BARS = " ▁▂▃▄▅▆▇█"


def sensitivity(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    lags: Annotated[
        str, typer.Option(metavar="DURATIONS", help="How far behind each view is put.")
    ] = "0s,10s,1m,5m,15m,1h,6h,1d",
    tolerance: Annotated[float, typer.Option(help="What a cheaper lane may lose: AUC, or a part of RMSE.")] = 0.005,
    prices: Annotated[Path | None, typer.Option(help="A TOML file of prices.")] = None,
    rows: Annotated[int, typer.Option(min=10, help="Rows that are judged.")] = 10_000,
    features: Annotated[bool, typer.Option("--features", help="Each feature alone, too.")] = False,
    since: Annotated[str | None, typer.Option(metavar="INSTANT", help="Rows from here on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="INSTANT", help="And before here.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Measure what a model loses for every minute a view is late, and recommend each view's cheapest lane."""
    from trilane.apps import sensitivity as job
    from trilane.apps.prices import load_prices

    behind = [duration(lag.strip()) for lag in lags.split(",")]
    if min(behind) < 0 or tolerance < 0:
        raise DefinitionError("a lag or the tolerance is negative", where="--lags", remedy="Write 0s,1m", file="")
    price = None if prices is None else load_prices(prices)
    terminal = Terminal(json=json)
    with open_project(project) as opened, terminal.progress(f"sensitivity {model}") as tick:
        figure, level, found = job.sensitivity(
            opened,
            model,
            lags=sorted(set(behind)),
            tolerance=tolerance,
            rows=rows,
            since=moment(since, option="--since"),
            until=moment(until, option="--until"),
            prices=price,
            features=features,
            progress=tick,
        )
    saved, spent = _totals(found)
    facts = {"model": model, "figure": figure, "level": level, "currency": price.currency if price else None}
    facts |= {"views": [_facts(one) for one in found], "cost_per_million": spent, "saving_per_million": saved}
    terminal.answer(facts)
    _tell(terminal, model, facts, found, price)


def _tell(
    terminal: Terminal, model: str, facts: Mapping[str, object], found: list[Sensitivity], price: Prices | None
) -> None:
    saved, spent = _totals(found)
    terminal.tell(f"[bold]{model}[/]: {facts['figure']} {facts['level']:.4f} with level lanes; what is lost beside it:")
    terminal.table(
        "Loss by lag",
        ["view", *(_span(lag) for lag in found[0].lags), "", "a minute", "95 %"],
        [_lag_row(one) for one in found],
    )
    currency = f", {price.currency} for a million reads" if price else ""
    terminal.table(
        f"Lanes{currency}",
        ["view", "lane", "loses", "95 %", *(["costs"] if price else []), ""],
        [row for one in found for row in _lane_rows(one, costs=price is not None)],
    )
    if price:
        terminal.tell(
            f"As recommended, a million reads of all views cost {spent - saved:,.4g} instead of {spent:,.4g}."
        )


def _facts(one: Sensitivity) -> dict[str, object]:
    facts = dataclasses.asdict(one)
    return {**facts, "lags": {_span(lag): dataclasses.asdict(loss) for lag, loss in one.lags.items()}}


def _totals(found: list[Sensitivity]) -> tuple[float, float]:
    """What the recommended lanes save, and what the present ones cost."""
    saved = spent = 0.0
    for one in found:
        costs = {choice.lane: choice.cost for choice in one.choices if choice.cost is not None}
        if one.lane in costs:
            spent += costs[one.lane]
            saved += costs[one.lane] - costs.get(one.recommended, costs[one.lane])
    return saved, spent


def _span(lag: int) -> str:
    return format_duration(lag) if lag else "0s"


def _name(one: Sensitivity) -> str:
    return one.feature or one.view


def _lag_row(one: Sensitivity) -> list[str]:
    values = [loss.loss for loss in one.lags.values()]
    highest = max([*values, 1e-12])
    bars = "".join(_BARS[round(8 * max(value, 0) / highest)] for value in values)
    mean, low, high = one.per_minute
    return [_name(one), *(f"{value:.4f}" for value in values), bars, f"{mean:.1e}", f"{low:.0e} {high:.0e}"]


def _lane_rows(one: Sensitivity, *, costs: bool) -> list[list[str]]:
    return [
        [
            _name(one),
            choice.lane,
            f"{choice.loss.loss:.4f}",
            f"{choice.loss.low:.4f} to {choice.loss.high:.4f}",
            *([f"{choice.cost:,.4g}" if choice.cost is not None else "unknown"] if costs else []),
            "now" * (choice.lane == one.lane) + " recommended" * (choice.lane == one.recommended),
        ]
        for choice in one.choices
    ]
