"""The command `trilane`: one module a command, each of which imports what it needs when it runs."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command line of this process, and ends it with the command's status."""
    from trilane.apps.cli.commands import app

    app()
