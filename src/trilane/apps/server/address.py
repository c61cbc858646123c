"""Where the running server of a state answers, told by the server itself, whatever port it was given.

Law: what is written here is a hint; whoever reads it asks there, and goes by the configuration if nobody answers. What
a server left that was killed tells nothing: another one may have its port by now.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from trilane.errors import SetupError
from trilane.lifecycle.process import is_dead, this_process
from trilane.plugins import make_folder

__all__ = ["ADDRESS_FILE", "forget", "read", "write"]

ADDRESS_FILE = "server.json"


class _Address(msgspec.Struct):
    url: str
    process: str = ""


def write(state: Path, url: str) -> None:
    """Tells that the server of `state` answers at `url`."""
    draft = make_folder(state) / f"{ADDRESS_FILE}.{os.getpid()}.draft"
    try:
        draft.write_bytes(msgspec.json.encode(_Address(url, this_process())))
        draft.replace(state / ADDRESS_FILE)
    except OSError as error:
        raise SetupError(f"the file cannot be written: {error}", where=str(draft)) from error


def read(state: Path) -> str | None:
    """Where the server of `state` answers, if one told that may still live."""
    told = _told(state)
    return None if told is None or is_dead(told.process) else told.url


def forget(state: Path) -> None:
    """Takes back what this process told; what another one told since, stays."""
    told = _told(state)
    if told is not None and told.process == this_process():
        (state / ADDRESS_FILE).unlink(missing_ok=True)


def _told(state: Path) -> _Address | None:
    try:
        return msgspec.json.decode((state / ADDRESS_FILE).read_bytes(), type=_Address)
    except (OSError, ValueError):
        return None
