"""`trilane features list | show | search`: what features there are, and what is known of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, command, open_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trilane.apps.feature_list import Facts
    from trilane.apps.project import Project
    from trilane.training.training_set import TrainingSet

__all__ = ["features"]

features = typer.Typer(
    name="features",
    help="List, show and search the features of the definitions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_HEADINGS = ["feature", "lane", "type", "entity", "source", "aggregation", "window", "owner", "used by"]
_SHOWN = ("aggregation", "window", "type", "default", "models", "endpoints", "used_by_views")
_OF_VIEW = ("description", "owner", "tags", "lane", "entity", "keys", "source", "uses", "schedule", "landing")
_OF_VIEW_TOO = ("freshness", "fallback", "version")


def list_(
    *,
    lane: Annotated[str | None, typer.Option(help="Only of this lane: batch, nearline or request.")] = None,
    source: Annotated[str | None, typer.Option(help="Only from this source.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only about this entity.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only of this owner.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag; `team` also finds `team=shop`.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """List all features, or those that fit."""
    from trilane.apps.feature_list import chosen

    terminal = Terminal(json=json)
    wanted = {"lane": lane, "source": source, "entity": entity, "owner": owner, "tag": tag}
    _tell_list(terminal, chosen(_facts(project), wanted))


def show(
    *,
    name: Annotated[str, typer.Argument(metavar="VIEW[.FEATURE]", help="A view, or one feature of it.")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show all that is known of a view's features, or of one feature."""
    from trilane.apps.feature_list import named

    terminal = Terminal(json=json)
    found = named(_facts(project), name)
    terminal.answer({"features": found})
    view = found[0]
    terminal.tell(f"[bold]{view['view']}[/]")
    terminal.table("View", ["", ""], [[key, _text(view[key])] for key in (*_OF_VIEW, *_OF_VIEW_TOO) if view[key]])
    rows = [[str(one["name"]), *(_text(one[key]) for key in _SHOWN)] for one in found]
    terminal.table("Features", ["feature", *(key.replace("_", " ") for key in _SHOWN)], rows)
    _tell_statistics(terminal, found)


def search(
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words, misspelt or not.")],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Find features by words of their names, descriptions, tags, sources and entities, the best first."""
    from trilane.apps.feature_list import found

    _tell_list(Terminal(json=json), found(_facts(project), text))


for _name, _function in (("list", list_), ("show", show), ("search", search)):
    features.command(_name)(command(_function))


def _facts(folder: ProjectOption) -> list[Facts]:
    from trilane.apps.feature_list import feature_facts

    with open_project(folder) as opened:
        return feature_facts(opened.working, _training_sets(opened))


def _training_sets(project: Project) -> Iterator[TrainingSet]:
    """Those that were recorded and can be read, newest first."""
    from trilane.errors import SetupError
    from trilane.training.training_set import TrainingSet

    for record in project.registry.artifacts("training_set"):
        try:
            yield TrainingSet.load(project.training_folder / record.name / record.digest[:16])
        except SetupError:
            continue  # removed to make room; an older one may still tell


def _tell_list(terminal: Terminal, found: list[Facts]) -> None:
    terminal.answer({"features": found})
    if not found:
        terminal.tell("No feature fits.")
    keys = ("name", "lane", "type", "entity", "source", "aggregation", "window", "owner", "models")
    terminal.table("Features", _HEADINGS, [[_text(one[key]) for key in keys] for one in found])


def _tell_statistics(terminal: Terminal, found: list[Facts]) -> None:
    keys = ("rows", "missing", "mean", "std", "low", "high")
    told = [(one["name"], one["statistics"]) for one in found if one["statistics"]]
    rows = [
        [str(name), *(_text(facts[key]) for key in keys), facts["training_set"][:16], _same(facts)]
        for name, facts in told
    ]
    terminal.table("In the newest training set", ["feature", *keys, "training set", "version"], rows)


def _same(facts: Facts) -> str:
    return "this" if facts["of_this_version"] else "another"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
