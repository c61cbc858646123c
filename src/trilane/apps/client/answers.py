"""What a server answered, as values or as the error that it told.

Laws: an answer is taken whole or refused: what is not of the promised form raises ContractError and is never guessed
at; an error keeps its class, path and remedy on its way through HTTP, and gains `status` and `request_id`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.errors import (
    ConflictError,
    ContractError,
    DefinitionError,
    ModelError,
    SetupError,
    TrilaneError,
    UnavailableError,
    WorkflowError,
)
from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import STATUSES
from trilane.serving.protocol.arrow import as_batch, reasons_in
from trilane.serving.protocol.features import reasons
from trilane.serving.reading import Fault, Reading

__all__ = [
    "Answered",
    "Decided",
    "Features",
    "Readiness",
    "Refused",
    "Sent",
    "decisions_of",
    "error_of",
    "explanation_of",
    "features_of",
    "joined",
    "readiness_of",
    "sent_of",
]

_ERRORS = (ConflictError, ContractError, DefinitionError, ModelError, SetupError, UnavailableError, WorkflowError)
_BY_CODE: dict[str, type[TrilaneError]] = {error.code: error for error in _ERRORS}
T = TypeVar("T")
_LONGEST = 200  # characters of an answer that no Trilane wrote, in an error
_CODES = {word: code for code, word in enumerate(STATUSES)}


@dataclass(frozen=True, slots=True)
class Answered:
    """A response. `where`: the request it answers; `id`: the request's; `header`: bytes of JSON before binary parts."""

    status: int
    media: str
    body: bytes
    where: str
    id: str = ""
    retry_after: float = 0.0
    header: int = 0


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: `statuses` names the features that are not fresh, by status; `why` says what degraded it, and
    `rung` what of the endpoint's ladder made it.
    """

    id: str
    score: float
    degraded: bool
    why: tuple[str, ...]
    statuses: dict[str, tuple[str, ...]]
    positive: bool | None = None
    bundle: str = ""
    rung: str = ""


class Refused(msgspec.Struct, frozen=True):
    """One event that was refused: its `index` among those sent, and why."""

    index: int
    code: str
    path: str
    reason: str


class Sent(msgspec.Struct, frozen=True):
    """How many events the log took, and which were refused."""

    accepted: int
    rejected: tuple[Refused, ...] = ()


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every deployed endpoint answers; true in a condition if so."""

    ready: bool
    reason: str | None = None
    endpoints: tuple[str, ...] = ()
    errors: dict[str, str] = {}
    waiting_for: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ready


@dataclass(frozen=True, eq=False)
class Features:
    """Feature values of rows: `values` (float64, NaN where missing), `statuses` (text) and `ages` (seconds), each
    [rows, names]; `why`: what made values worse than promised.
    """

    names: tuple[str, ...]
    values: Floats
    statuses: npt.NDArray[np.str_]
    ages: Floats
    why: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> Floats:
        """The values of one feature, for each row. Raises DefinitionError for one that was not asked for."""
        if name not in self.names:
            remedy = f"It is of {', '.join(self.names)}"
            raise DefinitionError(f"there is no feature {name!r} in this answer", where=name, remedy=remedy)
        found: Floats = self.values[:, self.names.index(name)]
        return found

    def to_arrow(self) -> pa.Table:
        """A table with the columns `name`, `name:status` and `name:age_s` of each feature, null where missing."""
        codes = np.array([_CODES[word] for word in self.statuses.ravel().tolist()], np.uint8)
        ages = np.rint(self.ages * 1e6).astype(np.int64)
        faults = tuple(map(Fault, self.why))
        whole = Reading(self.values, codes.reshape(self.values.shape), ages, faults)
        return pa.Table.from_batches([as_batch(self.names, whole, {})])

    @staticmethod
    def of(names: Sequence[str], reading: Reading) -> Features:
        """What a reader read."""
        words = np.array(STATUSES)[reading.statuses]
        return Features(tuple(names), reading.values, words, reading.ages / 1e6, tuple(reasons(reading.faults)))


class _Row(msgspec.Struct):
    values: list[float | None]
    statuses: dict[str, list[str]] = {}
    ages_s: dict[str, float] = {}


class _Rows(msgspec.Struct):
    names: list[str]
    rows: list[_Row]
    ages_s: dict[str, float]
    why: tuple[str, ...]


class _Decisions(msgspec.Struct):
    bundle: str
    decisions: list[Decided]


class _Told(msgspec.Struct):
    error: dict[str, Any]


def features_of(answer: Answered, rows: int) -> Features:
    """The features of `rows` rows. Raises the error that was told, or ContractError."""
    _check(answer)
    try:
        found = _of_table(answer.body) if "arrow" in answer.media else _of_rows(answer.body)
    except (msgspec.MsgspecError, pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise _malformed(answer, error) from None
    if len(found) != rows:
        raise _malformed(answer, f"{len(found)} rows, and {rows} were asked for")
    return found


def decisions_of(answer: Answered, rows: int) -> list[Decided]:
    """The decisions about `rows` rows. Raises the error that was told, or ContractError."""
    _check(answer)
    found = _decoded(answer, _Decisions)
    if len(found.decisions) != rows:
        raise _malformed(answer, f"{len(found.decisions)} decisions, and {rows} were asked for")
    return [msgspec.structs.replace(one, bundle=found.bundle) for one in found.decisions]


def sent_of(answer: Answered, first: int) -> Sent:
    """What became of events, the first of which was number `first`. Raises the error that was told."""
    if answer.status != 422 or b'"error"' in answer.body[:16]:
        _check(answer)
    found = _decoded(answer, Sent)
    moved = (Refused(one.index + first, one.code, one.path, one.reason) for one in found.rejected)
    return Sent(found.accepted, tuple(moved))


def readiness_of(answer: Answered) -> Readiness:
    """Whether the server is ready, and why not."""
    if answer.status != 503:
        _check(answer)
    return _decoded(answer, Readiness)


def explanation_of(answer: Answered) -> dict[str, object]:
    """The record of a decision. Raises the error that was told."""
    _check(answer)
    return _decoded(answer, dict[str, object])


def joined(parts: Sequence[Features]) -> Features:
    """Portions of one read, in order, as one answer."""
    if len(parts) == 1:
        return parts[0]
    why = dict.fromkeys(reason for part in parts for reason in part.why)
    values, statuses, ages = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "statuses", "ages")
    )
    return Features(parts[0].names, values, statuses, ages, tuple(why))


class _ToldPlainly(msgspec.Struct):
    """An error as the Open Inference Protocol has it: one sentence, and our code and path beside it."""

    error: str
    code: str
    where: str = ""


def error_of(answer: Answered) -> TrilaneError:
    """The error that an answer tells, of the class that its code names; by its status if no Trilane wrote it."""
    facts: dict[str, Any] = {"status": answer.status, "request_id": answer.id}
    kind: type[TrilaneError] = TrilaneError
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        plain = msgspec.json.decode(answer.body, type=_ToldPlainly)
        what = plain.error.removeprefix(f"{plain.where}: ")
        kind = _BY_CODE.get(plain.code, kind)
        facts |= _facts_of(kind, answer.status)
        return kind(what, where=plain.where or answer.where, **facts)
    try:
        told = msgspec.json.decode(answer.body, type=_Told).error
        code, what = str(told.pop("code")), str(told.pop("what"))
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        text = answer.body[:_LONGEST].decode(errors="replace")
        kind = UnavailableError if answer.status in (429, 502, 503, 504) else ContractError
        remedy = "Check that a Trilane server answers at this URL, and what stands before it"
        return kind(f"HTTP {answer.status}: {text}", where=answer.where, remedy=remedy, **facts)
    kind = _BY_CODE.get(code, TrilaneError)
    where, remedy = str(told.pop("where", "")) or answer.where, str(told.pop("remedy", ""))
    facts |= _facts_of(kind, answer.status)
    return kind(what, where=where, remedy=remedy, **{**told, **facts})


def _facts_of(kind: type[TrilaneError], status: int) -> dict[str, Any]:
    """What is to be known of an error that was not found here: it has no line of the author's own."""
    return {**({"overload": True} if status == 429 else {}), **({"file": ""} if kind is DefinitionError else {})}


def _check(answer: Answered) -> None:
    if not 200 <= answer.status < 300:
        raise error_of(answer)


def _decoded(answer: Answered, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _malformed(answer, error) from None


def _malformed(answer: Answered, error: object) -> ContractError:
    return ContractError(
        f"this is no answer of a Trilane server: {error}",
        where=answer.where,
        remedy="Check the URL, what stands before the server, and that both are of one release",
        status=answer.status,
        request_id=answer.id,
    )


def _of_rows(body: bytes) -> Features:
    found = msgspec.json.decode(body, type=_Rows)
    names = tuple(found.names)
    shape = len(found.rows), len(names)
    values = np.array([[np.nan if v is None else v for v in row.values] for row in found.rows]).reshape(shape)
    place = {name: number for number, name in enumerate(names)}
    statuses = np.full(shape, STATUSES[0], np.array(STATUSES).dtype)
    ages = np.tile(np.array([found.ages_s[name.partition(".")[0]] for name in names]), (shape[0], 1))
    for number, row in enumerate(found.rows):
        for word, worse in row.statuses.items():
            statuses[number, [place[name] for name in worse]] = STATUSES[_CODES[word]]
        for name, age in row.ages_s.items():
            ages[number, place[name]] = age
    return Features(names, values, statuses, ages, found.why)


def _of_table(body: bytes) -> Features:
    with pa.ipc.open_stream(body) as stream:
        table = stream.read_all()
    names = tuple(name for name in table.column_names if ":" not in name)
    columns: Mapping[str, list[Any]] = {
        kind: [table.column(f"{name}{kind}") for name in names] for kind in ("", ":status", ":age_s")
    }
    shape = table.num_rows, len(names)
    values, ages, codes = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
    for at in range(len(names)):
        values[:, at] = columns[""][at].to_numpy()
        ages[:, at] = columns[":age_s"][at].to_numpy()
        codes[:, at] = _codes_of(columns[":status"][at].combine_chunks())
    return Features(names, values, np.array(STATUSES)[codes], ages, reasons_in(table.schema))


def _codes_of(column: pa.Array) -> Ints:
    one = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    own = np.array([_CODES[word] for word in one.dictionary.to_pylist()], np.int64)
    found: Ints = own[one.indices.to_numpy()]
    return found
