"""`trilane import feast`: definitions from another system, and what became of each of its objects."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, Terminal, command

if TYPE_CHECKING:
    from trilane.apps.feast_import.facts import Repository
    from trilane.apps.feast_import.translation import Translation

__all__ = ["imports"]

imports = typer.Typer(
    name="import",
    help="Write definitions from what another system declares.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@imports.callback()
def _group() -> None:
    """Makes a group of one command a group."""


def feast(
    *,
    repository: Annotated[
        Path, typer.Argument(metavar="REPO", help="A Feast repository, or a file of facts that the reader printed.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; it must not exist.")] = Path(
        "definitions.py"
    ),
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="An interpreter that can import Feast; default: this one.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Files of the repository to leave out; repeatable.")
    ] = None,
    schedule: Annotated[str, typer.Option(metavar="DURATION", help="How often batch views are computed.")] = "1d",
    json: JsonOption = False,
) -> None:
    """Write the entities, sources, views and services of a Feast repository as Trilane definitions."""
    from trilane.apps.definitions import load_definitions
    from trilane.apps.feast_import.translation import translate
    from trilane.errors import ConflictError, DefinitionError

    if out.exists():
        raise ConflictError("the file exists already", where=str(out), remedy="Name another with --out")
    found, folder = _read(repository, python or sys.executable, ignore or [])
    if found.is_empty:
        raise DefinitionError("it declares nothing", where=str(folder), remedy="Name another repository", file="")
    done = translate(found, folder=folder, out=out.parent, schedule=schedule)
    written = _write(out, done)
    load_definitions(out)
    terminal = Terminal(json=json)
    objects = [dataclasses.asdict(row) for row in done.rows]
    terminal.answer({"feast": found.feast, "project": found.project, "written": written, "objects": objects})
    _tell(terminal, done, written)


def _read(repository: Path, python: str, ignore: list[str]) -> tuple[Repository, Path]:
    """The facts, and the folder where their paths begin."""
    from trilane.apps.feast_import.facts import decode, folder_of, read

    if repository.is_file():
        return decode(repository.read_bytes(), where=str(repository)), repository.parent
    folder = folder_of(repository)
    return read(folder, python=python, ignore=ignore), folder


def _write(out: Path, done: Translation) -> list[str]:
    """Writes the definitions, and an empty configuration where there is none; returns the files."""
    from trilane.apps.config import CONFIG_FILE
    from trilane.errors import SetupError
    from trilane.plugins import make_folder

    config = make_folder(out.parent) / CONFIG_FILE
    files = {out: done.text}
    if not any((folder / CONFIG_FILE).is_file() for folder in out.absolute().parents):
        files[config] = f'definitions = "{out.name}"\n'
    for path, text in files.items():
        try:
            path.write_text(text)
        except OSError as error:
            raise SetupError(
                f"the file cannot be written: {error}", where=str(path), remedy="Choose another folder"
            ) from error
    return [str(path) for path in files]


def _tell(terminal: Terminal, done: Translation, written: list[str]) -> None:
    rows = [[row.kind, row.name, row.became or "nothing", "; ".join(row.notes)] for row in done.rows]
    terminal.table("From Feast", ["object", "name", "became", "what to know"], rows)
    lost = sum(not row.became for row in done.rows)
    terminal.tell(f"{len(done.rows) - lost} of {len(done.rows)} objects were imported into {' and '.join(written)}.")
    terminal.tell("Read the comments there; then run [bold]trilane plan[/].")


imports.command("feast")(command(feast))
