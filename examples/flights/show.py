"""What the demo shows: a bar for what goes on, a line for what is done, and the closing table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Phase", "Show"]

_WIDTH = 46


@dataclass
class Phase:
    """A part of the demo while it goes on; `told` is what its line says when it is done."""

    progress: Progress
    task: TaskID
    told: str = ""

    def tick(self, done: float, whole: float | None = None) -> None:
        """Moves the bar to `done`."""
        self.progress.update(self.task, completed=done, total=whole)


class Show:
    """Speaks to a person on a terminal, and plainly to a file."""

    def __init__(self) -> None:
        # A file has no width; one that is too small would break the table's lines.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

    @contextmanager
    def phase(self, text: str, *, whole: float | None = None) -> Iterator[Phase]:
        """A bar while the block runs, then a line with what it told and how long it took."""
        columns = (
            SpinnerColumn(),
            TextColumn(f"{{task.description:<{_WIDTH}}}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
        )
        began = time.perf_counter()
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            phase = Phase(progress, progress.add_task(text, total=whole))
            yield phase
        seconds = time.perf_counter() - began
        self.say(f"[green]✓[/] {text:<{_WIDTH}} [dim]{seconds:5.1f} s[/]  {phase.told}")

    def say(self, text: str = "") -> None:
        """A line of Rich markup."""
        self.console.print(text, soft_wrap=True)

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Rows of what, its figure, and what that means; a row of empty strings separates."""
        table = Table(box=box.SIMPLE, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", style="bold", no_wrap=True)
        table.add_column(style="dim")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)
