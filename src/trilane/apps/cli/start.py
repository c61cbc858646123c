"""`trilane init`: a small project that works, with data to try it on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trilane.apps.cli import template
from trilane.apps.cli.terminal import JsonOption, Terminal
from trilane.clock import WallClock
from trilane.errors import ConflictError, SetupError
from trilane.plugins import make_folder

__all__ = ["init"]


def init(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make the project in.")] = Path(),
    json: JsonOption = False,
) -> None:
    """Write a small working project; nothing that exists is overwritten."""
    files = template.files(name=folder.resolve().name, now=WallClock().now())
    present = sorted(name for name in files if (folder / name).exists())
    if present:
        raise ConflictError(
            f"{', '.join(present)} exists already", where=str(folder), remedy="Choose an empty or a new folder"
        )
    for name, text in files.items():
        _write(folder / name, text)
    terminal = Terminal(json=json)
    terminal.answer({"project": str(folder.resolve()), "files": sorted(files)})
    terminal.tell(f"A project was made in [bold]{folder}[/]: {', '.join(sorted(files))}")
    terminal.tell("Its README.md lists the next steps; the first is [bold]trilane plan[/].")


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    try:
        path.write_text(text)
    except OSError as error:
        raise SetupError(
            f"the file cannot be written: {error}", where=str(path), remedy="Choose another folder"
        ) from error
