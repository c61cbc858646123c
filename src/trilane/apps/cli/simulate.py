"""`trilane simulate`: how an endpoint would fare with other traffic, and how many replicas that takes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import duration
from trilane.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trilane.apps.project import Project
    from trilane.apps.simulation_job import Traffic
    from trilane.decisions.bundle import Bundle
    from trilane.serving.capacity import Costs, Forecast

__all__ = ["simulate"]


def simulate(
    *,
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
    rate: Annotated[
        float | None, typer.Option(help="Requests a second that are drawn; else the recorded ones.")
    ] = None,
    shape: Annotated[str, typer.Option(metavar="LAW", help="poisson, bursts or diurnal.")] = "poisson",
    rows: Annotated[int, typer.Option(min=1, max=2_000, help="Rows of a drawn request.")] = 1,
    seconds: Annotated[float, typer.Option(help="Virtual time of drawn requests.")] = 30.0,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="A .csv or .parquet file of instants.")] = None,
    since: Annotated[str | None, typer.Option(metavar="INSTANT", help="Recorded decisions from here on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="INSTANT", help="And before here.")] = None,
    times: Annotated[float, typer.Option(help="Multiplies the traffic.")] = 1.0,
    replicas: Annotated[int, typer.Option(min=1, help="Workers that share it.")] = 1,
    p99: Annotated[str | None, typer.Option(metavar="DURATION", help="Find the fewest replicas that keep it.")] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Of a request; default: the endpoint's.")
    ] = None,
    tiers: Annotated[str, typer.Option(metavar="PARTS", help="Parts of the traffic by tier, highest first.")] = "1",
    learnt: Annotated[bool, typer.Option("--learnt", help="What the running server learnt, not the profile.")] = False,
    overhead: Annotated[str, typer.Option(metavar="DURATION", help="Of a request beside its batch.")] = "50us",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Run an endpoint's traffic through the server's own batching on a virtual clock, and tell how it would fare."""
    from trilane.apps import simulation_job as job

    _check(rate, shape, times, seconds)
    terminal, parts = Terminal(json=json), _parts(tiers)
    with open_project(project) as opened, terminal.progress(f"simulate {endpoint}") as tick:
        bundle = job.bundle_of(opened, endpoint)
        patience = _seconds(deadline, "--deadline") if deadline is not None else bundle.deadline / 1e6
        costs = _costs(opened, bundle, learnt=learnt, overhead=duration(overhead) / 1e6)
        window = moment(since, option="--since") or 0, moment(until, option="--until") or 2**62
        whole = [] if rate is not None else _trace(opened, endpoint, trace, window, patience)

        def traffic(factor: float) -> Traffic:
            if rate is None:
                return job.recorded_traffic(whole, factor, tiers=parts, seed=seed)
            law = {"seconds": seconds, "rows": rows, "patience": patience, "tiers": parts, "seed": seed}
            return job.synthetic(shape, rate * factor, **law)  # type: ignore[arg-type]

        found: dict[int, Forecast] = {}
        if p99 is not None:

            def tried(number: int, one: Forecast) -> None:
                found[number] = one
                tick(f"{number:,} replicas", len(found), 0)

            replicas = job.fewest(traffic(times), costs, p99=_seconds(p99, "--p99"), seed=seed, tried=tried)
        found[replicas] = found.get(replicas) or job.forecast(traffic(times), costs, replicas=replicas, seed=seed)
        before = job.forecast(traffic(1.0), costs, replicas=replicas, seed=seed) if times != 1 and p99 is None else None
    terminal.answer(_facts(endpoint, replicas, times, costs, found, before))
    _tell(terminal, endpoint, replicas, times, found, before)


def _check(rate: float | None, shape: str, times: float, seconds: float) -> None:
    from trilane.serving.traffic import SHAPES

    _positive(rate=1.0 if rate is None else rate, times=times, seconds=seconds)
    if shape not in SHAPES:
        raise DefinitionError(f"{shape!r} is no law", where="--shape", remedy=f"Use {', '.join(SHAPES)}", file="")


def _seconds(text: str, option: str) -> float:
    found = duration(text) / 1e6
    if found <= 0:
        raise DefinitionError("no time at all", where=option, remedy="Write 50ms", file="")
    return found


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            what = f"{value:g} is not positive"
            raise DefinitionError(what, where=f"--{name}", remedy="Give a number above 0", file="")


def _parts(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DefinitionError(f"{text!r} are no parts", where="--tiers", remedy="Write 0.1,0.9", file="") from None


def _costs(project: Project, bundle: Bundle, *, learnt: bool, overhead: float) -> Costs:
    from trilane.apps import simulation_job as job
    from trilane.apps.cli.look import ask_server

    if overhead < 0:
        raise DefinitionError("the overhead is negative", where="--overhead", remedy="Write 50us", file="")
    if learnt:
        return job.costs_learnt(ask_server(project.config, "/v1/status"), bundle.endpoint, overhead=overhead)
    return job.costs_profiled(project, bundle, overhead=overhead)


def _trace(
    project: Project, endpoint: str, trace: Path | None, window: tuple[int, int], patience: float
) -> Sequence[Any]:
    from trilane.apps.trace import read_trace, recorded
    from trilane.feedback.record import Records

    if trace is not None:
        return read_trace(trace, patience=patience)
    records = Records(project.config.state / "records.db")
    try:
        return recorded(records, endpoint, since=window[0], until=window[1], patience=patience)
    finally:
        records.close()


def _facts(
    endpoint: str, replicas: int, times: float, costs: Costs, found: dict[int, Forecast], before: Forecast | None
) -> dict[str, Any]:
    one = found[replicas]
    return {
        "endpoint": endpoint,
        "replicas": replicas,
        "times": times,
        "alpha_us": costs.latency.alpha * 1e6,
        "beta_us": costs.latency.beta * 1e6,
        "overhead_us": costs.overhead * 1e6,
        "replica": _plain(one),
        "before": _plain(before) if before else None,
        "tried": {str(number): _plain(other) for number, other in sorted(found.items())},
    }


def _plain(forecast: Forecast) -> object:
    """The facts of a forecast; JSON knows no infinity, so a quantile of requests that were not in time is null."""

    def known(value: object) -> object:
        if isinstance(value, dict):
            return {str(name): known(one) for name, one in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return known(dataclasses.asdict(forecast))


def _tell(
    terminal: Terminal, endpoint: str, replicas: int, times: float, found: dict[int, Forecast], before: Forecast | None
) -> None:
    columns = [
        "traffic" if before else "replicas",
        "asked/s",
        "in time/s",
        "",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "busy",
        "rows",
    ]
    if len(found) > 1:
        rows = [_row(f"{number:,}", number, one) for number, one in sorted(found.items())]
    else:
        rows = [_row("now", replicas, before)] if before else []
        rows.append(_row(f"{times:g} times" if before else f"{replicas:,}", replicas, found[replicas]))
    terminal.table(f"{endpoint}, simulated", columns, rows)
    one = found[replicas]
    if len(one.tiers) > 1:
        terminal.table(
            "By tier, 0 is the highest",
            ["tier", "requests", "in time", "p50 ms", "p99 ms"],
            [
                [str(tier), f"{f['requests']:,.0f}", f"{f['answered']:.2%}", _ms(f["p50"]), _ms(f["p99"])]
                for tier, f in one.tiers.items()
            ],
        )
    if len(found) > 1:
        terminal.tell(
            f"[bold]{replicas:,}[/] replicas are the fewest that keep it, if requests go to any of them by lot."
        )


def _row(name: str, replicas: int, one: Forecast) -> list[str]:
    return [
        name,
        f"{one.rate * replicas:,.0f}",
        f"{one.goodput * replicas:,.0f}",
        f"{one.answered:.1%}",
        *(_ms(one.quantiles[q]) for q in ("p50", "p99", "p999")),
        f"{one.utilisation:.0%}",
        f"{one.batch_rows['mean']:.1f}",
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g}" if math.isfinite(seconds) else "never"
