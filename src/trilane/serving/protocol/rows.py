"""Request bodies as checked rows: one object, `{"rows": [...]}` or `{"columns": {...}}`, in JSON or MessagePack.

Law: what is refused is refused before any work, with the path to the fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import orjson

from trilane.contract import NOT_JSON, Contract, malformed, split_message
from trilane.errors import ContractError
from trilane.serving.reading import Asked

__all__ = ["RowFormat", "checked_columns", "checked_floats"]

_Decoder: TypeAlias = msgspec.json.Decoder[Any] | msgspec.msgpack.Decoder[Any]
_LONG = 65_536  # bytes
_JSON, _MSGPACK = "JSON", "MessagePack"


class RowFormat:
    """Decodes request bodies of one contract: with at most `max_rows`, refused with HTTP status `over` if more.

    `columns`: whether the columns of many rows are taken as well.
    """

    def __init__(self, contract: Contract, *, max_rows: int = 2_000, over: int = 422, columns: bool = False) -> None:
        self._contract, self._max_rows, self._over, self._columns = contract, max_rows, over, columns
        struct = contract.struct
        bodies: dict[str, Any] = {
            "one": struct,
            "rows": msgspec.defstruct("Body", [("rows", list[struct])]),  # type: ignore[valid-type]
            "columns": msgspec.defstruct("Body", [("columns", _columns(contract))]),
        }
        self._json: dict[str, _Decoder] = {name: msgspec.json.Decoder(body) for name, body in bodies.items()}
        self._one = self._json["one"].decode
        self._packed: dict[str, _Decoder] = {name: msgspec.msgpack.Decoder(body) for name, body in bodies.items()}

    def decode(self, body: bytes) -> list[msgspec.Struct]:
        """The rows of a JSON body. Raises ContractError with the JSON path to what is wrong."""
        return self.rows(body)

    def rows(self, body: bytes, *, packed: bool = False) -> list[msgspec.Struct]:
        """As `asked`, for what takes no columns."""
        if not (packed or self._columns or b'"rows"' in body):
            try:
                return [self._one(body)]  # what nearly all send; any fault is told by the closer look
            except (*NOT_JSON, msgspec.ValidationError):
                pass
        rows = self.asked(body, packed=packed)
        return rows if isinstance(rows, list) else []  # the form that takes no columns gives none

    def asked(self, body: bytes, *, packed: bool = False) -> list[msgspec.Struct] | Asked:
        """The rows of a JSON body, or of a MessagePack one: as columns if they came as columns."""
        rows = self._decoded(body, self._packed if packed else self._json, _MSGPACK if packed else _JSON)
        where = "$.columns" if isinstance(rows, Asked) else "$.rows"
        self.check_number(len(rows), where)
        if packed:  # JSON has no NaN and no infinity
            self._check_floats(rows)
        return rows

    def check_number(self, rows: int, where: str) -> None:
        """Raises ContractError if these are no rows, or too many."""
        if not 0 < rows <= self._max_rows:
            status = {"status": self._over} if rows and self._over != 422 else {}
            raise ContractError(
                f"{rows} rows", where=where, remedy=f"Send 1 to {self._max_rows} rows in a request", **status
            )

    def _decoded(self, body: bytes, decoders: Mapping[str, _Decoder], language: str) -> list[msgspec.Struct] | Asked:
        try:
            read = _read_long(body) if len(body) > _LONG and language == _JSON else None
            for word in ("rows", "columns") if self._columns else ("rows",):
                if word.encode() not in body:
                    continue
                try:
                    decoder = decoders[word]
                    found = getattr(read(decoder.type) if read else decoder.decode(body), word)
                except msgspec.ValidationError as error:
                    if str(error) != f"Object missing required field `{word}`":
                        raise
                    continue  # the word stands elsewhere in a single row
                return found if word == "rows" else _as_asked(found, self._contract)
            one = decoders["one"]
            return [read(one.type) if read else one.decode(body)]
        except msgspec.ValidationError as error:
            reason, path = split_message(str(error))
            names = ", ".join(f.name for f in self._contract.fields)
            raise ContractError(reason, where=path, remedy=f"A row of {self._contract.name!r} has {names}") from None
        except NOT_JSON as error:
            what = malformed(body, error) if language == _JSON else f"malformed MessagePack: {error}"
            raise ContractError(what, where="$", remedy=f"Send valid {language}", status=400) from None

    def _check_floats(self, rows: list[msgspec.Struct] | Asked) -> None:
        for field in self._contract.fields:
            if field.dtype.name != "float64":
                continue
            if isinstance(rows, Asked):
                checked_floats(rows.columns[field.name], f"$.columns.{field.name}[%d]", nullable=field.nullable)
            else:
                values = [getattr(row, field.name) for row in rows]
                path = f"$.rows[%d].{field.name}" if len(rows) > 1 else f"$.{field.name}"
                checked_floats(values, path, nullable=field.nullable)


def _read_long(body: bytes) -> Callable[[Any], Any]:
    """What reads a JSON body as a type. msgspec takes 20 us for a number such as 1e308, and a body may have a million;
    orjson knows no slow ones, and is nearly as quick otherwise.
    """
    try:
        plain = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    return lambda kind: msgspec.convert(plain, kind)


def checked_floats(values: Sequence[Any], path: str, *, nullable: bool) -> None:
    """Raises ContractError for an infinity, and for NaN where no null is allowed."""
    for place, value in enumerate(values):
        if value is not None and not math.isfinite(value) and not (nullable and value != value):  # noqa: PLR0124
            where = path % place if "%d" in path else path
            raise ContractError(f"{value} is no finite number", where=where, remedy="Send a number, or null if allowed")


def checked_columns(columns: Mapping[str, Sequence[object] | None]) -> Asked:
    """Columns of equal length, those that were left out filled with nulls. Raises ContractError."""
    sizes = {name: len(values) for name, values in columns.items() if values is not None}
    size = next(iter(sizes.values()), 0)
    for name, own in sizes.items():
        if own != size:
            raise ContractError(
                f"{own} values where {next(iter(sizes))!r} has {size}",
                where=f"$.columns.{name}",
                remedy="Send a value, or null, for each row",
            )
    filled = {name: [None] * size if values is None else values for name, values in columns.items()}
    return Asked(filled, size)


def _as_asked(columns: msgspec.Struct, contract: Contract) -> Asked:
    return checked_columns({field.name: getattr(columns, field.name) for field in contract.fields})


def _columns(contract: Contract) -> type[msgspec.Struct]:
    """The class of a table of the contract's fields; a column more is refused, for it may be one misspelt."""
    fields: list[Any] = []
    for field in contract.fields:
        one: Any = field.annotation
        if field.nullable:
            fields.append((field.name, list[one | None] | None, None))
        else:
            fields.append((field.name, list[one]))
    return msgspec.defstruct("Columns", fields, kw_only=True, forbid_unknown_fields=True)
