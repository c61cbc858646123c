"""`trilane score`: many rows through a deployed endpoint or a model, on all cores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import format_instant
from trilane.errors import DefinitionError

if TYPE_CHECKING:
    from trilane.apps.scoring.scoring_job import Scored

__all__ = ["score"]


def score(
    *,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint, or a model instead.")] = "",
    input_: Annotated[
        str, typer.Option("--input", metavar="PATH|TABLE", help="A Parquet file, a folder of them, or a table.")
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or that of this job, to go on.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="As of when; default: now.")] = None,
    point_in_time: Annotated[
        str | None, typer.Option("--point-in-time", metavar="COLUMN", help="As of each row's instant, joined.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(metavar="DIGEST", help="Another than the deployed one.")] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="A trained model or one from a file, by itself.")] = "",
    version: Annotated[str, typer.Option(metavar="VERSION", help="Of the model: its number, or digest.")] = "",
    features: Annotated[str, typer.Option(metavar="A,B,C", help="The columns of the model's matrix, in order.")] = "",
    keep: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="An input column to write, too.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at the first row that is refused.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Score every row of a table by what is deployed, or by a model; run again after a failure, it goes on."""
    from trilane.apps.scoring.scoring_job import Asking, score

    if at and point_in_time:
        what = "--at names one instant, --point-in-time one of each row"
        raise DefinitionError(what, where="--at", remedy="Give one or the other", file="")
    _check_options(endpoint, model, endpoint_only=(bundle, at, point_in_time), model_only=(version, features))
    terminal = Terminal(json=json)
    asking = Asking(
        endpoint=endpoint,
        model=model,
        input=input_,
        output=output,
        bundle=bundle,
        version=version,
        features=[name.strip() for name in features.split(",")] if features else (),
        at=moment(at, option="--at"),
        event_time=point_in_time or "",
        keep=keep or (),
        strict=strict,
        workers=workers,
    )
    try:
        with open_project(project) as opened, terminal.progress(f"score {endpoint or model}") as tick:
            done = score(opened, asking, progress=tick)
    except KeyboardInterrupt:
        terminal.note("Stopped. What is done stays done: run the same command to go on.")
        raise
    _tell(terminal, done, output)


def _tell(terminal: Terminal, done: Scored, output: Path) -> None:
    job, rate = done.job, done.new_rows / done.seconds if done.new_rows else 0.0
    facts = {name: getattr(done, name) for name in ("scored", "rejected", "degraded", "parts", "new", "new_rows")}
    facts |= {"seconds": round(done.seconds, 3), "rows_per_s": round(rate), "output": str(output)}
    if job.model:
        facts = {"model": job.model, "version": job.model_version, "digest": job.model_digest, **facts}
        by = f"model {job.model}, version {job.model_version}"
    else:
        facts = {"endpoint": job.endpoint, **facts, "bundle": job.bundle, "at": format_instant(job.at)}
        by = f"bundle {job.bundle[:16]}, {done.degraded:,} degraded"
    terminal.answer({**facts, "job": job.digest})
    terminal.tell(f"[bold]{done.scored:,}[/] rows scored by {by}.")
    if done.new:
        terminal.tell(f"{done.new_rows:,} of them now, in {done.seconds:,.1f} s: {rate:,.0f} rows/s.")
    if done.rejected:
        terminal.tell(f"{done.rejected:,} rows were refused; {output / '_rejects'} says which, and why.")


def _check_options(
    endpoint: str, model: str, *, endpoint_only: tuple[str | None, ...], model_only: tuple[str, ...]
) -> None:
    """Raises DefinitionError unless one of the two scores, with its own options."""
    if bool(endpoint) == bool(model):
        what = "both an endpoint and --model are named" if model else "there is nothing to score by"
        raise DefinitionError(what, where="--model", remedy="Name an endpoint, or a model by --model", file="")
    if model and any(endpoint_only):
        what = "--bundle, --at and --point-in-time are an endpoint's: a model reads no features"
        raise DefinitionError(what, where="--model", remedy="Leave them out", file="")
    if endpoint and any(model_only):
        what = "--version and --features are a model's: an endpoint has a bundle, and names its inputs"
        raise DefinitionError(what, where=endpoint, remedy="Leave them out, or give --model", file="")
