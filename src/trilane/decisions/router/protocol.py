"""The promise of a router: which bundle answers an endpoint now.

Law: a request sees one state of the routes, whole; a change is seen by every request that starts after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Router"]


class Router(Protocol):
    """Chooses the bundle that answers."""

    def route(self, endpoint: str) -> str:
        """The digest of the bundle that answers. Raises DefinitionError for an endpoint nobody deployed."""
        ...

    def routes(self) -> Mapping[str, str]:
        """All endpoints with the digest of what answers them."""
        ...

    def switch(self, routes: Mapping[str, str]) -> None:
        """Replaces all routes in one step."""
        ...
