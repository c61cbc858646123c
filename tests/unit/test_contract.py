"""What keeps a contract passes in order; what does not comes back with index, path and reason."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Contract, split_message
from trilane.errors import ContractError
from trilane.types import fields_of

CONTRACT = Contract(
    "fact",
    fields_of(
        {"id": tl.String, "x": tl.Float64 | None, "n": Annotated[tl.Int64, msgspec.Meta(ge=0)] | None, "b": bool | None}
    ),
)
GOOD = b'{"id": "a", "x": 1, "n": 2, "b": true, "new": []}'


@pytest.mark.parametrize(
    ("text", "kind", "path", "said"),
    [
        (b"{}", "type", "$", "missing required field `id`"),
        (b'{"id": null}', "type", "$.id", "got `null`"),
        (b'{"id": "a", "x": "1"}', "type", "$.x", "got `str`"),
        (b'{"id": "a", "x": true}', "type", "$.x", "got `bool`"),
        (b'{"id": "a", "x": 1e999}', "type", "$.x", "out of range"),
        (b'{"id": "a", "n": -1}', "type", "$.n", ">= 0"),
        (b'{"id": "a", "n": 1.0}', "type", "$.n", "got `float`"),
        (b'{"id": "a", "b": 1}', "type", "$.b", "got `int`"),
        (b'{"id": "a", "x": NaN}', "json", "$", "malformed"),
        (b'{"id": "\\udfff"}', "json", "$", "surrogate"),
        (b'{"id": "\xe9"}', "json", "$", "utf-8"),
        (b'{"id": "a"', "json", "$", "truncated"),
        (b"", "json", "$", "truncated"),
        (b"nan", "json", "$", "nan is no JSON value"),
        (b"nul", "json", "$", "truncated"),
        (b'{"id": "a", "y": ' + b"[" * 100_000, "json", "$", "recursion"),
        (b'{"id": "a", "y": ' + b'{"y":' * 100_000, "json", "$", "recursion"),
    ],
)
def test_a_payload_that_breaks_the_contract_says_where_and_why(text: bytes, kind: str, path: str, said: str) -> None:
    with pytest.raises(ContractError) as refused:
        CONTRACT.decode(text)
    assert (refused.value.facts["kind"], refused.value.where) == (kind, path)
    assert said in refused.value.what
    assert refused.value.remedy
    passed, indexes, [rejection] = CONTRACT.decode_many([GOOD, text, GOOD])
    assert (len(passed), indexes) == (2, [0, 2])
    assert (rejection.index, rejection.code, rejection.path) == (1, kind, path)
    assert said in rejection.reason


def test_unknown_fields_are_ignored_and_nullable_ones_may_be_absent() -> None:
    payload = CONTRACT.decode(GOOD)
    assert msgspec.structs.asdict(payload) == {"id": "a", "x": 1.0, "n": 2, "b": True}
    assert msgspec.structs.asdict(CONTRACT.decode(b'{"id": ""}')) == {"id": "", "x": None, "n": None, "b": None}


@pytest.mark.parametrize("text", [b'{"id":"a"},{"id":"b"}', b'{"id":"a"} {"id":"b"}', b'{"id":"a"}\n{"id":"b"}'])
def test_one_text_holds_one_payload(text: bytes) -> None:
    _, indexes, rejected = CONTRACT.decode_many([text, b'{"id": "c"', b"}"])
    assert indexes == []
    assert [r.index for r in rejected] == [0, 1, 2]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "x", "n", "b"]), inner),
    max_leaves=6,
)


@given(st.lists(st.binary(max_size=20) | json_values.map(lambda v: json.dumps(v).encode()) | st.just(GOOD), max_size=8))
def test_a_batch_is_judged_as_each_of_its_texts_alone(texts: list[bytes]) -> None:
    passed, indexes, rejected = CONTRACT.decode_many(texts)
    good, bad = [], []
    for index, text in enumerate(texts):
        try:
            good.append((index, CONTRACT.decode(text)))
        except ContractError as error:
            bad.append((index, error.where, error.what))
    assert list(zip(indexes, passed, strict=True)) == good
    assert [(r.index, r.path, r.reason) for r in rejected] == bad


def test_a_message_without_a_path_is_about_the_whole() -> None:
    assert split_message("Expected `object`") == ("Expected `object`", "$")


def test_a_key_that_is_no_text_is_told_by_the_object_that_has_it() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.msgpack.decode(msgspec.msgpack.encode({"rows": {b"a": 1}}), type=dict[str, dict[str, int]])
    assert split_message(str(caught.value)) == ("Expected `str`, got `bytes`", "$[...]")
