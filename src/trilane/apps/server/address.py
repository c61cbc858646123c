"""Where the running server of a state answers, told by the server itself, whatever port it was given.

Law: what is written here is a hint; whoever reads it asks there, and goes by the configuration if nobody answers.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from trilane.errors import SetupError
from trilane.plugins import make_folder

__all__ = ["ADDRESS_FILE", "forget", "read", "write"]

ADDRESS_FILE = "server.json"


class _Address(msgspec.Struct):
    url: str


def write(state: Path, url: str) -> None:
    """Tells that the server of `state` answers at `url`."""
    draft = make_folder(state) / f"{ADDRESS_FILE}.{os.getpid()}.draft"
    try:
        draft.write_bytes(msgspec.json.encode(_Address(url)))
        draft.replace(state / ADDRESS_FILE)
    except OSError as error:
        raise SetupError(f"the file cannot be written: {error}", where=str(draft)) from error


def read(state: Path) -> str | None:
    """Where the server of `state` answers, if one told."""
    try:
        return msgspec.json.decode((state / ADDRESS_FILE).read_bytes(), type=_Address).url
    except (OSError, ValueError):
        return None


def forget(state: Path, url: str) -> None:
    """Takes back that a server answers at `url`; what another server told stays."""
    if read(state) == url:
        (state / ADDRESS_FILE).unlink(missing_ok=True)
