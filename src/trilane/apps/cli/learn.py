"""`trilane train` and `skew`: the artifacts, and how what was served differs from what should have been."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.errors import DefinitionError

if TYPE_CHECKING:
    from trilane.training.skew import Skew
    from trilane.training.staleness import Drawn

__all__ = ["skew", "train"]

_Since = Annotated[str | None, typer.Option(metavar="INSTANT", help="From here on, such as 2013-01-01.")]
_Until = Annotated[str | None, typer.Option(metavar="INSTANT", help="Before here.")]


def train(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    since: _Since = None,
    until: _Until = None,
    as_served: Annotated[
        bool | None,
        typer.Option("--as-served/--ideal", help="On what could be read at each row, or what had happened."),
    ] = None,
    sample_staleness: Annotated[
        bool, typer.Option("--sample-staleness", help="On answers of lanes as late as they are in production.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model on its point-in-time training set, and pack it as an immutable artifact."""
    import msgspec

    from trilane.apps import training_job

    terminal = Terminal(json=json)
    with open_project(project) as opened, terminal.progress(f"train {model}") as tick:
        done = training_job.train(
            opened,
            model,
            since=moment(since, option="--since"),
            until=moment(until, option="--until"),
            training=_kind(as_served, sampled=sample_staleness),
            progress=tick,
        )
    artifact, rows = done.artifact, len(done.training_set)
    terminal.answer(
        {
            "model": model,
            "digest": artifact.digest,
            "training_set": done.training_set.digest,
            "rows": rows,
            "training": done.training_set.manifest.training,
            "recorded": done.training_set.manifest.recorded,
            "skew": msgspec.to_builtins(done.training_set.skew),
            "lags": msgspec.to_builtins(done.training_set.manifest.lags),
            "metrics": dict(artifact.manifest.metrics),
            "latency_us": {str(size): value for size, value in done.profile.latency_us.items()},
            "new": done.is_new,
        }
    )
    terminal.tell(
        f"[bold]{model}[/] {artifact.digest[:16]}, trained on {rows:,} rows ({done.training_set.digest[:16]})"
    )
    _tell_skew(terminal, done.training_set.skew)
    _tell_lags(terminal, done.training_set.manifest.lags)
    measured = done.profile.latency_us.items()
    latency = ", ".join(f"{size} {'row' if size == 1 else 'rows'} {value:,.0f} µs" for size, value in measured)
    terminal.tell(f"One inference: {latency}; the artifact has {done.profile.model_bytes:,} bytes.")
    if not done.is_new:
        terminal.tell("The same inputs gave the same artifact as before.")
    terminal.tell("Run [bold]trilane apply[/] to deploy it.")


def _kind(as_served: bool | None, *, sampled: bool) -> str | None:
    """The kind of training set that was asked for, if any was."""
    if sampled and as_served is not None:
        raise DefinitionError("two kinds of training set", where="--sample-staleness", remedy="Choose one", file="")
    if sampled:
        return "sampled"
    return None if as_served is None else "as_served" if as_served else "ideal"


def _tell_lags(terminal: Terminal, drawn: Mapping[str, Drawn]) -> None:
    rows = [
        [name, "measured" if one.measured else "declared", *(f"{s:,.1f} s" for s in (one.median, one.p99, one.highest))]
        for name, one in drawn.items()
    ]
    terminal.table("Lags that were drawn", ["view", "from", "median", "p99", "highest"], rows)


def skew(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    since: _Since = None,
    until: _Until = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Compare each feature as it was served with what a lane without lag would have served."""
    import msgspec

    from trilane.apps import training_job

    terminal = Terminal(json=json)
    with open_project(project) as opened, terminal.progress(f"skew {model}") as tick:
        found = training_job.skews(
            opened,
            model,
            since=moment(since, option="--since"),
            until=moment(until, option="--until"),
            progress=tick,
        )
    terminal.answer({"model": model, "skew": msgspec.to_builtins(found)})
    _tell_skew(terminal, found)


def _tell_skew(terminal: Terminal, skews: Mapping[str, Skew]) -> None:
    """A table, the worst feature first."""
    from trilane.training.skew import worst_first

    if not skews:
        return
    headings = ["feature", "rows that differ", "SMAPE", "absolute: mean", "median", "p99", "relative: mean", "median"]
    headings += ["p99", "missing as served", "missing ideally"]
    rows = [
        [
            name,
            f"{one.differ:.2%}",
            f"{one.smape:.4f}",
            *(f"{value:.4g}" for value in one.absolute),
            *(f"{value:.2%}" for value in one.relative),
            f"{one.only_ideal:,}",
            f"{one.only_served:,}",
        ]
        for name, one in worst_first(dict(skews))
    ]
    terminal.table("Skew, as served beside ideal", headings, rows)
