"""Which changes of an event source its past allows: events lie in the log and the archive, and live views read them.

Laws: a source without events may change at will; a change that refuses no event that was let in, and takes nothing from
a live view, passes and rebuilds nothing. What is refused names the views that it would break, and the remedy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from trilane.apps.definitions import Definitions
from trilane.apps.project import Project
from trilane.constraint import narrowed
from trilane.errors import ConflictError, DefinitionError
from trilane.features.view import View
from trilane.sources.formats.declaration import JSON

__all__ = ["Refusal", "check", "refusals"]

_Spec: TypeAlias = Mapping[str, Any]
_FIXED = ("event_time", "event_id", "partitions", "partition_by")
_NEW_NAME = "Declare a source with a new name, and move the views to it"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A change that `apply` refuses; `forcible`: whether its author may insist, as nothing is lost but events."""

    source: str
    what: str
    remedy: str
    views: tuple[str, ...] = ()
    forcible: bool = False


def refusals(project: Project, working: Definitions, forced: Collection[str] = ()) -> tuple[Refusal, ...]:
    """The changes from the applied to the working definitions that are refused; `forced`: sources whose author insists.

    Raises DefinitionError if there is no source of such a name.
    """
    for name in forced:
        if name not in working.sources:
            known = ", ".join(sorted(working.sources)) or "none"
            raise DefinitionError(f"there is no event source {name!r}", where="--breaking", remedy=known, file="")
    applied = project.registry.applied()
    found: list[Refusal] = []
    for spec in applied.specs if applied else ():
        source = working.sources.get(str(spec.get("name"))) if spec.get("kind") == "event_source" else None
        if source is not None and _has_events(project, spec):
            readers = _Readers(project, working, source.name)
            found += _differences(spec, source.spec(), readers)
    return tuple(one for one in found if not (one.forcible and one.source in forced))


def check(found: Collection[Refusal]) -> None:
    """Raises ConflictError if anything is refused."""
    if found:
        first = next(iter(found))
        raise ConflictError(
            "; ".join(one.what for one in found),
            where=f"event source {first.source!r}",
            remedy=first.remedy,
            views=sorted({view for one in found for view in one.views}),
        )


class _Readers:
    """The views that read a field of a source: those declared now, and those that deployed bundles still read."""

    def __init__(self, project: Project, working: Definitions, source: str) -> None:
        declared = {view.space: view for view in working.views.values()}
        deployed = project.deployed_views() if project.applied_digest() else {}
        self._declared = [view for view in declared.values() if _reads_from(view, source)]
        self._kept = [view for space, view in deployed.items() if space not in declared and _reads_from(view, source)]

    def of(self, field: str) -> tuple[str, ...]:
        """The names of all views that read `field`."""
        return _names([*self._declared, *self._kept], field)

    def kept(self, field: str) -> tuple[str, ...]:
        """The names of views that are declared no more as they are, and answer until their model is trained again."""
        return _names(self._kept, field)


def _names(views: Collection[View], field: str) -> tuple[str, ...]:
    return tuple(sorted({f"{view.name}@{view.version[:8]}" for view in views if field in view.reads}))


def _reads_from(view: View, source: str) -> bool:
    return view.source is not None and view.source.name == source


def _has_events(project: Project, spec: _Spec) -> bool:
    return any(project.log.end(str(spec["name"]), number) > 0 for number in range(int(spec["partitions"])))


def _differences(old: _Spec, new: _Spec, readers: _Readers) -> Iterator[Refusal]:
    source = str(new["name"])
    for name in _FIXED:
        if old[name] != new[name]:
            what = f"{name} changes from {old[name]!r} to {new[name]!r}, but its log is kept by the former"
            yield Refusal(source=source, what=what, remedy=_NEW_NAME)
    yield from _format(source, old.get("format"), new.get("format"))
    if old.get("changes") != new.get("changes"):
        what = "how its events tell changes is declared otherwise, but its log is kept by the former"
        yield Refusal(source=source, what=what, remedy=_NEW_NAME)
    if old["disorder"] != new["disorder"]:
        what = "disorder changes, by which events were judged to be late"
        remedy = f"{_NEW_NAME}, or insist with --breaking {source}: views that are built anew differ from the archive"
        yield Refusal(source=source, what=what, remedy=remedy, forcible=True)
    was, is_ = ({str(field["name"]): field for field in spec["fields"]} for spec in (old, new))
    for name in sorted(was.keys() | is_.keys()):
        yield from _field(source, name, was.get(name), is_.get(name), readers)


def _format(source: str, old: _Spec | None, new: _Spec | None) -> Iterator[Refusal]:
    """What is in the log must stay readable: each value in the schema that it was written in."""
    was: _Spec = old or JSON.spec()
    is_: _Spec = new or JSON.spec()
    if (was["kind"], was["framing"]) != (is_["kind"], is_["framing"]):
        what = f"format changes from {was['kind']} ({was['framing']}) to {is_['kind']} ({is_['framing']})"
        yield Refusal(source=source, what=f"{what}, but its log is kept in the former", remedy=_NEW_NAME)
    elif was["framing"] != "registry" and not set(was["schemas"]) <= set(is_["schemas"]):
        what = "a declared schema goes, in which events of the log may be written"
        keep = "Name the former schema behind the new one" if was["framing"] == "single_object" else _NEW_NAME
        insist = f"{keep}, or insist with --breaking {source} if the new one reads them too"
        yield Refusal(source=source, what=what, remedy=insist, forcible=True)
    elif was["paths"] != is_["paths"] or was["message"] != is_["message"]:
        what = "the place of a field in the values changes, so that the log and the archive may differ"
        yield Refusal(
            source=source, what=what, remedy=f"{_NEW_NAME}, or insist with --breaking {source}", forcible=True
        )


def _field(source: str, name: str, old: _Spec | None, new: _Spec | None, readers: _Readers) -> Iterator[Refusal]:
    insist = f"or insist with --breaking {source}: such events become dead letters"
    if new is None:
        views = readers.kept(name)
        if views:
            remedy = "Train and apply the models that use them first, or keep the field"
            yield Refusal(
                source=source,
                what=f"the field {name!r} goes, which is read by {_list(views)}",
                remedy=remedy,
                views=views,
            )
        return
    views = readers.of(name)
    if old is None:
        if not new["nullable"]:
            what = f"the new field {name!r} may not be null, but the events in the log lack it"
            yield Refusal(
                source=source, what=what, remedy=f"Declare it with `| None`, {insist}", views=views, forcible=True
            )
        return
    if old["type"] != new["type"]:
        what = f"the field {name!r} changes from {old['type']} to {new['type']}{_by(views)}"
        yield Refusal(source=source, what=what, remedy=f"Declare a field with a new name. {_NEW_NAME}", views=views)
        return
    if old["nullable"] and not new["nullable"]:
        what = f"the field {name!r} may be null no more, but it may be in the log{_by(views)}"
        yield Refusal(source=source, what=what, remedy=f"Keep `| None`, {insist}", views=views, forcible=True)
    rules = old["rules"] if isinstance(old["rules"], Mapping) else {}
    tighter = narrowed(rules, new["rules"])
    if tighter:
        what = f"the field {name!r} gets a constraint that the log need not keep ({', '.join(tighter)}){_by(views)}"
        remedy = f'Write a rule with action="warn" first, {insist}'
        yield Refusal(source=source, what=what, remedy=remedy, views=views, forcible=True)


def _by(views: tuple[str, ...]) -> str:
    return f", and is read by {_list(views)}" if views else ""


def _list(views: tuple[str, ...]) -> str:
    return f"the view{'s' if len(views) > 1 else ''} {', '.join(views)}"
