"""The sources that imported views read, each with just the columns that they read.

Law: a source is written only if a view needs it; what its rows or events must have besides is said in a comment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trilane.apps.feast_import.facts import Repository, SourceFacts, ViewFacts
from trilane.apps.feast_import.kinds import NAIVE, TYPES, declared, file_columns, kind_of
from trilane.apps.feast_import.page import Names, call, comment, literal, told

__all__ = ["STREAMS", "LeftOut", "Row", "Source", "Sources"]

STREAMS = ("KafkaSource", "KinesisSource", "PushSource")


@dataclass(frozen=True)
class Row:
    """What became of one object; `became` is empty where it has no counterpart."""

    kind: str
    name: str
    became: str
    notes: tuple[str, ...] = ()


@dataclass
class Source:
    """A source to be written, with the columns that were asked for so far."""

    facts: SourceFacts
    variable: str
    is_stream: bool
    timestamp: str
    path: str
    columns: dict[str, str] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


class LeftOut(Exception):  # noqa: N818 - an answer, not an error
    """Why a view is left out."""


class Sources:
    """All sources of a repository, and those that views have asked for."""

    def __init__(self, found: Repository, names: Names, folder: Path, out: Path) -> None:
        self.facts = {source.name: source for source in found.sources}
        self._found = found
        self._names = names
        self._folder, self._out = folder, out
        self._asked: dict[str, Source] = {}
        self._files: dict[str, dict[str, str] | None] = {}

    def rows(self) -> list[Row]:
        """What became of each."""
        found = []
        for name, facts in self.facts.items():
            source = self._asked.get(name)
            if source is not None:
                became = f"tl.{'EventSource' if source.is_stream else 'TableSource'} {source.variable}"
                found.append(Row(facts.kind, name, became, tuple(source.notes)))
            elif facts.kind == "RequestSource":
                found.append(Row(facts.kind, name, "inputs= of request views"))
            else:
                found.append(Row(facts.kind, name, "", ("no view that was imported reads it",)))
        return found

    def blocks(self) -> list[list[str]]:
        """A block for each that was asked for."""
        return [_block(source) for source in self._asked.values()]

    def columns(self, source: SourceFacts, view: ViewFacts) -> dict[str, str]:
        """The types of the fields, by the names that the view knows them by."""
        by_name = {entity.name: entity for entity in self._found.entities}
        keys = {by_name[n].join_key: kind_of(by_name[n].type) or "" for n in view.entities if n in by_name}
        known = {
            **{k: v for k, v in keys.items() if v},
            **declared(source.fields),
            **declared((*view.keys, *view.fields)),
        }
        there = self._file(source)
        return known if there is None else {**known, **{source.renamed.get(k, k): v for k, v in there.items()}}

    def _file(self, source: SourceFacts) -> dict[str, str] | None:
        local = source.kind in ("FileSource", "SparkSource") and source.path and "://" not in source.path
        if source.name not in self._files:
            self._files[source.name] = file_columns(self._folder / source.path) if local else None
        return self._files[source.name]

    def ask(self, facts: SourceFacts, timestamp: str = "") -> Source:
        """The source of `facts`, which is then written. Raises LeftOut."""
        if facts.name not in self._asked:
            wanted = Path(facts.name).stem if facts.name == facts.path else facts.name
            is_stream = facts.kind in STREAMS
            variable = self._names.give(wanted, other=f"{wanted}_source")
            source = Source(facts, variable, is_stream, timestamp or facts.timestamp, self._path(facts))
            if not source.timestamp:
                raise LeftOut(f"its source {facts.name!r} has no timestamp_field")
            self._asked[facts.name] = source
            self.need(source, {source.timestamp: "timestamp"}, required=True)
            source.notes += self._remarks(facts, source)
        return self._asked[facts.name]

    def _remarks(self, facts: SourceFacts, source: Source) -> list[str]:
        if source.is_stream:
            return [
                "each event needs an event_id, by which a repetition is known",
                "send events to POST /v1/events/"
                + source.variable
                + ", or ingest them"
                + (f" (Feast: {facts.reads})" if facts.reads else ""),
            ]
        there = self._file(facts)
        if there is None:
            reads = facts.reads or facts.path
            return [f"write the rows of {reads or 'its table'} as Parquet to {source.path}, where they are looked for"]
        if there.get(source.timestamp) == NAIVE:
            return [f"{source.timestamp} has no time zone: write it as UTC, else the file is refused when it is read"]
        return []

    def _path(self, facts: SourceFacts) -> str:
        if not facts.path or "://" in facts.path:
            return f"data/{Path(facts.name).stem}.parquet"
        whole = (self._folder / facts.path).resolve()
        return Path(os.path.relpath(whole, self._out.resolve())).as_posix()

    def need(self, source: Source, columns: Mapping[str, str], *, required: bool = False) -> None:
        """Has the source declare columns, by the names that views know them by."""
        back = {new: old for old, new in source.facts.renamed.items()}
        for name, kind in columns.items():
            source.columns.setdefault(back.get(name, name), kind)
            if required:
                source.required.add(back.get(name, name))


def _block(source: Source) -> list[str]:
    facts = source.facts
    columns = dict(source.columns)
    identity = "event_id"
    if source.is_stream and columns.get(identity) not in ("string", "int64"):
        columns = {identity: "string", **columns}
    required = {*source.required, *([identity] if source.is_stream else [])}
    schema = {name: TYPES[kind] + ("" if name in required else " | None") for name, kind in columns.items()}
    delay = f'"{max(1, round(facts.delay))}s"' if source.is_stream and facts.delay else ""
    options: dict[str, str | Mapping[str, str]] = {
        "schema": schema,
        "path": "" if source.is_stream else literal(source.path),
        "event_time": literal(source.timestamp),
        "event_id": literal(identity) if source.is_stream else "",
        "disorder": delay,
        **told(facts.owner, facts.tags),
        "description": literal(facts.description.strip()) if facts.description.strip() else "",
    }
    kind = "EventSource" if source.is_stream else "TableSource"
    header = f'Feast: {facts.kind} "{facts.name}"'
    written = call(f"{source.variable} = tl.{kind}", literal(source.variable), options=options)
    return [*comment(header, *(f"- {note}" for note in source.notes)), *written]
