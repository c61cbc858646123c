"""Where the processes' logs go: to standard error, a line an event, for whoever supervises them to keep.

Law: as JSON or as text, a line says when, how grave, who and what; facts that came with an event are fields of the one,
and stand behind the message in the other.
"""

from __future__ import annotations

import logging
import sys

import msgspec

from trilane.clock import format_instant

__all__ = ["log_to_stderr"]

_encode = msgspec.json.Encoder(enc_hook=str).encode


def log_to_stderr(level: str = "warning", form: str = "text") -> None:
    """Logs warnings of all libraries, and of Trilane what is at least `level`; `form` is `text` or `json`."""
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[shown], force=True)
    logging.getLogger("trilane").setLevel(level.upper())


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text, facts = super().format(record), getattr(record, "facts", None)
        return f"{text} {_encode(facts).decode()}" if facts else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": format_instant(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode({**line, **getattr(record, "facts", {})}).decode()
