"""The server process: the HTTP API over the event log, the online store and the deployed bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trilane.apps.server.app import Server

__all__ = ["create"]


def create() -> Server:
    """The application that a server worker runs, of the project named by the environment."""
    import os

    from trilane.apps.project import Project
    from trilane.apps.server.app import Server

    return Server(Project.find(Path(os.environ["TRILANE_PROJECT"]) if "TRILANE_PROJECT" in os.environ else None))
