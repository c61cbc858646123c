"""The graph answers what came from what."""

from __future__ import annotations

import pytest

from trilane.errors import DefinitionError
from trilane.lifecycle.graph import Graph, Node, parse_uri, uri
from trilane.lifecycle.metadata.protocol import EdgeRecord


def graph(*edges: str) -> Graph:
    pairs = [edge.split(">") for edge in edges]
    return Graph(EdgeRecord(source=a, target=b, relation="r", first_seen=0, last_seen=0) for a, b in pairs)


def test_up_and_downstream_are_near_and_far() -> None:
    found = graph("s>v", "v>m", "t>m", "m>e", "x>y")
    assert found.upstream("m") == ["s", "t", "v"]
    assert found.downstream("s") == ["e", "m", "v"]
    assert found.nodes == ["e", "m", "s", "t", "v", "x", "y"]


def test_between_is_all_that_lies_on_a_way() -> None:
    found = graph("s>v", "v>m", "s>w", "w>m", "t>m", "v>other")
    assert found.between("s", "m") == ["m", "s", "v", "w"]
    assert found.between("m", "s") == []
    assert found.between("s", "nowhere") == []


def test_a_circle_ends() -> None:
    found = graph("a>b", "b>c", "c>a", "d>d")
    assert found.upstream("a") == found.downstream("a") == ["b", "c"]
    assert found.between("a", "c") == ["a", "b", "c"]
    assert found.downstream("d") == []


def test_a_thing_nobody_saw_has_no_neighbours() -> None:
    assert graph().upstream("a") == graph("b>c").downstream("a") == []


@pytest.mark.parametrize("version", [None, "1", "a.b-c"])
def test_a_uri_reads_back(version: str | None) -> None:
    assert parse_uri(uri("view", "air/port", version)) == Node("view", "air/port", version)


@pytest.mark.parametrize("text", ["", "trilane://", "trilane://view", "http://view/x", "trilane://view/a b"])
def test_what_is_no_uri_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="no URI"):
        parse_uri(text)


def test_a_name_that_would_not_read_back_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot be a URI"):
        uri("view", "a@b", None)
