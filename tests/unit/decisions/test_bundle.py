"""What could change an answer changes the digest of its bundle, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError

FACTS: dict[str, Any] = {
    "endpoint": "ask",
    "model": "stays",
    "model_digest": "a" * 64,
    "views": {"daily": "b" * 64, "recent": "c" * 64},
    "definitions": "d" * 64,
    "threshold": 0.5,
    "deadline": 50_000,
    "fallback": ({"step": "constant", "score": 0.5},),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint", "other"),
        ("model", "other"),
        ("model_digest", "e" * 64),
        ("views", {"daily": "b" * 64, "recent": "e" * 64}),
        ("definitions", "e" * 64),
        ("threshold", None),
        ("deadline", 60_000),
        ("fallback", ()),
    ],
)
def test_each_field_changes_the_digest(field: str, value: object) -> None:
    assert Bundle(**{**FACTS, field: value}).digest != Bundle(**FACTS).digest


def test_the_order_of_views_does_not_change_the_digest() -> None:
    views = dict(reversed(FACTS["views"].items()))
    assert Bundle(**{**FACTS, "views": views}).digest == Bundle(**FACTS).digest


def test_a_bundle_comes_back_from_its_facts() -> None:
    bundle = Bundle(**FACTS)
    again = Bundle.from_facts(bundle.facts())
    assert again == bundle
    assert again.digest == bundle.digest


def test_facts_of_another_release_are_refused() -> None:
    with pytest.raises(ConflictError, match="none that this release knows"):
        Bundle.from_facts({"endpoint": "ask"})
