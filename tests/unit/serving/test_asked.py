"""Keys of rows: each entity once, however often it is asked for, and in any number."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import trilane as tl
from trilane.features.entity import encode_key
from trilane.serving import asked
from trilane.serving.asked import Asked, Keys

card = tl.Entity("card", card=tl.String)
pair = tl.Entity("pair", card=tl.String, shop=tl.Int64)


def test_a_key_in_several_rows_is_asked_for_once() -> None:
    keys, codes = Keys(card).of(Asked({"card": ["a", "b", "a", None]}, 4))
    assert keys == [encode_key(("a",)), encode_key(("b",)), b""]
    assert codes is not None
    assert codes.tolist() == [0, 1, 0, 2]


def test_rows_and_columns_have_the_same_keys() -> None:
    known = Keys(pair)
    rows = [SimpleNamespace(card="a", shop=1), SimpleNamespace(card="a", shop=2)]
    for _ in range(2):  # the second time they are remembered
        assert known.of(rows) == known.of(Asked({"card": ["a", "a"], "shop": [1, 2]}, 2))  # type: ignore[arg-type]
    assert known.of(Asked({"card": ["a"], "shop": [None]}, 1))[0] == [b""]


def test_more_keys_than_are_remembered_are_encoded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_KNOWN", 3)
    known = Keys(card)
    for start in (0, 5, 0, 2):
        texts = [f"c{number}" for number in range(start, start + 6)]
        assert known.of(Asked({"card": texts}, 6)) == ([encode_key((text,)) for text in texts], None)
