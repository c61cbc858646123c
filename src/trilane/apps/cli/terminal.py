"""How a command speaks: one readable answer for a person, or one JSON value for a machine.

Laws: with `--json` standard output holds JSON and nothing else; progress and errors for people go to standard error;
an error of Trilane says what, where and the remedy, sets the exit status of its branch, and shows no traceback unless
asked to.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from trilane.apps.logs import log_to_stderr
from trilane.clock import instant
from trilane.errors import DefinitionError, TrilaneError

if TYPE_CHECKING:
    from rich.console import Console

    from trilane.apps.project import Project

__all__ = ["JsonOption", "ProgressLines", "ProjectOption", "Terminal", "command", "moment", "open_project"]


ProjectOption = Annotated[
    Path | None,
    typer.Option("--project", metavar="DIR", help="The project's folder; default: the one around here."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_INTERRUPTED = 130
_WIDEST = 10_000  # characters
_FOREIGN = "site-packages"


class Terminal:
    """Where a command's words go."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def tell(self, text: str) -> None:
        """A line for a person; Rich markup is understood."""
        if not self.json:
            self._out().print(text, highlight=False, soft_wrap=True)

    def table(self, title: str, headings: list[str], rows: list[list[str]]) -> None:
        """A table for a person; nothing if it has no rows. Nothing is cut off: what is read by a program is as wide as
        it has to be, and on a narrow screen cells are folded.
        """
        if self.json or not rows:
            return
        from rich import box
        from rich.measure import Measurement
        from rich.table import Column, Table
        from rich.text import Text

        columns = [Column(heading, overflow="fold") for heading in headings]
        table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        out = self._out()
        if not out.is_terminal:
            whole = Measurement.get(out, out.options.update(max_width=_WIDEST), table).maximum
            out.width = max(out.width, whole)
        out.print(table)

    def answer(self, facts: object) -> None:
        """The whole answer for a machine."""
        if self.json:
            sys.stdout.write(msgspec.json.encode(facts, enc_hook=str).decode() + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[str, int, int], None]]:
        """A bar on standard error, if a person looks at it, else a line there now and then, which a log can hold; the
        value is called with (stage, done, all or 0).
        """
        if self.json or not sys.stderr.isatty():
            yield ProgressLines(title)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)

            def tick(stage: str, done: int, all_: int) -> None:
                bar.update(task, description=f"{title}: {stage}", completed=done, total=all_ or None)

            yield tick

    def note(self, text: str) -> None:
        """A line for a person, on standard error."""
        sys.stderr.write(text + "\n")

    def fail(self, error: TrilaneError) -> None:
        """Tells an error."""
        if self.json:
            self.answer({"error": error.as_payload()})
            return
        from rich.console import Console
        from rich.panel import Panel
        from rich.text import Text

        place = str(error.facts.get("file") or "")
        lines = [
            f"what    {error.what}",
            f"where   {error.where}" if error.where else "",
            f"file    {place}" if place else "",
            f"remedy  {error.remedy}" if error.remedy else "",
        ]
        text = Text("\n".join(line for line in lines if line))
        Console(stderr=True).print(Panel(text, title=f"{error.code} error", title_align="left", border_style="red"))

    def _out(self) -> Console:
        from rich.console import Console

        return Console()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function a command: adds `--debug`, and tells errors as the laws of this module say."""

    @functools.wraps(function)
    def run(*, debug: bool = False, **options: object) -> None:
        terminal = Terminal(json=bool(options.get("json", False)))
        log_to_stderr()
        try:
            function(**options)
        except TrilaneError as error:
            if debug:
                raise
            if _FOREIGN in str(error.facts.get("file", "")):
                error.facts["file"] = ""  # nobody's line but the command line's own
            terminal.fail(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has had enough; Python must not complain when it flushes at exit.
            sys.stdout = None

    signature = inspect.signature(function, eval_str=True)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_DebugOption)
    parameters = [*signature.parameters.values(), debug]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def open_project(folder: Path | None) -> Project:
    """The project that holds `folder`."""
    from trilane.apps.project import Project

    return Project.find(folder)


def moment(text: str | None, *, option: str) -> int | None:
    """The instant that an option names; a bare date is its midnight UTC."""
    if text is None:
        return None
    try:
        return instant(f"{text}T00:00:00Z" if len(text) == len("2013-10-01") else text)
    except DefinitionError as error:
        raise DefinitionError(error.what, where=option, remedy=error.remedy, file="") from None


class ProgressLines:
    """Tells how far something is, at most every `every` seconds of `clock`; nothing of what takes less."""

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic, every: float = 10.0) -> None:
        self._title, self._clock, self._every = title, clock, every
        self._due = clock() + every

    def __call__(self, stage: str, done: int, all_: int) -> None:
        if (now := self._clock()) < self._due:
            return
        self._due = now + self._every
        place = f"{done:,} of {all_:,}, " if all_ else ""
        sys.stderr.write(f"{self._title}: {place}{stage}\n")
        sys.stderr.flush()
