"""The graph between all things: what came from what, and what depends on it.

Laws: an edge points the way facts flow; a reference to a thing that nobody recorded is legal, and is a node;
a circle (feedback closes one) ends no walk and starts none anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import rustworkx as rx

from trilane.errors import DefinitionError
from trilane.lifecycle.metadata.protocol import EdgeRecord

__all__ = ["Graph", "Node", "parse_uri", "uri"]

_URI = re.compile(r"trilane://([a-z][a-z0-9_]*)/([^@\s]+)(?:@([^@\s]+))?")


@dataclass(frozen=True, slots=True)
class Node:
    """A thing by kind, name and, where it has several, version.

    >>> str(Node("model", "late_arrival", "3f2a"))
    'trilane://model/late_arrival@3f2a'
    """

    kind: str
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"trilane://{self.kind}/{self.name}" + (f"@{self.version}" if self.version else "")


def uri(kind: str, name: str, version: str | None = None) -> str:
    """The URI of a thing. Raises DefinitionError if it could not be read back.

    >>> uri("source", "departures")
    'trilane://source/departures'
    """
    node = Node(kind, name, version)
    if parse_uri(str(node)) != node:
        raise DefinitionError("this cannot be a URI", where=str(node), remedy="Leave out `@` and white space")
    return str(node)


def parse_uri(text: str) -> Node:
    """The thing that a URI names.

    >>> parse_uri("trilane://training_set/late_arrival@9c1e").version
    '9c1e'
    """
    found = _URI.fullmatch(text)
    if not found:
        raise DefinitionError("this is no URI of Trilane", where=text, remedy="Write trilane://<kind>/<name>[@version]")
    return Node(found[1], found[2], found[3])


class Graph:
    """The edges of one instant as a directed graph; answers are URIs in sorted order.

    >>> seen = [("source/s", "view/v"), ("view/v", "model/m@1"), ("model/m@1", "endpoint/e")]
    >>> graph = Graph(
    ...     EdgeRecord(source=f"trilane://{a}", target=f"trilane://{b}", relation="r", first_seen=0, last_seen=0)
    ...     for a, b in seen
    ... )
    >>> graph.upstream("trilane://model/m@1")
    ['trilane://source/s', 'trilane://view/v']
    >>> graph.downstream("trilane://model/m@1")
    ['trilane://endpoint/e']
    """

    def __init__(self, edges: Iterable[EdgeRecord]) -> None:
        self.edges = tuple(edges)
        self._graph: rx.PyDiGraph[str, EdgeRecord] = rx.PyDiGraph()
        self._index: dict[str, int] = {}
        for edge in self.edges:
            self._graph.add_edge(self._at(edge.source), self._at(edge.target), edge)

    @property
    def nodes(self) -> list[str]:
        """Every URI that an edge names."""
        return sorted(self._index)

    def upstream(self, uri: str) -> list[str]:
        """All that `uri` came from, near and far; nothing for a URI that is unknown."""
        at = self._index.get(uri)
        return [] if at is None else self._named(rx.ancestors(self._graph, at) - {at})

    def downstream(self, uri: str) -> list[str]:
        """All that depends on `uri`, near and far."""
        at = self._index.get(uri)
        return [] if at is None else self._named(rx.descendants(self._graph, at) - {at})

    def between(self, source: str, target: str) -> list[str]:
        """All that lies on some way from `source` to `target`, both included; nothing if there is no way."""
        if source not in self._index or target not in self._index:
            return []
        after = {source, *self.downstream(source)}
        before = {target, *self.upstream(target)}
        return sorted(after & before) if target in after else []

    def _at(self, uri: str) -> int:
        if uri not in self._index:
            self._index[uri] = self._graph.add_node(uri)
        return self._index[uri]

    def _named(self, indexes: set[int]) -> list[str]:
        return sorted(self._graph[index] for index in indexes)
