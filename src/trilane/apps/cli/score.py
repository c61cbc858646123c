"""`trilane score`: many rows through a deployed endpoint, on all cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import format_instant
from trilane.errors import DefinitionError

__all__ = ["score"]


def score(
    *,
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
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
    keep: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="An input column to write, too.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at the first row that is refused.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Score every row of a table by what is deployed; run again after a failure, it goes on."""
    from trilane.apps.scoring.scoring_job import Asking, score

    if at and point_in_time:
        what = "--at names one instant, --point-in-time one of each row"
        raise DefinitionError(what, where="--at", remedy="Give one or the other", file="")
    terminal = Terminal(json=json)
    asking = Asking(
        endpoint=endpoint,
        input=input_,
        output=output,
        bundle=bundle,
        at=moment(at, option="--at"),
        event_time=point_in_time or "",
        keep=keep or (),
        strict=strict,
        workers=workers,
    )
    with open_project(project) as opened, terminal.progress(f"score {endpoint}") as tick:
        done = score(opened, asking, progress=tick)
    rate = done.new_rows / done.seconds if done.new_rows else 0.0
    facts = {name: getattr(done, name) for name in ("scored", "rejected", "degraded", "parts", "new", "new_rows")}
    facts |= {"seconds": round(done.seconds, 3), "rows_per_s": round(rate), "output": str(output)}
    facts |= {"bundle": done.job.bundle, "at": format_instant(done.job.at), "job": done.job.digest}
    terminal.answer({"endpoint": endpoint, **facts})
    terminal.tell(f"[bold]{done.scored:,}[/] rows scored by bundle {done.job.bundle[:16]}, {done.degraded:,} degraded.")
    if done.new:
        terminal.tell(f"{done.new_rows:,} of them now, in {done.seconds:,.1f} s: {rate:,.0f} rows/s.")
    if done.rejected:
        terminal.tell(f"{done.rejected:,} rows were refused; {output / '_rejects'} says which, and why.")
