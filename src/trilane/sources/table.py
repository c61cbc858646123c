"""Table sources: rows that somebody else lands, each with an instant from which it was known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trilane.errors import DefinitionError
from trilane.sources.about import About
from trilane.sources.expectation import Volume
from trilane.sources.rule import Rule, Unique, compiled
from trilane.types import Field, fields_of

__all__ = ["TableSource"]


@dataclass(frozen=True, init=False)
class TableSource:
    """A declared table of Parquet or CSV files, or of an open format.

    `path`: a file or glob, relative to the project; `event_time`: the Timestamp column from which a row was known;
    `format`: "delta" or "iceberg" if `path` is the folder of such a table; `version`: the one to read of it (default:
    the newest); `owner`, `tags`, `description`: for those who look for it.
    `rules`: what must hold in each row, and which columns are unique; `volume`: how many rows a period brings.
    """

    name: str
    fields: tuple[Field, ...]
    path: str
    event_time: str
    about: About
    rules: tuple[Rule, ...]
    unique: tuple[Unique, ...]
    volume: Volume | None
    format: str | None
    version: int | None

    def __init__(
        self,
        name: str,
        *,
        schema: type | Mapping[str, object],
        path: str,
        event_time: str,
        format: str | None = None,
        version: int | None = None,
        owner: str = "",
        tags: Sequence[str] = (),
        description: str = "",
        rules: Sequence[Rule | Unique] = (),
        volume: Volume | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "fields", fields_of(schema))
        put(self, "path", path)
        put(self, "event_time", event_time)
        put(self, "format", format)
        put(self, "version", version)
        self._check_format()
        where = f"table source {name!r}"
        put(self, "about", About.of(owner, tags, description, where=where))
        put(self, "unique", tuple(rule for rule in rules if isinstance(rule, Unique)))
        put(self, "rules", compiled([r for r in rules if not isinstance(r, Unique)], self.fields, where=where))
        put(self, "volume", volume)
        for column in (column for rule in self.unique for column in rule.columns):
            if self.field(column) is None:
                raise DefinitionError(
                    f"unique names {column!r}, which the schema lacks", where=where, remedy="Name one of its fields"
                )
        found = self.field(event_time)
        if found is None or found.dtype.name != "timestamp":
            raise DefinitionError(
                f"event_time names {event_time!r}, which is no Timestamp of the schema",
                where=where,
                remedy="Name the column that says when a row became known",
            )

    def _check_format(self) -> None:
        where = f"table source {self.name!r}"
        if self.format not in (None, "delta", "iceberg"):
            raise DefinitionError(
                f"format {self.format!r} is not known",
                where=where,
                remedy='Write "delta" or "iceberg", or leave it out for Parquet and CSV files',
            )
        if self.version is not None and self.format is None:
            raise DefinitionError("files have no version", where=where, remedy='Add format="delta" or "iceberg"')

    def field(self, name: str) -> Field | None:
        """The field called `name`, if there is one."""
        return next((f for f in self.fields if f.name == name), None)

    def spec(self) -> dict[str, object]:
        """What identifies the source's data, as plain facts."""
        return {
            "kind": "table_source",
            "name": self.name,
            "fields": [f.spec() for f in self.fields],
            "path": self.path,
            "event_time": self.event_time,
            **({"format": self.format} if self.format else {}),
            **({} if self.version is None else {"version": self.version}),
            **self.about.spec(),
            "rules": [*(rule.spec() for rule in self.rules), *(rule.spec() for rule in self.unique)],
            "volume": None if self.volume is None else self.volume.spec(),
        }
