"""`trilane simulate`: how an endpoint would fare with other traffic, and how many replicas that takes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilane.apps.cli.forecasts import Shown, tell
from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import duration
from trilane.errors import DefinitionError
from trilane.serving.policy import TIERS, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trilane.apps.project import Project
    from trilane.apps.simulation_job import Traffic
    from trilane.decisions.bundle import Bundle
    from trilane.serving.capacity import Burst, Costs, Forecast, Terms

__all__ = ["simulate"]


def simulate(
    *,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint.")],
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
    tiers: Annotated[
        str | None, typer.Option(metavar="PARTS", help="Parts of the traffic by the tier they ask for, highest first.")
    ] = None,
    callers: Annotated[
        str | None, typer.Option(metavar="PARTS", help="Parts of the traffic by caller: web=0.8,jobs=0.2.")
    ] = None,
    burst: Annotated[
        float | None, typer.Option(metavar="N", help="A burst besides: N times what the replicas can answer.")
    ] = None,
    burst_seconds: Annotated[float, typer.Option(metavar="N", help="Virtual time of the burst.")] = 1.0,
    learnt: Annotated[bool, typer.Option("--learnt", help="What the running server learnt, not the profile.")] = False,
    overhead: Annotated[str, typer.Option(metavar="DURATION", help="Of a request beside its batch.")] = "50us",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Run an endpoint's traffic through the server's admission and batching on a virtual clock: how would it fare?"""
    from trilane.apps import simulation_job as job

    _check(shape, times, seconds, {"--rate": rate, "--trace": trace, "--since": since, "--until": until})
    _check_burst(burst, burst_seconds, p99)
    terminal, mix = Terminal(json=json), job.Mix(_parts(tiers), _shares(callers))
    with open_project(project) as opened, terminal.progress(f"simulate {endpoint}") as tick:
        bundle = job.bundle_of(opened, endpoint)
        terms = job.terms_of(opened, bundle)
        patience = _seconds(deadline, "--deadline") if deadline is not None else bundle.deadline / 1e6
        costs = _costs(opened, bundle, learnt=learnt, overhead=_seconds(overhead, "--overhead", none=True))
        window = moment(since, option="--since") or 0, moment(until, option="--until") or 2**62
        own = {"patience": patience, "tier": terms.tier, "seed": seed}
        whole = [] if rate is not None else _trace(opened, endpoint, trace, window, own)

        def traffic(factor: float) -> Traffic:
            if rate is None:
                return job.recorded_traffic(whole, factor, mix=mix, seed=seed)
            return job.synthetic(shape, rate * factor, seconds=seconds, rows=rows, mix=mix, **own)  # type: ignore[arg-type]

        law = {"times": times, "replicas": replicas, "p99": p99, "seed": seed}
        more = None if burst is None else {"factor": burst, "seconds": burst_seconds}
        found = _found(traffic, costs, terms, burst=more, tick=tick, **law)  # type: ignore[arg-type]
    shown = Shown(endpoint, times, costs, terms.policy or Policy(limit=None), **found)
    terminal.answer(_facts(shown))
    tell(terminal, shown)


def _found(
    traffic: Callable[[float], Traffic],
    costs: Costs,
    terms: Terms,
    *,
    times: float,
    replicas: int,
    p99: str | None,
    burst: dict[str, float] | None,
    seed: int,
    tick: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """What `Shown` shows of the replicas."""
    from trilane.apps import simulation_job as job

    found: dict[int, Forecast] = {}
    told: Burst | None = None
    if p99 is not None:

        def tried(number: int, one: Forecast) -> None:
            found[number] = one
            tick(f"{number:,} replicas", len(found), 0)

        replicas = job.fewest(traffic(times), costs, terms, p99=_seconds(p99, "--p99"), seed=seed, tried=tried)
    if burst is not None:
        found[replicas], told = job.forecast_burst(traffic(times), costs, terms, replicas=replicas, seed=seed, **burst)
    elif replicas not in found:
        found[replicas] = job.forecast(traffic(times), costs, terms, replicas=replicas, seed=seed)
    before = None
    if times != 1 and p99 is None:
        before = job.forecast(traffic(1.0), costs, terms, replicas=replicas, seed=seed)
    return {"replicas": replicas, "found": found, "before": before, "burst": told}


def _check_burst(burst: float | None, seconds: float, p99: str | None) -> None:
    if burst is None:
        return
    _positive(**{"burst": burst, "burst-seconds": seconds})
    if p99 is not None:
        what = "a burst of so many times what there is grows with the replicas"
        raise DefinitionError(what, where="--burst", remedy="Leave out --burst or --p99", file="")


def _check(shape: str, times: float, seconds: float, given: Mapping[str, Any]) -> None:
    from trilane.serving.traffic import SHAPES

    _check_one_traffic(given)
    rate = given["--rate"]
    _positive(rate=1.0 if rate is None else rate, times=times, seconds=seconds)
    if shape not in SHAPES:
        raise DefinitionError(f"{shape!r} is no law", where="--shape", remedy=f"Use {', '.join(SHAPES)}", file="")


def _check_one_traffic(given: Mapping[str, object]) -> None:
    """Refuses what asks for two traffics: one would be left out in silence."""
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1 and named != ["--since", "--until"]:
        what = f"{named[0]} and {named[1]} ask for different traffic"
        raise DefinitionError(what, where=named[1], remedy=f"Leave out {named[0]} or {named[1]}", file="")


def _seconds(text: str, option: str, *, none: bool = False) -> float:
    try:
        found = duration(text) / 1e6
    except DefinitionError as error:
        raise DefinitionError(error.what, where=option, remedy=error.remedy, file="") from None
    if found <= 0 and not none:
        raise DefinitionError("no time at all", where=option, remedy="Write 50ms", file="")
    return found


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            what = f"{value:g} is not positive"
            raise DefinitionError(what, where=f"--{name}", remedy="Give a number above 0", file="")


def _parts(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        raise DefinitionError(f"{text!r} are no parts", where="--tiers", remedy="Write 0.1,0.9", file="") from None
    if len(parts) > len(TIERS):
        remedy = f"Give at most {len(TIERS)}: {', '.join(TIERS)}"
        raise DefinitionError(f"{len(parts)} parts are more than tiers", where="--tiers", remedy=remedy, file="")
    _check_parts(text, parts, "--tiers")
    return parts


def _shares(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        shares = {name: float(share) for name, share in pairs}
    except ValueError:
        what, remedy = f"{text!r} are no parts by caller", "Write web=0.8,jobs=0.2"
        raise DefinitionError(what, where="--callers", remedy=remedy, file="") from None
    if len(shares) < len(pairs):
        raise DefinitionError(f"{text!r} names a caller twice", where="--callers", remedy="Name each once", file="")
    _check_parts(text, list(shares.values()), "--callers")
    return shares


def _check_parts(text: str, parts: Sequence[float], option: str) -> None:
    if not all(0 <= part < math.inf for part in parts) or not 0 < sum(parts) < math.inf:
        remedy = "Give parts of 0 or more, one of them above 0"
        raise DefinitionError(f"{text!r} are no parts", where=option, remedy=remedy, file="")


def _costs(project: Project, bundle: Bundle, *, learnt: bool, overhead: float) -> Costs:
    from trilane.apps import simulation_job as job
    from trilane.apps.cli.look import ask_server

    if learnt:
        return job.costs_learnt(ask_server(project.config, "/v1/status"), bundle.endpoint, overhead=overhead)
    return job.costs_profiled(project, bundle, overhead=overhead)


def _trace(
    project: Project, endpoint: str, trace: Path | None, window: tuple[int, int], law: dict[str, Any]
) -> Sequence[Any]:
    from trilane.apps.trace import read_trace, recorded
    from trilane.feedback.record import Records

    if trace is not None:
        return read_trace(trace, patience=law["patience"], tier=law["tier"])
    records = Records(project.config.state / "records.db")
    try:
        return recorded(records, endpoint, since=window[0], until=window[1], **law)
    finally:
        records.close()


def _facts(shown: Shown) -> dict[str, Any]:
    costs = shown.costs
    return {
        "endpoint": shown.endpoint,
        "replicas": shown.replicas,
        "times": shown.times,
        "policy": {"version": shown.policy.version, **shown.policy.spec()},
        "alpha_us": costs.latency.alpha * 1e6,
        "beta_us": costs.latency.beta * 1e6,
        "overhead_us": costs.overhead * 1e6,
        "replica": _plain(shown.replica),
        "before": _plain(shown.before) if shown.before else None,
        "burst": dataclasses.asdict(shown.burst) if shown.burst else None,
        "tried": {str(number): _plain(other) for number, other in sorted(shown.found.items())},
    }


def _plain(forecast: Forecast) -> object:
    """The facts of a forecast; JSON knows no infinity, so a quantile of requests that were not in time is null."""

    def known(value: object) -> object:
        if isinstance(value, dict):
            return {str(name): known(one) for name, one in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return known(dataclasses.asdict(forecast))
