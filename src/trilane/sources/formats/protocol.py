"""The promise of a decoder: values in, a table of the source's fields and the rejections out.

Laws: each value is in the table or among the rejections, never in both; rows keep the order of the log; what becomes of
a value does not depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.contract import Rejection

__all__ = ["Decoded", "Decoder", "Registered", "Schemas", "Transcriber", "Unfit", "joined"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What passed, as a table with one column a field; the places of its rows among the values; what did not pass."""

    table: pa.Table
    indexes: npt.NDArray[np.int64]
    rejections: list[Rejection]


def joined(parts: Sequence[tuple[int, Decoded]]) -> Decoded:
    """Portions of one batch together, each with the place of its first value."""
    if len(parts) == 1:
        return parts[0][1]
    return Decoded(
        pa.concat_tables([part.table for _, part in parts]).combine_chunks(),
        np.concatenate([part.indexes + start for start, part in parts]),
        [replace(one, index=one.index + start) for start, part in parts for one in part.rejections],
    )


class Decoder(Protocol):
    """Reads the values of one source."""

    def decode(self, values: pa.Array) -> Decoded:
        """The events in `values` (binary, without nulls), each checked against the contract.

        Raises UnavailableError if the schema of a value cannot be had now, with nothing decoded.
        """
        ...


class Unfit(Exception):  # noqa: N818 - it is a verdict on a schema, told as a fault or an error by who asked
    """Values of this schema cannot be read as the source's fields: `path` and `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


class Transcriber(Protocol):
    """Writes one value in plain words and back, for people; slow, and of values with all their fields."""

    def plain(self, value: bytes) -> dict[str, Any]:
        """All that `value` says. Raises ContractError if it says nothing."""
        ...

    def value(self, plain: dict[str, Any], *, like: bytes | None = None) -> bytes:
        """`plain` as a value, in the schema of the value `like`, else in the newest. Raises ContractError."""
        ...


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as a registry keeps it: its `kind` (AVRO, PROTOBUF, JSON), its text, and the texts that it refers to, by
    name, those first that others refer to. Of Protobuf, texts are serialized file descriptors in base64.
    """

    id: int
    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()


class Schemas(Protocol):
    """Where schemas are found by what values say of them."""

    def find(self, number: int) -> Registered | None:
        """The schema with this id; None if there is none. Raises UnavailableError or SetupError."""
        ...

    def latest(self, subject: str) -> Registered:
        """The newest schema of a subject. Raises UnavailableError or SetupError."""
        ...
