"""A schema promised at a boundary, and the check of payloads against it.

Law: of a batch, what keeps the contract passes in order; each payload that does not comes back with its index, the path
to the fault and the reason. Nothing is dropped, nothing is coerced silently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trilane.clock import instant
from trilane.constraint import bound_text, broken_bound
from trilane.errors import ContractError
from trilane.types import Field

__all__ = ["Contract", "NOT_JSON", "Rejection", "malformed", "split_message"]

# What msgspec raises for bytes that are no JSON; a text nested too deeply is refused like any other that is broken.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refused payload: its `index` in the batch, the JSON `path` to the fault, a `reason` for a person."""

    index: int
    code: str
    path: str
    reason: str


def split_message(message: str) -> tuple[str, str]:
    """Splits msgspec's text into the reason and the JSON path.

    >>> split_message("Expected `float`, got `str` - at `$.dep_delay`")
    ('Expected `float`, got `str`', '$.dep_delay')
    """
    # A bound that the decoder cannot check itself tells its own field before msgspec tells the way to the object.
    reason, *paths = message.split(" - at `")
    # Of a key that is at fault it tells where its object is: key` in `$.rows
    found = (path.rstrip("`").rpartition("` in `")[2] for path in reversed(paths))
    return reason, "$" + "".join(path.removeprefix("$") for path in found)


def malformed(text: bytes, error: Exception) -> str:
    """Why `text` is no JSON, from what msgspec raised for it.

    >>> malformed(b"nan", msgspec.DecodeError("Input data was truncated"))
    'malformed JSON: nan is no JSON value'
    """
    word = text.strip()
    # msgspec takes any short word that begins with n, t or f for a part of null, true or false.
    if word.isalpha() and not any(value.startswith(word) for value in (b"null", b"true", b"false")) and len(word) < 9:
        return f"malformed JSON: {word.decode()} is no JSON value"
    return f"malformed JSON: {error}"


def _bounded(bounds: Sequence[tuple[str, str, int]]) -> Callable[[Any], None]:
    """The check of instants against their bounds, which msgspec leaves to us."""

    def check(payload: msgspec.Struct) -> None:
        for name, rule, bound in bounds:
            value = getattr(payload, name)
            if value is not None and broken_bound(rule, bound, instant(value)):
                raise ValueError(f"{bound_text(rule, bound)} - at `$.{name}`")

    return check


@dataclass(frozen=True)
class Contract:
    """The fields that a payload must have; unknown fields are ignored, so that producers may add them first."""

    name: str
    fields: tuple[Field, ...]

    @functools.cached_property
    def struct(self) -> type[msgspec.Struct]:
        """The msgspec class whose instances are checked payloads. Nullable fields may be absent."""
        required = [(f.name, f.annotation) for f in self.fields if not f.nullable]
        optional = [(f.name, f.annotation | None, None) for f in self.fields if f.nullable]  # type: ignore[operator]
        bounds = [(f.name, *bound) for f in self.fields for bound in f.instants]
        own = {"__post_init__": _bounded(bounds)} if bounds else None
        return msgspec.defstruct(self.name, [*required, *optional], namespace=own, kw_only=True, gc=False)

    @functools.cached_property
    def _one(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self.struct)

    def decode(self, value: bytes) -> msgspec.Struct:
        """The checked payload of one JSON text. Raises ContractError with the path to the fault."""
        try:
            payload: msgspec.Struct = self._one.decode(value)
        except msgspec.ValidationError as error:
            reason, path = split_message(str(error))
            raise ContractError(reason, where=path, remedy=f"Send what {self.name!r} promises", kind="type") from None
        except NOT_JSON as error:
            raise ContractError(malformed(value, error), where="$", remedy="Send valid JSON", kind="json") from None
        return payload

    def decode_many(self, values: Sequence[bytes]) -> tuple[list[msgspec.Struct], list[int], list[Rejection]]:
        """Checks a batch of JSON texts: (payloads that pass, their indexes, rejections)."""
        try:
            # Text by text: joined to one array it would be no faster, and texts that are broken alone could make a
            # sound one together.
            payloads: list[msgspec.Struct] = list(map(self._one.decode, values))
        except NOT_JSON:
            return self._decode_each(values)  # which includes what msgspec calls a ValidationError
        return payloads, list(range(len(values))), []

    def _decode_each(self, values: Sequence[bytes]) -> tuple[list[msgspec.Struct], list[int], list[Rejection]]:
        passed: list[msgspec.Struct] = []
        indexes: list[int] = []
        rejected: list[Rejection] = []
        for index, value in enumerate(values):
            try:
                passed.append(self.decode(value))
                indexes.append(index)
            except ContractError as error:
                rejected.append(Rejection(index, str(error.facts.get("kind", "type")), error.where, error.what))
        return passed, indexes, rejected
