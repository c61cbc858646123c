"""A router within one process: one pointer to an immutable mapping, swapped whole."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trilane.errors import DefinitionError

__all__ = ["InProcessRouter"]


class InProcessRouter:
    """Keeps the promise of Router without a lock: assigning an attribute is atomic in Python."""

    def __init__(self, routes: Mapping[str, str] | None = None) -> None:
        self._routes: Mapping[str, str] = MappingProxyType(dict(routes or {}))

    def route(self, endpoint: str) -> str:
        try:
            return self._routes[endpoint]
        except KeyError:
            known = ", ".join(sorted(self._routes)) or "none yet; train its model, then run `trilane apply`"
            raise DefinitionError(
                f"nothing is deployed for an endpoint {endpoint!r}",
                where=endpoint,
                remedy=f"Deployed endpoints: {known}",
                file="",
            ) from None

    def routes(self) -> Mapping[str, str]:
        return self._routes

    def switch(self, routes: Mapping[str, str]) -> None:
        self._routes = MappingProxyType(dict(routes))
