"""The routes of the server: which operation answers a method and a path, and what is said of a path that none answers.

Laws: a path without parameters goes before one with them; finding a route costs a look-up a segment at most, however
many routes there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from trilane.errors import DefinitionError

__all__ = ["ROUTES", "Answer", "Found", "Route", "Router"]

_USUAL = 512  # characters of a path that is worth keeping
_LATELY = 512  # paths with parameters that are found without a look at their segments

Answer: TypeAlias = Callable[..., Awaitable[int]]
"""What answers a request: takes the scope, the protocol and the path's parameters, and gives the status."""


@dataclass(frozen=True, slots=True)
class Route:
    """`operation` answers `method` on `path`, in which `{name}` is a parameter: one segment, not empty."""

    method: str
    path: str
    operation: str


ROUTES = (
    Route("POST", "/v1/decide/{endpoint}", "decide"),
    Route("POST", "/v1/features/{name}", "features"),
    Route("POST", "/v1/events/{source}", "events"),
    Route("GET", "/v1/explain/{decision id}", "explain"),
    Route("GET", "/v1/status", "status"),
    Route("GET", "/v1/slo", "slo"),
    Route("GET", "/v1/signals", "signals"),
    Route("GET", "/v1/policy", "policy"),
    Route("POST", "/v1/clock", "clock"),
    Route("GET", "/health/live", "live"),
    Route("GET", "/health/ready", "ready"),
    Route("GET", "/metrics", "metrics"),
    Route("GET", "/openapi.json", "openapi"),
    Route("GET", "/v2", "oip_server"),
    Route("GET", "/v2/health/live", "oip_live"),
    Route("GET", "/v2/health/ready", "oip_ready"),
    Route("GET", "/v2/models/{model}", "oip_model"),
    Route("GET", "/v2/models/{model}/versions/{version}", "oip_model"),
    Route("GET", "/v2/models/{model}/ready", "oip_model_ready"),
    Route("GET", "/v2/models/{model}/versions/{version}/ready", "oip_model_ready"),
    Route("POST", "/v2/models/{model}/infer", "oip_infer"),
    Route("POST", "/v2/models/{model}/versions/{version}/infer", "oip_infer"),
    Route("GET", "/v2/models/{model}/config", "oip_config"),
    Route("GET", "/v2/models/{model}/versions/{version}/config", "oip_config"),
    Route("GET", "/v2/models/stats", "oip_stats"),
    Route("GET", "/v2/models/{model}/stats", "oip_stats"),
    Route("GET", "/v2/models/{model}/versions/{version}/stats", "oip_stats"),
    Route("POST", "/v2/repository/index", "oip_index"),
    Route("POST", "/v2/repository/models/{model}/load", "oip_load"),
    Route("POST", "/v2/repository/models/{model}/unload", "oip_unload"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What answers a request: `label` is the path without its parameters, under which it is counted."""

    answer: Answer
    label: str
    parameters: tuple[str, ...] = ()


@dataclass(slots=True)
class _Node:
    """What is below one beginning of a path, by the next segment or by any; and what ends here, by method."""

    named: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    ends: dict[str, tuple[Answer, str]] = field(default_factory=dict)


class Router:
    """Finds the operation of a request. Raises KeyError if a route names none of `operations`."""

    def __init__(self, operations: Mapping[str, Answer], routes: Iterable[Route] = ROUTES) -> None:
        self._root, self._exact, self._paths = _Node(), dict[tuple[str, str], Found](), set[str]()
        self._lately: dict[tuple[str, str], Found] = {}
        for route in routes:
            self._add(route, operations[route.operation])

    def _add(self, route: Route, answer: Answer) -> None:
        segments = route.path.split("/")
        label = "/".join(segment for segment in segments if not segment.startswith("{"))
        if label == route.path:
            self._exact[route.method, route.path] = Found(answer, label)
        node = self._root
        for segment in segments:
            if segment.startswith("{"):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.named.setdefault(segment, _Node())
        node.ends[route.method] = answer, label
        self._paths.add(route.path)

    def find(self, method: str, path: str) -> Found | None:
        """What answers; None if nothing does."""
        found = self._exact.get((method, path)) or self._lately.get((method, path))
        if found is not None:
            return found
        node, parameters = self._node(path)
        end = node.ends.get(method) if node is not None else None
        if end is None:
            return None
        found = Found(*end, tuple(parameters))
        if len(path) <= _USUAL:
            if len(self._lately) >= _LATELY:
                self._lately.clear()
            self._lately[method, path] = found
        return found

    def _node(self, path: str) -> tuple[_Node | None, list[str]]:
        node, parameters = self._root, list[str]()
        for segment in path.split("/"):
            next_one = node.named.get(segment)
            if next_one is None:
                if node.any is None or not segment:
                    return None, parameters
                parameters.append(segment)
                next_one = node.any
            node = next_one
        return node, parameters

    def missing(self, method: str, path: str) -> DefinitionError:
        """Why nothing answers: another method does (405), or the path is none (404)."""
        node, _ = self._node(path)
        other = sorted(node.ends) if node is not None else []
        remedy = f"Use {' or '.join(other)}" if other else f"The paths are {', '.join(sorted(self._paths))}"
        what = f"nothing answers {method} {path}"
        if not other:
            return DefinitionError(what, where=path, remedy=remedy, status=404)
        allow = ", ".join(sorted({*other, *(["HEAD"] if "GET" in other else [])}))
        return DefinitionError(what, where=path, remedy=remedy, status=405, allow=allow)
