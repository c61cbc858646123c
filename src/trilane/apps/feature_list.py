"""What features there are and what is known of each, as plain facts to list, show and search.

Laws: the facts come from the definitions, and the statistics from the newest training set that joined the feature;
nothing is computed and no store is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from trilane.apps.definitions import Definitions
from trilane.clock import format_duration
from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.condition import Condition
from trilane.features.view import Constant, Prior, Stale, Step, View
from trilane.training.training_set import TrainingSet

__all__ = ["Facts", "chosen", "feature_facts", "found", "named"]

Facts: TypeAlias = dict[str, Any]

_ALIKE = 0.75  # of difflib's ratio: "trnasactions" finds "transactions", "card" does not find "yard"
_WEIGHTS = (("name", 4.0), ("view", 3.0), ("tags", 2.0), ("source", 2.0), ("entity", 2.0), ("description", 1.0))


def feature_facts(definitions: Definitions, training_sets: Iterable[TrainingSet] = ()) -> list[Facts]:
    """The facts of each feature, by view and in order of declaration; `training_sets` newest first."""
    statistics = _statistics(training_sets)
    return [
        {**_of_feature(view, position), **_used_by(definitions, view, position), "statistics": told}
        for _, view in sorted(definitions.views.items())
        for position, name in enumerate(view.output_names)
        for told in [_present(statistics.get(name), view)]
    ]


def named(facts: Sequence[Facts], name: str) -> list[Facts]:
    """Of `facts`, those of a view, or of one `view.feature`. Raises DefinitionError that tells what is alike."""
    there = [one for one in facts if name in (one["name"], one["view"])]
    if not there:
        known = sorted({str(one[key]) for one in facts for key in ("view", "name")})
        alike = difflib.get_close_matches(name, known, n=3) or sorted({str(one["view"]) for one in facts})
        raise DefinitionError(
            f"there is no view or feature {name!r}", where=name, remedy=f"Look at {', '.join(alike) or 'none'}", file=""
        )
    return there


def chosen(facts: Sequence[Facts], wanted: Mapping[str, str | None]) -> list[Facts]:
    """Of `facts`, those that have all the `wanted` values; None wants nothing. A tag `team` also finds `team=shop`."""
    return [one for one in facts if all(_has(one, key, value) for key, value in wanted.items() if value is not None)]


def found(facts: Sequence[Facts], text: str) -> list[Facts]:
    """Of `facts`, those in which each word of `text` occurs, misspelt or not, the best first."""
    words = re.findall(r"\w+", text.lower())
    scored = [(_score(one, words), one) for one in facts]
    return [one for score, one in sorted(scored, key=lambda pair: -pair[0]) if score > 0]


def _of_feature(view: View, position: int) -> Facts:
    feature = view.features[position]
    aggregation = feature.aggregation
    return {
        "name": f"{view.name}.{feature.name}",
        "view": view.name,
        "lane": view.lane,
        "type": feature.kind,
        "entity": view.entity.name if view.entity else None,
        "keys": list(view.entity.key_names) if view.entity else [],
        "source": view.source.name if view.source else None,
        "uses": [used.name for used in view.uses],
        "aggregation": _aggregation_text(aggregation) if aggregation else None,
        "window": _window_text(aggregation) if aggregation else None,
        "default": feature.default,
        "freshness": format_duration(view.freshness) if view.freshness else None,
        "schedule": format_duration(view.schedule) if view.schedule else None,
        "landing": format_duration(view.landing) if view.schedule else None,
        "fallback": [_step_text(step) for step in view.fallback],
        "version": view.version,
        **view.about.spec(),
        "source_about": view.source.about.spec() if view.source else None,
    }


def _used_by(definitions: Definitions, view: View, position: int) -> Facts:
    name = view.output_names[position]
    models = [model for _, model in sorted(definitions.models.items()) if name in model.feature_names]
    through = [other.name for _, other in sorted(definitions.views.items()) if view in other.uses]
    endpoints = [one.name for _, one in sorted(definitions.endpoints.items()) if one.model in models]
    return {"models": [model.name for model in models], "endpoints": endpoints, "used_by_views": through}


def _aggregation_text(one: Aggregation) -> str:
    if one.over:
        return f"{one.op}({', '.join(map(_aggregation_text, one.over))})"
    options = [f"{name}={value:g}" for name, value in one.options]
    return f"{one.op}({', '.join([one.column or '', *options]).removeprefix(', ')})" + "".join(
        f" where {_condition_text(condition)}" for condition in one.where
    )


def _condition_text(condition: Condition) -> str:
    if condition.kind == "true":
        return condition.column
    return f"{condition.column} {condition.kind} {', '.join(str(value) for value in condition.values)}"


def _window_text(one: Aggregation) -> str:
    return "lifetime" if one.window.is_lifetime else format_duration(one.window.length)


def _step_text(step: Step) -> str:
    if isinstance(step, Constant):
        return "the default"
    if isinstance(step, Prior):
        return f"the {step.statistic} of the training set"
    limit = "" if step.max_age is None else f" up to {format_duration(step.max_age)}"
    if isinstance(step, Stale):
        return f"stale{limit}"
    return f"{'prior of' if step.status == 'prior' else 'last batch of'} {step.view.name}{limit}"


def _statistics(training_sets: Iterable[TrainingSet]) -> dict[str, tuple[TrainingSet, Facts]]:
    """By feature, the newest training set that has it and its statistics there."""
    newest: dict[str, tuple[TrainingSet, Facts]] = {}
    for one in training_sets:
        for name, statistics in one.statistics.items():
            newest.setdefault(name, (one, msgspec.to_builtins(statistics)))
    return newest


def _present(found_in: tuple[TrainingSet, Facts] | None, view: View) -> Facts | None:
    if found_in is None:
        return None
    training_set, statistics = found_in
    same = training_set.views.get(view.name) == view.version
    return {**statistics, "training_set": training_set.digest, "of_this_version": same}


def _has(one: Facts, key: str, value: str) -> bool:
    if key != "tag":
        return bool(one[key] == value)
    return any(value in (tag, tag.partition("=")[0]) for tag in _tags(one))


def _tags(one: Facts) -> list[str]:
    return [*one["tags"], *(one["source_about"] or {}).get("tags", ())]


def _score(one: Facts, words: Sequence[str]) -> float:
    """0 unless every word occurs; a word in the name weighs more than one in a description."""
    texts = {**one, "tags": " ".join(_tags(one))}
    texts["description"] = f"{one['description']} {(one['source_about'] or {}).get('description', '')}"
    best = [
        max((weight * _likeness(word, str(texts[key] or "").lower()) for key, weight in _WEIGHTS), default=0.0)
        for word in words
    ]
    return sum(best) if best and min(best) > 0 else 0.0


def _likeness(word: str, text: str) -> float:
    if word in text:
        return 1.0
    ratios: Iterator[float] = (
        difflib.SequenceMatcher(None, word, part).ratio() for part in re.findall(r"[^\W_]+", text)
    )
    best = max(ratios, default=0.0)
    return best * best if best >= _ALIKE else 0.0
