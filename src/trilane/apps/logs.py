"""Where the processes' logs go: to standard error, a line an event, for whoever supervises them to keep."""

from __future__ import annotations

import logging
import sys

__all__ = ["log_to_stderr"]


def log_to_stderr(level: str = "warning") -> None:
    """Logs warnings of all libraries, and of Trilane what is at least `level`."""
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form, force=True)
    logging.getLogger("trilane").setLevel(level.upper())
