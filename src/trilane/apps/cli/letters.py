"""`trilane dead-letters`: what was refused or put aside, and mending it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project
from trilane.clock import format_instant
from trilane.errors import DefinitionError, SetupError

if TYPE_CHECKING:
    from trilane.apps.letters import Outcome
    from trilane.apps.project import Project
    from trilane.sources.dead_letters import DeadLetter

__all__ = ["COMMANDS", "ListByDefault"]

_SHOWN = 60  # characters of a dead letter's payload in a table
_ALL = 1_000_000

_Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Letters by their numbers.")]
_Id = Annotated[int, typer.Argument(metavar="ID", help="The letter's number.")]
_Source = Annotated[str | None, typer.Option("--source", help="Letters of this event source.")]
_Code = Annotated[str | None, typer.Option("--code", help="Letters with this code.")]
_Rule = Annotated[str | None, typer.Option("--rule", help="Letters that broke this rule.")]


class ListByDefault(typer.core.TyperGroup):
    """The group of these commands; without one of their names, it lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - its class is none of Typer's public ones
        """Reads the command line."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def list_(
    *,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="The event source; default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    code: _Code = None,
    state: Annotated[
        str | None, typer.Option(help="refused, quarantined, replayed or discarded; default: what is open.")
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """List refused events, the newest first: why each was refused, and the event as it came."""
    from trilane.sources.dead_letters import DISCARDED, OPEN, REPLAYED

    terminal = Terminal(json=json)
    states = OPEN if state is None else (state,)
    if state not in (None, *OPEN, REPLAYED, DISCARDED):
        known = ", ".join((*OPEN, REPLAYED, DISCARDED))
        raise DefinitionError(f"there is no state {state!r}", where="--state", remedy=f"Choose {known}", file="")
    with open_project(project) as opened:
        found = opened.dead_letters.read(source, code=code, states=states, limit=limit)
        census = opened.dead_letters.census(source)
        if source is not None and not found:
            from trilane.apps.event_file import source_named

            source_named(opened.definitions.sources, source)
        letters = [_facts(opened, one) for one in found]
    total = sum(n for (_, its, in_), n in census.items() if in_ in states and code in (None, its))
    terminal.answer({"dead_letters": letters, "total": total})
    if not found:
        terminal.tell("There are no dead letters.")
    headings = ["id", "at", "source", "code", "path", "reason", "payload"]
    rows = [[_short(str(one[name])) for name in headings] for one in letters]
    terminal.table("Dead letters", headings, rows)
    if total > len(found):
        terminal.tell(f"{len(found):,} of {total:,}; --limit shows more.")


def show(*, letter: _Id, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Show a letter whole: the event as it came, as it was mended, and what became of it."""
    from trilane.apps.letters import found

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        facts = _facts(opened, found(opened, letter))
    terminal.answer(facts)
    for name, value in facts.items():
        if value is not None:
            terminal.tell(f"[bold]{name}[/] {_plain(str(value))}")


def fix(
    *,
    letter: _Id,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Changes one value; repeatable.")
    ] = None,
    payload: Annotated[Path | None, typer.Option(metavar="FILE", help="The whole event, mended, as JSON.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Mend a letter's event; `replay` then takes the mended one."""
    from trilane.apps import letters

    terminal = Terminal(json=json)
    if (change is None) == (payload is None):
        remedy = "Give --set path=value, or --payload FILE"
        raise DefinitionError("fix needs one way to mend", where="--set", remedy=remedy, file="")
    try:
        text = None if payload is None else payload.read_bytes()
    except OSError as error:
        raise SetupError(f"the file cannot be read: {error}", where=str(payload), remedy="Check the path") from error
    with open_project(project) as opened:
        facts = _facts(opened, letters.fix(opened, letter, change or (), text))
    terminal.answer(facts)
    terminal.tell(f"{letter} is now {_plain(str(facts['fixed']))}. Run [bold]trilane dead-letters replay {letter}[/].")


def replay(
    *,
    letters: _Ids = None,
    source: _Source = None,
    code: _Code = None,
    rule: _Rule = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Put letters into the log again, mended or as they came; each counts once. What would be refused again stays."""
    from trilane.apps.letters import replay as again

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        done = again(opened, _chosen(opened, letters, source, code, rule))
    _tell_outcomes(terminal, "replayed", done)


def release(
    *,
    letters: _Ids = None,
    source: _Source = None,
    rule: _Rule = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Let events out of quarantine: they go into the log, and pass the rules that put them aside."""
    from trilane.apps.letters import replay as again
    from trilane.sources.dead_letters import QUARANTINED

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        chosen = [one for one in _chosen(opened, letters, source, None, rule) if letters or one.state == QUARANTINED]
        done = again(opened, chosen, release=True)
    _tell_outcomes(terminal, "released", done)


def discard(
    *,
    letters: _Ids = None,
    source: _Source = None,
    code: _Code = None,
    rule: _Rule = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Settle letters that nobody will mend. They stay in the file, and are counted no more."""
    from trilane.apps.letters import discard as settle

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        number = settle(opened, _chosen(opened, letters, source, code, rule))
    terminal.answer({"discarded": number})
    terminal.tell(f"{number:,} dead letters discarded.")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_,
    "show": show,
    "fix": fix,
    "replay": replay,
    "release": release,
    "discard": discard,
}


def _chosen(
    project: Project, numbers: list[int] | None, source: str | None, code: str | None, rule: str | None
) -> list[DeadLetter]:
    """The letters that the options name; to name none is a mistake."""
    from trilane.apps.letters import found
    from trilane.sources.rule import code_of

    if numbers:
        return [found(project, number) for number in numbers]
    if source is None and code is None and rule is None:
        remedy = "Give their numbers, or --source, --code or --rule"
        raise DefinitionError("no dead letter is named", where="ID", remedy=remedy, file="")
    return project.dead_letters.read(source, code=code_of(rule) if rule else code, limit=_ALL)


def _tell_outcomes(terminal: Terminal, verb: str, outcomes: list[Outcome]) -> None:
    left = [one for one in outcomes if not one.done]
    done = [one.id for one in outcomes if one.done]
    stays = [{"id": one.id, "source": one.source, "reason": one.reason} for one in left]
    terminal.answer({verb: done, "left": stays})
    terminal.tell(f"{len(done):,} dead letters {verb}, {len(left):,} left as they are.")
    terminal.table("Left", ["id", "source", "reason"], [[str(one.id), one.source, one.reason] for one in left])


def _facts(project: Project, one: DeadLetter) -> dict[str, Any]:
    from trilane.apps.letters import said

    return {
        "id": one.id,
        "source": one.source,
        "code": one.code,
        "path": one.path,
        "reason": one.reason,
        "at": format_instant(one.at),
        "partition": one.partition,
        "offset": one.offset,
        "state": one.state,
        "settled_at": None if one.settled_at is None else format_instant(one.settled_at),
        "payload": said(project, one, one.payload),
        "fixed": None if one.fixed is None else said(project, one, one.fixed),
    }


def _plain(text: str) -> str:
    """The text, with nothing in it that Rich takes for markup."""
    return text.replace("[", "\\[")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
