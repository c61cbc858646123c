"""From what a Feast repository declares to a file of Trilane definitions, and what became of each object.

Laws: every object of the repository has a row in the report; what is left out, or means something else, is said there
and in the file; what is written loads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trilane.apps.feast_import.facts import OnDemandFacts, Projection, Repository, ServiceFacts
from trilane.apps.feast_import.function import Untranslatable, rewritten
from trilane.apps.feast_import.kinds import TYPES, kind_of
from trilane.apps.feast_import.page import Names, call, comment, function, literal, page, quoted_source, told
from trilane.apps.feast_import.sources import Row, Sources
from trilane.apps.feast_import.stored import StoredViews

__all__ = ["Row", "Translation", "translate"]


_LAWS = """

The comments say what was left out and why. Everywhere, a view's ttl is the window of tl.last, in serving too, where
Feast goes on to answer; a null does not hide the value before it; and of rows of one instant the largest value counts,
not the one that was created last.
"""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A definitions file, and a row for each object that was read."""

    text: str
    rows: tuple[Row, ...]


def translate(found: Repository, *, folder: Path, out: Path, schedule: str = "1d") -> Translation:
    """Writes what `found` declares; `folder`: where its paths begin; `out`: the folder of the definitions.

    `schedule`: how often batch views are computed, which Feast does not declare.
    """
    return _Translator(found, folder, out, schedule).whole()


@dataclass
class _Translator:
    found: Repository
    folder: Path
    out: Path
    schedule: str
    rows: list[Row] = field(default_factory=list)

    def whole(self) -> Translation:
        names = Names()
        views = {one.name: names.give(one.name, other=f"{one.name}_view") for one in self.found.views}
        asked = {one.name: names.give(one.name, other=f"{one.name}_view") for one in self.found.on_demand}
        sources = Sources(self.found, names, self.folder, self.out)
        stored = StoredViews(self.found, names, views, sources, self.schedule)
        view_blocks = [stored.view(one) for one in self.found.views]
        for labels in self.found.labels:
            stored.labels(labels)
        self._features = {name: dict(one) for name, one in stored.features.items()}
        self._python = {**{name: views[name] for name in self._features}, **asked}
        request_blocks = [self._on_demand(one) for one in self.found.on_demand]
        service_blocks = [self._service(one, names) for one in self.found.services]
        plain = [*stored.entity_blocks(), *sources.blocks()]
        blocks = [*plain, *view_blocks, *request_blocks, *service_blocks]
        self.rows = [*sources.rows(), *stored.rows, *self.rows]
        self.rows += [Row(one.kind, one.name, "", ("Trilane has no such thing",)) for one in self.found.others]
        wide = {id(block) for block in (*view_blocks, *request_blocks)}
        spaced = [id(block) in wide for block in blocks]
        needs_numpy = any("np." in line for block in request_blocks for line in block if not line.startswith("#"))
        imports = [*(["import numpy as np"] if needs_numpy else []), "import trilane as tl"]
        return Translation(text=page(self._opening(), imports, blocks, spaced), rows=tuple(self.rows))

    def _opening(self) -> str:
        origin = f"{self.found.project}, imported from Feast {self.found.feast}"
        return f"Definitions of {origin} by `trilane import feast`.{_LAWS}"

    def _on_demand(self, view: OnDemandFacts) -> list[str]:
        header = f'Feast: OnDemandFeatureView "{view.name}", mode {view.mode}'
        try:
            columns, uses = self._inputs(view)
            outputs = self._outputs(view)
            if view.aggregated:
                raise Untranslatable("it aggregates the rows of a request")
            result = rewritten(
                view.function, mode=view.mode, singleton=view.singleton, names=view.names, columns=columns
            )
        except Untranslatable as reason:
            del self._python[view.name]
            remedy = f"left out, because {reason}: write it as a function of NumPy columns"
            self.rows.append(Row("OnDemandFeatureView", view.name, "", (remedy,)))
            return comment(header, f"- {remedy} (docs/how-to/come-from-feast.md). It was:") + quoted_source(
                view.function
            )
        notes = ["was rewritten for NumPy columns: compare its values with Feast's"]
        if view.stored:
            notes.append("write_to_online_store: it is computed at each request")
        name = self._python[view.name]
        self._features[view.name] = {one: one for one in outputs}
        self.rows.append(Row("OnDemandFeatureView", view.name, f"@tl.request {name}", tuple(notes)))
        written = call(
            "@tl.request",
            options={
                "inputs": {one.name: TYPES[kind_of(one.type) or ""] for one in view.inputs} or "{}",
                "uses": uses,
                "features": outputs,
                **told(view.owner, view.tags),
            },
        )
        body = function(name, result.parameter, view.description, result.body)
        return [*comment(header, *(f"- {note}" for note in notes)), *written, *body]

    def _inputs(self, view: OnDemandFacts) -> tuple[dict[str, str], list[str]]:
        """The names of the inputs in Feast and in Trilane, and the views that are used."""
        columns: dict[str, str] = {}
        for one in view.inputs:
            if kind_of(one.type) is None:
                raise Untranslatable(f"the request's {one.name!r} is a {one.type}")
            if kind_of(one.type) != "timestamp":  # a pandas timestamp there, microseconds here
                columns[one.name] = one.name
        uses = []
        for used in view.views:
            if used.view not in self._features or used.join_keys:
                raise Untranslatable(f"the view {used.view!r} was left out or is joined by other keys")
            uses.append(self._python[used.view])
            for name, feature in self._features[used.view].items():
                if name in used.features or not used.features:
                    if name in columns:
                        raise Untranslatable(f"{name!r} is the name of two inputs")
                    columns[name] = columns[f"{used.alias or used.view}__{name}"] = f"{uses[-1]}.{feature}"
        return columns, uses

    def _outputs(self, view: OnDemandFacts) -> dict[str, str]:
        found = {}
        for one in view.fields:
            kind = kind_of(one.type)
            if kind in (None, "string") or not one.name.isidentifier():
                raise Untranslatable(f"its feature {one.name!r} is a {one.type}, and a feature is a number with a name")
            found[one.name] = TYPES[str(kind)]
        return found

    def _service(self, service: ServiceFacts, names: Names) -> list[str]:
        notes = [f"the reference {one!r} is not resolved" for one in service.references]
        chosen: list[str] = []
        for one in service.projections:
            there = self._features.get(one.view)
            if there is None or one.view not in self._python:
                notes.append(f"lacks {one.view}, which was left out")
            elif one.join_keys:
                notes.append(f"lacks {one.view}, which is joined by other keys: declare a view about another entity")
            else:
                chosen += self._selection(one, there, notes)
        if not chosen:
            self.rows.append(Row("FeatureService", service.name, "", (*notes, "nothing is left of it")))
            return comment(
                f'Feast: FeatureService "{service.name}"', *(f"- {n}" for n in (*notes, "nothing is left of it"))
            )
        name = names.give(service.name, other=f"{service.name}_features")
        self.rows.append(Row("FeatureService", service.name, f"selection {name}", tuple(notes)))
        header = f'Feast: FeatureService "{service.name}". Write features={name} in a tl.Model, or ask for these names.'
        lines = [f"{name} = [", *(f"    {one}," for one in chosen), "]"]
        told = [service.description] if service.description.strip() else []
        return [*comment(header, *told, *(f"- {note}" for note in notes)), *lines]

    def _selection(self, one: Projection, there: dict[str, str], notes: list[str]) -> list[str]:
        name = self._python[one.view]
        wanted = [feature for feature in one.features if feature in there]
        lost = [feature for feature in one.features if feature not in there]
        if not wanted:  # a view that aggregates has other features than its schema says
            return [name]
        if lost:
            notes.append(f"lacks {', '.join(f'{one.view}:{feature}' for feature in lost)}")
        if one.alias:
            notes.append(f"{one.view} is called {one.alias} there, and {name} here")
        if not one.features or wanted == [*there]:
            return [name]
        return [f"{name}[{literal(there[feature])}]" for feature in wanted]
