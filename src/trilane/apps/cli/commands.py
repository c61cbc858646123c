"""The list of commands, in the order in which a newcomer needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from trilane import __version__
from trilane.apps.cli.change import apply, plan
from trilane.apps.cli.explain import explain
from trilane.apps.cli.features import features
from trilane.apps.cli.fill import ingest, materialize
from trilane.apps.cli.imports import imports
from trilane.apps.cli.learn import skew, train
from trilane.apps.cli.letters import COMMANDS, ListByDefault
from trilane.apps.cli.look import status
from trilane.apps.cli.models import models
from trilane.apps.cli.policy import policy
from trilane.apps.cli.roles import control, reload, serve, up, worker
from trilane.apps.cli.score import score
from trilane.apps.cli.sensitivity import sensitivity
from trilane.apps.cli.simulate import simulate
from trilane.apps.cli.slo import slo
from trilane.apps.cli.start import init
from trilane.apps.cli.terminal import command
from trilane.apps.cli.versions import backfill, compare, retire, swap

__all__ = ["app"]

app = typer.Typer(
    name="trilane",
    help="Real-time ML decisions from live events: features over three lanes, trained as served.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"trilane {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_MAKE = (init, plan, apply, ingest, materialize, backfill, train, skew, sensitivity)
_RUN = (up, reload, score, status, policy, slo, simulate, explain, compare, swap, retire)
for function in (*_MAKE, *_RUN):
    app.command()(command(function))
app.add_typer(features)
app.add_typer(models)
letters = typer.Typer(
    cls=ListByDefault, help="Look at refused events, mend them, and put them into the log again.", no_args_is_help=False
)
for name, one in COMMANDS.items():
    letters.command(name)(command(one))
app.add_typer(letters, name="dead-letters")
app.add_typer(imports)
for function in (serve, worker, control):
    app.command(rich_help_panel="Single roles, as a fleet runs them")(command(function))
