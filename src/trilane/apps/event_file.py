"""Files of events (NDJSON, CSV, Parquet, Arrow, Avro) as JSON texts, and their way into the log.

Laws: every row of a file is either appended or kept as a dead letter with its reason; an append is one atomic chunk,
so an interrupted ingest has appended a prefix, and repeating it is harmless because events have ids.
"""

from __future__ import annotations

import csv
import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa

from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.contract import Rejection
from trilane.errors import ConflictError, ContractError, DefinitionError, SetupError
from trilane.sources.arrival import arrivals
from trilane.sources.dead_letters import DeadLetter
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource
from trilane.sources.formats.opening import open_transcriber, records
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import sort_texts, transcribed

__all__ = ["Ingested", "ingest", "source_named", "texts_of"]

CHUNK = 5_000
_Reader = Callable[[str], Iterator[bytes]]
_encode = msgspec.json.Encoder().encode


@dataclass
class Ingested:
    """What became of a file: how many rows, and how often each reason refused one."""

    accepted: int = 0
    rejected: int = 0
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def ingest(
    project: Project,
    source: EventSource,
    path: str,
    *,
    history: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Ingested:
    """Appends the events in the file at `path` ("-": NDJSON from standard input) as arriving now.

    With `history` each event arrives when it happened, for the past that a new project starts from: the file is
    held in memory and sorted by event time. `progress` hears how many rows are done.
    """
    done = Ingested()
    texts = texts_of(path, source)
    if history:
        _append_history(project, source, texts, done, progress)
        return done
    hot = HotKeys(project.log, source)
    while portion := list(itertools.islice(texts, CHUNK)):
        now = project.clock.now()
        hot.look(now)
        found, portion = sort_texts(source, portion, hot, now=now, schemas=project.schemas)
        for partition, accepted in found.accepted.items():
            project.log.append(source.name, partition, accepted, now)
            done.accepted += len(accepted)
        _bury(project, source, portion, found.rejected, done)
        if progress is not None:
            progress(done.accepted + done.rejected)
    return done


def texts_of(path: str, source: EventSource) -> Iterator[bytes]:
    """The rows of a file as JSON texts. Raises SetupError for a file that cannot be read, or is of another kind."""
    kind = "ndjson" if path == "-" else Path(path).suffix.lower().removeprefix(".")
    readers: dict[str, _Reader] = {
        "ndjson": _ndjson,
        "jsonl": _ndjson,
        "csv": functools.partial(_csv, source),
        "parquet": _parquet,
        "arrow": _arrow,
        "avro": _avro,
    }
    if kind not in readers:
        raise SetupError(
            f"files of kind {kind!r} cannot be ingested",
            where=path,
            remedy="Give a file that ends in .ndjson, .jsonl, .csv, .parquet, .arrow or .avro, or `-` for NDJSON",
        )
    try:
        yield from readers[kind](path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"the file cannot be read: {error}", where=path, remedy="Check the path") from error


def _append_history(
    project: Project,
    source: EventSource,
    texts: Iterator[bytes],
    done: Ingested,
    progress: Callable[[int], None] | None,
) -> None:
    events: dict[int, list[tuple[int, bytes]]] = {}
    hot = HotKeys(project.log, source)
    hot.look(project.clock.now())
    decoder = decoder_of(source, project.schemas)
    while portion := list(itertools.islice(texts, CHUNK)):
        standing, places, rejected = _standing(project, source, portion)
        arrived, refused, _ = arrivals(source, decoder, standing)
        rejected += [replace(one, index=places[one.index]) for one in refused]
        for event in arrived:
            partition = hot.place(event.key, event.event_id, event.moment)
            events.setdefault(partition, []).append((event.moment, standing[event.index]))
        _bury(project, source, portion, rejected, done)
    for rows in events.values():
        rows.sort(key=lambda row: row[0])
    for partition, rows in events.items():
        _check_follows(project, source, partition, rows[0][0])
    for partition, rows in events.items():
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            moments = [at for at, _ in part]
            project.log.append(source.name, partition, [text for _, text in part], moments)
            done.accepted += len(part)
            if progress is not None:
                progress(done.accepted + done.rejected)


def _standing(
    project: Project, source: EventSource, texts: Sequence[bytes]
) -> tuple[Sequence[bytes], Sequence[int], list[Rejection]]:
    """JSON texts as they stand in the log, their places, and what cannot stand there."""
    if source.format.kind == "json":
        return texts, range(len(texts)), []
    return transcribed(texts, open_transcriber(source.format, project.schemas))


def _check_follows(project: Project, source: EventSource, partition: int, first: int) -> None:
    """Refuses history older than what the log holds: all of it would count as late."""
    end = project.log.end(source.name, partition)
    if not end:
        return
    newest = project.log.read(source.name, partition, end - 1, 1).column("arrived_at")[0].as_py()
    if first < newest - source.disorder:
        raise ConflictError(
            f"history from {format_instant(first)} cannot follow events that arrived at {format_instant(newest)}",
            where=f"source {source.name!r}",
            remedy="Ingest history into a fresh state, oldest files first, or leave --history away",
        )


def _bury(
    project: Project,
    source: EventSource,
    texts: Sequence[bytes],
    rejected: Sequence[Rejection],
    done: Ingested,
) -> None:
    now = project.clock.now()
    project.dead_letters.add(
        DeadLetter(source=source.name, code=r.code, path=r.path, reason=r.reason, payload=texts[r.index], at=now)
        for r in rejected
    )
    done.rejected += len(rejected)
    done.reasons.update((r.code, r.path, r.reason) for r in rejected)


def _ndjson(path: str) -> Iterator[bytes]:
    with _opened(path) as file:
        yield from (line for raw in file if (line := raw.strip()))


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with Path(path).open("rb") as file:
        yield file


def _csv(source: EventSource, path: str) -> Iterator[bytes]:
    kinds = {field.name: field.dtype.name for field in source.fields}
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file, restkey="", strict=True):
            # A cell too many or too few shifts the row, so nothing in it can be believed; such a text is no
            # object, so that the contract refuses it and keeps it.
            if "" in row or None in row.values():
                yield _encode([cell for cell in row.values() if cell is not None])
            else:
                yield _encode({name: _cell(text, kinds.get(name, "string")) for name, text in row.items()})


def _cell(text: str, kind: str) -> object:
    """The value of a CSV cell; one that is not of its kind stays text, for the contract to refuse."""
    if not text:
        return "" if kind == "string" else None
    try:
        if kind in ("int64", "float64"):
            return int(text) if kind == "int64" else float(text)
    except ValueError:
        return text
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def _parquet(path: str) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=CHUNK):
                yield from map(_encode, batch.to_pylist())
    except pa.ArrowException as error:
        raise ContractError(f"this is no sound Parquet file: {error}", where=path) from error
    except TypeError as error:
        remedy = "Write columns of booleans, numbers, strings and instants"
        raise ContractError(f"a column cannot be JSON: {error}", where=path, remedy=remedy) from error


def _arrow(path: str) -> Iterator[bytes]:
    """Arrow's IPC, as a file or as a stream."""
    from pyarrow import ipc

    try:
        with pa.memory_map(path) as mapped:
            try:
                with ipc.open_file(mapped) as file:
                    for number in range(file.num_record_batches):
                        yield from map(_encode, file.get_batch(number).to_pylist())
                    return
            except pa.ArrowInvalid:
                mapped.seek(0)
            with ipc.open_stream(mapped) as stream:
                for batch in stream:
                    yield from map(_encode, batch.to_pylist())
    except pa.ArrowException as error:
        raise ContractError(f"this is no sound Arrow file: {error}", where=path) from error
    except TypeError as error:
        remedy = "Write columns of booleans, numbers, strings and instants"
        raise ContractError(f"a column cannot be JSON: {error}", where=path, remedy=remedy) from error


def _avro(path: str) -> Iterator[bytes]:
    with _opened(path) as file:
        yield from map(_encode, records(file, where=path))


def source_named(sources: dict[str, EventSource], name: str) -> EventSource:
    """The event source called `name`. Raises DefinitionError that tells which there are."""
    if name not in sources:
        known = ", ".join(sorted(sources)) or "none"
        raise DefinitionError(
            f"there is no event source {name!r}", where=name, remedy=f"Event sources: {known}", file=""
        )
    return sources[name]
