"""What a field's values must be beyond their type: ranges, lengths, patterns, enumerations.

Law: a constraint looks at one value; null is the business of nullability alone. It is enforced by the decoder that
checks the type, so a field without one costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from trilane.clock import format_instant, instant
from trilane.errors import DefinitionError

__all__ = ["Check", "Value", "bound_text", "broken_bound", "check", "narrowed"]

Value = str | int | float

_BOUNDS = ("ge", "gt", "le", "lt")
_FITTING = {
    "int64": {*_BOUNDS, "multiple_of", "one_of"},
    "float64": {*_BOUNDS, "multiple_of"},
    "string": {"one_of", "pattern", "min_length", "max_length"},
    "timestamp": {*_BOUNDS},
    "bool": set[str](),
}


@dataclass(frozen=True, slots=True)
class Check:
    """The constraints of one field, by name: those of `check`."""

    rules: tuple[tuple[str, Value | tuple[Value, ...]], ...]

    def fit(self, kind: str, *, where: str) -> None:
        """Raises DefinitionError if the constraints contradict the type or one another."""
        given = dict(self.rules)
        strays = sorted(given.keys() - _FITTING[kind])
        if strays:
            can = ", ".join(sorted(_FITTING[kind])) or "no constraint"
            raise DefinitionError(f"{strays[0]}= does not fit a {kind}", where=where, remedy=f"It can have {can}")
        choices = given.get("one_of")
        wanted = {"string": str, "int64": int}.get(kind)
        if isinstance(choices, tuple) and (
            not choices or any(not isinstance(v, wanted or ()) or isinstance(v, bool) for v in choices)
        ):
            raise DefinitionError(
                f"one_of={choices!r} are no values of a {kind}", where=where, remedy="Name its values"
            )
        bounds = {name: _comparable(value, kind, where) for name, value in given.items() if name in _BOUNDS}
        low, high = _low(bounds), _high(bounds)
        if low is not None and high is not None and low[0] > high[0]:
            raise DefinitionError(f"no value lies in {self}", where=where, remedy="Correct the bounds")
        if int(str(given.get("min_length", 0))) > int(str(given.get("max_length", 2**62))):
            raise DefinitionError(f"no value has the length {self}", where=where, remedy="Correct the lengths")

    def meta(self) -> msgspec.Meta | None:
        """What the decoder checks by itself: all but `one_of` and the bounds of instants."""
        plain: dict[str, Any] = {
            name: value for name, value in self.rules if name != "one_of" and not _is_instant(name, value)
        }
        return msgspec.Meta(**plain) if plain else None

    @property
    def choices(self) -> object | None:
        """The enumeration as a type, if there is one."""
        found = dict(self.rules).get("one_of")
        return None if found is None else Literal[found]

    @property
    def instants(self) -> tuple[tuple[str, int], ...]:
        """The bounds of an instant, in microseconds."""
        return tuple((name, instant(str(value))) for name, value in self.rules if _is_instant(name, value))

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.rules)


def check(
    *,
    ge: float | str | None = None,
    gt: float | str | None = None,
    le: float | str | None = None,
    lt: float | str | None = None,
    multiple_of: float | None = None,
    one_of: tuple[str | int, ...] | list[str | int] | list[str] | list[int] | None = None,
    pattern: str | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
) -> Check:
    """Constraints of a field, to be written as `Annotated[tl.Float64, tl.check(ge=0, le=1e6)]`.

    Bounds are of numbers, or of instants as RFC 3339 text; lengths are in characters; `pattern` is a regular expression
    of Python that must match somewhere in the text.

    >>> check(ge=0, le=10)
    Check(rules=(('ge', 0), ('le', 10)))
    """
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise DefinitionError(f"pattern={pattern!r}: {error}", remedy="Correct the regular expression") from None
    given = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "multiple_of": multiple_of,
        "one_of": None if one_of is None else tuple(one_of),
        "pattern": pattern,
        "min_length": min_length,
        "max_length": max_length,
    }
    rules = tuple((name, value) for name, value in given.items() if value is not None)
    if not rules or ("ge" in dict(rules) and "gt" in dict(rules)) or ("le" in dict(rules) and "lt" in dict(rules)):
        what = "a check needs a constraint" if not rules else "a side is bounded twice"
        raise DefinitionError(what, remedy="Write tl.check(ge=0), with one lower and one upper bound at most")
    return Check(rules)


def broken_bound(name: str, bound: int, at: int) -> bool:
    """Whether the instant `at` breaks the bound."""
    return not {"ge": at >= bound, "gt": at > bound, "le": at <= bound, "lt": at < bound}[name]


def bound_text(name: str, bound: int) -> str:
    """The bound in the words of the decoder."""
    sign = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}[name]
    return f"Expected `timestamp` {sign} {format_instant(bound)}"


def narrowed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The constraints by which values that were allowed may now be refused; patterns are compared by their text.

    >>> narrowed({"ge": 0}, {"ge": -1}), narrowed({"ge": 0}, {"gt": 0}), narrowed({"one_of": ["a"]}, {"pattern": "."})
    ([], ['gt=0'], ["pattern='.'"])
    """
    found = []
    for name, value in after.items():
        if name in ("ge", "gt"):
            fits = _inside(_low(before), _low({name: value}), 1)
        elif name in ("le", "lt"):
            fits = _inside(_high(before), _high({name: value}), -1)
        elif name == "one_of":
            fits = "one_of" in before and set(before["one_of"]) <= set(value)
        elif name in ("min_length", "max_length"):
            old = before.get(name)
            fits = old is not None and (old >= value if name == "min_length" else old <= value)
        else:
            fits = before.get(name) == value
        if not fits:
            found.append(f"{name}={value!r}")
    return found


def _low(rules: Mapping[str, Any]) -> tuple[Any, int] | None:
    """The lower bound, and whether it is open."""
    return next(((rules[name], int(name == "gt")) for name in ("ge", "gt") if name in rules), None)


def _high(rules: Mapping[str, Any]) -> tuple[Any, int] | None:
    return next(((rules[name], -int(name == "lt")) for name in ("le", "lt") if name in rules), None)


def _inside(old: tuple[Any, int] | None, new: tuple[Any, int] | None, sign: int) -> bool:
    if old is None or new is None:
        return new is None
    (was, was_open), (is_, is_open) = _instants(old), _instants(new)
    return (was, was_open) >= (is_, is_open) if sign > 0 else (was, was_open) <= (is_, is_open)


def _instants(bound: tuple[Any, int]) -> tuple[Any, int]:
    value, is_open = bound
    return (instant(value), is_open) if isinstance(value, str) else bound


def _is_instant(name: str, value: object) -> bool:
    return name in _BOUNDS and isinstance(value, str)


def _comparable(value: object, kind: str, where: str) -> Any:  # noqa: ANN401 - a number or an instant
    if isinstance(value, str) != (kind == "timestamp"):
        what = f"the bound {value!r} is {'a text' if isinstance(value, str) else 'no RFC 3339 text'}"
        raise DefinitionError(what, where=where, remedy="Bound numbers by numbers, and instants by RFC 3339 texts")
    if not isinstance(value, str):
        return value
    try:
        return instant(value)
    except DefinitionError as error:
        raise DefinitionError(error.what, where=where, remedy=error.remedy) from None
