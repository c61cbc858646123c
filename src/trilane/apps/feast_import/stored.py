"""Feast's stored views, and the entities and sources they need, as Trilane definitions.

Laws: a view that cannot mean the same is left out with the reason, and so is a feature; a source declares just the
columns that its views read; a `ttl` becomes the window, whose hop divides both it and the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping

from trilane.apps.feast_import.facts import Aggregated, Repository, SourceFacts, ViewFacts
from trilane.apps.feast_import.kinds import TYPES
from trilane.apps.feast_import.page import Names, Options, call, comment, function, literal, quoted_source, told
from trilane.apps.feast_import.sources import STREAMS, LeftOut, Row, Sources
from trilane.clock import SECOND, duration, format_duration
from trilane.features.window import LADDER, default_hop

__all__ = ["StoredViews"]

_NUMERIC = ("bool", "int64", "float64")
_FUNCTIONS = {
    "avg": "mean",
    "count": "count",
    "count_distinct": "distinct",
    "max": "max",
    "mean": "mean",
    "min": "min",
    "std": "stddev",
    "sum": "sum",
    "var": "variance",
}


class StoredViews:
    """Translates one view after the other; `features` maps each view's features in Feast to those here."""

    def __init__(
        self, found: Repository, names: Names, views: Mapping[str, str], sources: Sources, schedule: str
    ) -> None:
        self.rows: list[Row] = []
        self.features: dict[str, dict[str, str]] = {}
        self._found = found
        self._names = names
        self._views = views
        self._schedule = duration(schedule)
        self.sources = sources
        self._entities: dict[tuple[tuple[str, str], ...], tuple[str, list[str]]] = {}

    def view(self, view: ViewFacts) -> list[str]:
        """The block of a view, or the comment that says why there is none."""
        header = f'Feast: {view.kind} "{view.name}"'
        notes: list[str] = []
        try:
            block = self._view(view, notes)
        except LeftOut as reason:
            self.features.pop(view.name, None)
            self.rows.append(Row(view.kind, view.name, "", (f"left out: {reason}", *notes)))
            was = quoted_source(view.function) if view.function else []
            return [*comment(header, f"- left out: {reason}", *(f"- {note}" for note in notes)), *was]
        name = self._views[view.name]
        if name != view.name:
            notes.insert(0, f"is called {name} here")
        lane = "nearline" if self._is_stream(view) else "batch"
        self.rows.append(Row(view.kind, view.name, f"@tl.{lane} {name}", tuple(notes)))
        return [*comment(header, *(f"- {note}" for note in notes)), *block]

    def labels(self, view: ViewFacts) -> None:
        """The labels of a LabelView are the spine of a model: its table alone is written."""
        batch = self.sources.facts.get(view.batch_source or "")
        notes: list[str] = []
        try:
            if batch is None:
                raise LeftOut("it has no table")
            keys = self._keys(view, self.sources.columns(batch, view))
            source = self.sources.ask(batch)
            self.sources.need(source, keys, required=True)
            columns = self.sources.columns(batch, view)
            self.sources.need(source, {f.name: columns[f.name] for f in view.fields if columns.get(f.name) in TYPES})
        except LeftOut as reason:
            self.rows.append(Row(view.kind, view.name, "", (f"left out: {reason}",)))
            return
        note = "labels are the spine of a tl.Model: give its rows what the model's views and requests need"
        self.rows.append(Row(view.kind, view.name, f"tl.TableSource {source.variable}", (note, *notes)))

    def entity_blocks(self) -> list[list[str]]:
        """A block for each combination of entities that a view is about."""
        blocks, used = [], set()
        by_name = {entity.name: entity for entity in self._found.entities}
        for keys, (variable, names) in self._entities.items():
            used.update(names)
            quoted = ", ".join(f'"{name}"' for name in names)
            told = [by_name[name].description for name in names if by_name[name].description]
            text = ", ".join(f"{name}={TYPES[kind]}" for name, kind in keys)
            blocks.append([*comment(f"Feast: Entity {quoted}", *told), f'{variable} = tl.Entity("{variable}", {text})'])
        for entity in self._found.entities:
            became = [variable for variable, names in self._entities.values() if entity.name in names]
            notes = () if became else ("no view that was imported is about it",)
            lost = [word for word, value in (("tags", entity.tags), ("owner", entity.owner)) if value]
            more = (f"{' and '.join(lost)}: an entity has none",) if lost else ()
            told_row = f"tl.Entity {', '.join(became)}" if became else ""
            self.rows.insert(0, Row("Entity", entity.name, told_row, (*notes, *more)))
        return blocks

    def _is_stream(self, view: ViewFacts) -> bool:
        return view.source in self.sources.facts and self.sources.facts[view.source].kind in STREAMS

    def _view(self, view: ViewFacts, notes: list[str]) -> list[str]:
        if view.derived_from:
            raise LeftOut(f"it is derived from {', '.join(view.derived_from)}; derive its columns from their source")
        batch = self.sources.facts.get(view.batch_source or "")
        if view.source is None and batch is None:
            raise LeftOut("it has no source")
        if view.function:
            raise LeftOut(f"its function ({view.mode}) must be written as an expression over an Ibis table. It was:")
        if not view.online:
            notes.append("online=False: here it is served like any other")
        stream = self.sources.facts[view.source] if view.source and self._is_stream(view) else None
        columns = self.sources.columns(batch or self.sources.facts[str(view.source)], view)
        keys = self._keys(view, columns)
        features = self._features(view, columns, keys, batch, notes)
        entity = self._entity(view, keys)
        self.features[view.name] = {name: name for name, _ in features}
        if stream is None and batch is not None:
            return self._batch_block(view, self._views[view.name], batch, entity, keys, columns, features, notes)
        assert stream is not None  # noqa: S101 - a view without a batch source has a stream, or was left out
        return self._nearline_block(view, stream, batch, entity, keys, columns, features, notes)

    def _keys(self, view: ViewFacts, columns: Mapping[str, str]) -> dict[str, str]:
        if view.unknown:
            raise LeftOut(f"the repository does not declare its entities {', '.join(view.unknown)}")
        joined = {entity.name: entity.join_key for entity in self._found.entities}
        keys = {joined[name]: columns.get(joined[name], "") for name in view.entities}
        if not keys:
            raise LeftOut("it is about no entity; give its rows a key column, such as one that is always 1")
        for name, kind in keys.items():
            if not kind:
                raise LeftOut(
                    f"its source has no column {name!r}, or of unknown type: check join_keys= and value_type="
                )
            if kind not in ("string", "int64", "bool", "timestamp") or not name.isidentifier():
                raise LeftOut(f"its key {name!r} is a {kind}, and a key is a String or Int64 with a name")
        return keys

    def _features(
        self,
        view: ViewFacts,
        columns: Mapping[str, str],
        keys: Mapping[str, str],
        batch: SourceFacts | None,
        notes: list[str],
    ) -> list[tuple[str, str]]:
        """Name and aggregation of each feature; those without a counterpart are noted."""
        if view.aggregations:
            found = [(one, self._aggregated(one, columns, notes)) for one in view.aggregations]
            features = [(one.name, text) for one, text in found if text]
        else:
            features = self._last_values(view, columns, keys, batch, notes)
        if not features:
            raise LeftOut("no feature is left")
        return features

    def _last_values(
        self,
        view: ViewFacts,
        columns: Mapping[str, str],
        keys: Mapping[str, str],
        batch: SourceFacts | None,
        notes: list[str],
    ) -> list[tuple[str, str]]:
        times = {batch.timestamp, batch.created} if batch else {view.timestamp}
        names = {one.name: one.description for one in view.fields} or {n: "" for n in columns if {n}.isdisjoint(times)}
        if not view.fields:
            notes.append("its schema was taken from the file")
        window = self._window(view.ttl, notes)
        found, lost = [], []
        for name, description in names.items():
            if name in keys:
                continue
            kind = columns.get(name, "unknown type")
            if kind in (*_NUMERIC, "timestamp") and name.isidentifier():
                remark = "".join(f"{line}\n" for line in comment(description)) if description.strip() else ""
                found.append((name, f"{remark}tl.last({literal(name)}, {window})"))
            else:
                lost.append(f"{name} ({kind})")
        if lost:
            notes.append(f"lacks {', '.join(lost)}: a feature is one number; derive numbers in the function")
        return found

    def _window(self, ttl: float | None, notes: list[str]) -> str:
        if not ttl:
            return 'window="lifetime"'
        length = -(-round(ttl * SECOND) // SECOND) * SECOND
        if length != round(ttl * SECOND):
            notes.append(f"ttl of {ttl:g} s was rounded up to whole seconds")
        return self._span(length)

    def _span(self, length: int) -> str:
        """`window=`, and `hop=` where the default one does not divide the window and the schedule."""
        usual = default_hop(length)
        fitting = [hop for hop in LADDER if hop <= usual and not length % hop and not self._schedule % hop]
        text = f'window="{format_duration(length)}"'
        return text if fitting[0] == usual else f'{text}, hop="{format_duration(fitting[0])}"'

    def _aggregated(self, one: Aggregated, columns: Mapping[str, str], notes: list[str]) -> str:
        """The aggregation's expression; empty, and noted, if there is none."""
        ours = _FUNCTIONS.get(one.function.lower())
        kind = columns.get(one.column)
        fits = ours == "count" or kind in _NUMERIC or (kind == "string" and ours == "distinct") or kind is None
        if ours is None or not fits or not one.name.isidentifier():
            notes.append(f"lacks {one.name}: no {one.function} of {one.column} ({kind})")
            return ""
        length = -(-round((one.window or 0) * SECOND) // SECOND) * SECOND
        span = self._span(length) if length else 'window="lifetime"'
        sample = ", sample=True" if ours in ("stddev", "variance") else ""
        return f"tl.{ours}({literal(one.column)}, {span}{sample})"

    def _entity(self, view: ViewFacts, keys: Mapping[str, str]) -> str:
        combination = tuple(keys.items())
        if combination not in self._entities:
            wanted = "_".join(view.entities)
            self._entities[combination] = (self._names.give(wanted, other=f"{wanted}_entity"), list(view.entities))
        return self._entities[combination][0]

    def _read_columns(
        self, view: ViewFacts, columns: Mapping[str, str], features: list[tuple[str, str]]
    ) -> dict[str, str]:
        names = [one.column for one in view.aggregations if one.column] or [name for name, _ in features]
        return {name: columns.get(name, "float64") for name in names if columns.get(name, "float64") in TYPES}

    def _batch_block(
        self,
        view: ViewFacts,
        name: str,
        facts: SourceFacts,
        entity: str,
        keys: Mapping[str, str],
        columns: Mapping[str, str],
        features: list[tuple[str, str]],
        notes: list[str],
    ) -> list[str]:
        source = self.sources.ask(facts)
        self.sources.need(source, keys, required=True)
        read = self._read_columns(view, columns, features)
        self.sources.need(source, read)
        renamed = {new: old for old, new in facts.renamed.items() if new in {*keys, *read}}
        schedule = "" if self._schedule == duration("1d") else literal(format_duration(self._schedule))
        options: Options = {"features": dict(features), "schedule": schedule, **told(view.owner, view.tags)}
        body = f"rows.rename({literal_mapping(renamed)})" if renamed else "rows"
        return [
            *call("@tl.batch", source.variable, entity, options=options),
            *function(name, "rows", view.description, [f"return {body}"]),
        ]

    def _nearline_block(
        self,
        view: ViewFacts,
        stream: SourceFacts,
        batch: SourceFacts | None,
        entity: str,
        keys: Mapping[str, str],
        columns: Mapping[str, str],
        features: list[tuple[str, str]],
        notes: list[str],
    ) -> list[str]:
        before: list[str] = []
        fallback: list[str] = []
        if batch is not None and not view.aggregations:
            stand_in = self._names.give(f"{view.name}_batch")
            before = [*self._batch_block(view, stand_in, batch, entity, keys, columns, features, []), "", ""]
            fallback = ['tl.stale(max_age="10m")', f'tl.last({stand_in}, max_age="50h")']
            notes.append(f"{stand_in} answers until the lane has caught up; ingest the history for keys without events")
        source = self.sources.ask(stream, view.timestamp or stream.timestamp or (batch.timestamp if batch else ""))
        self.sources.need(source, keys, required=True)
        self.sources.need(source, self._read_columns(view, columns, features))
        options: Options = {
            "freshness": '"60s"',
            "features": dict(features),
            "fallback": fallback,
            **told(view.owner, view.tags),
        }
        return [
            *before,
            *call("@tl.nearline", source.variable, entity, options=options),
            *function(self._views[view.name], "events", view.description, ["return events"]),
        ]


def literal_mapping(pairs: Mapping[str, str]) -> str:
    """A mapping of texts as Python."""
    return "{" + ", ".join(f"{literal(key)}: {literal(value)}" for key, value in pairs.items()) + "}"
