"""`trilane up` and `trilane reload`, and the roles that are kept: `serve`, `worker`, `control`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.apps.logs import log_to_stderr
from trilane.errors import ConflictError, DefinitionError

if TYPE_CHECKING:
    from trilane.apps.config import Config
    from trilane.apps.supervisor import Event, Role

__all__ = ["control", "reload", "serve", "up", "worker"]

_Workers = Annotated[int | None, typer.Option(min=1, help="Server processes.")]
_NearlineWorkers = Annotated[int | None, typer.Option(min=1, help="Nearline worker processes, which share partitions.")]
_Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Where the server listens.")]
_Replay = Annotated[bool, typer.Option("--replay", help="Run on a clock that stands until it is moved over the API.")]
_GRACE = 15.0  # seconds that roles get to end, besides what the server waits for load balancers
_COLOURS = {"ready": "green", "died": "red", "killed": "red", "stopped": "dim"}


def up(
    *,
    replay: _Replay = False,
    replay_start: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="Where the clock of a replay stands at first.")
    ] = None,
    workers: _Workers = None,
    nearline_workers: _NearlineWorkers = None,
    port: _Port = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Run everything this machine needs, and bring back what dies."""
    from trilane.apps.processes import check_port, hold_port
    from trilane.apps.serve import check_grpc, check_traces
    from trilane.apps.supervisor import supervise

    if replay_start is not None and not replay:
        raise DefinitionError(
            "--replay-start needs --replay", where="--replay-start", remedy="Add --replay, or leave it away", file=""
        )
    terminal = Terminal(json=json)
    config = _configured(project, replay=replay, workers=workers, port=port)
    config = dataclasses.replace(config, nearline_workers=nearline_workers or config.nearline_workers)
    _check_applied(config)
    start = moment(replay_start, option="--replay-start")

    def prepare() -> None:
        os.close(hold_port(config.state, config.port))  # the server will hold it; a starting one is told here already
        check_port(config.host, config.port)
        check_grpc(config)
        check_traces(config)
        _set_clock(config, start)
        spoken = f"{config.url}, gRPC at {config.grpc_address}" if config.grpc_port else config.url
        terminal.tell(f"[bold]{config.name}[/] comes up at {spoken}; stop it with Ctrl-C.")

    environment = {"TRILANE_REPLAY": str(config.replay).lower(), "PYTHONUNBUFFERED": "1"}
    supervise(
        _roles(config),
        state=config.state,
        say=_speaker(terminal),
        environment=environment,
        grace=_GRACE + config.drain / 1e6,
        prepare=prepare,
    )


def serve(
    *,
    replay: _Replay = False,
    workers: _Workers = None,
    port: _Port = None,
    project: ProjectOption = None,
    json: JsonOption = False,  # noqa: ARG001 - `command` reads it
) -> None:
    """Answer decisions over HTTP."""
    from trilane.apps.processes import die_with_parent
    from trilane.apps.serve import serve as become_server

    die_with_parent()
    become_server(_configured(project, replay=replay, workers=workers, port=port))


def worker(
    *,
    replay: _Replay = False,
    member: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its lasting name among the workers; default: one of the process."),
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,  # noqa: ARG001 - `command` reads it
) -> None:
    """Turn events into nearline features; several share the partitions."""
    from trilane.apps.project import Project
    from trilane.apps.worker import run

    with Project(_configured(project, replay=replay)) as opened:
        run(opened, member=opened.config.member if member is None else member)


def control(
    *,
    replay: _Replay = False,
    project: ProjectOption = None,
    json: JsonOption = False,  # noqa: ARG001 - `command` reads it
) -> None:
    """Compute batch features when they are due."""
    from trilane.apps.control import run
    from trilane.apps.project import Project

    with Project(_configured(project, replay=replay)) as opened:
        run(opened)


def reload(*, port: _Port = None, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Replace the server's workers, one by one, so that a new release or configuration answers; nothing is dropped."""
    from trilane.apps.reload import reload as replace_workers

    terminal = Terminal(json=json)
    found = replace_workers(_configured(project, port=port))
    terminal.answer({"round": found})
    terminal.tell("New workers listen; each of the former ones ends once it has answered what it was asked.")


def _configured(
    project: ProjectOption, *, replay: bool = False, workers: int | None = None, port: int | None = None
) -> Config:
    config = open_project(project).config
    log_to_stderr(config.log_level, config.log_format)
    return dataclasses.replace(
        config, replay=config.replay or replay, workers=workers or config.workers, port=port or config.port
    )


def _set_clock(config: Config, start: int | None) -> None:
    """Makes the clock of a replay, so that all roles begin at one instant."""
    from trilane.apps.project import Project
    from trilane.clock import SharedClock

    clock = Project(config).clock
    if start is not None and isinstance(clock, SharedClock):
        clock.move_to(start)


def _check_applied(config: Config) -> None:
    from trilane.apps.project import Project

    with Project(config) as opened:
        if opened.applied_digest() is None:
            raise ConflictError("no definitions were applied yet", where=config.name, remedy="Run `trilane apply`")


def _roles(config: Config) -> list[Role]:
    from trilane.apps.supervisor import Role

    base = [sys.executable, "-m", "trilane"]
    options = ["--project", str(config.root), *(["--replay"] if config.replay else [])]
    listen = ["--port", str(config.port), "--workers", str(config.workers)]
    return [
        Role(name="serve", command=[*base, "serve", *options, *listen], ready=_ready(config)),
        *[Role(name=name, command=[*base, "worker", *options, *named]) for name, named in _workers(config)],
        Role(name="control", command=[*base, "control", *options]),
    ]


def _workers(config: Config) -> list[tuple[str, list[str]]]:
    """The nearline workers: the name of each role, and the option that gives it a lasting name in the group."""
    from trilane.apps.processes import member_names

    names = member_names(config.member, config.nearline_workers)
    roles = ["worker"] if len(names) == 1 else [f"worker-{number}" for number, _ in enumerate(names, start=1)]
    return [(role, ["--member", name]) for role, name in zip(roles, names, strict=True)]


def _ready(config: Config) -> Callable[[], bool]:
    """Whether the server answers at all; which endpoints it has is another question."""
    import httpx

    def ask() -> bool:
        try:
            return httpx.get(f"{config.url}/health/live", timeout=0.5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    return ask


def _speaker(terminal: Terminal) -> Callable[[Event], None]:
    def say(event: Event) -> None:
        terminal.answer(dataclasses.asdict(event))
        colour = _COLOURS.get(event.what, "default")
        detail = f": {event.detail}" if event.detail else ""
        terminal.tell(f"{event.role:8} [{colour}]{event.what}[/] (process {event.pid}){detail}")

    return say
