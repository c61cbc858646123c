"""Features by their names, `view,view.feature,...`, as a plan over the views of some definitions.

What is told of them has names too: `view.age_s`, `view.feature.age_s`, `view.feature.is_stale`; a feature comes first.
"""

from __future__ import annotations

from trilane.apps.definitions import Definitions
from trilane.errors import DefinitionError
from trilane.features.fallback import age, status
from trilane.features.plan import FeaturePlan, Selection
from trilane.features.view import View

__all__ = ["selected_plan"]


def selected_plan(definitions: Definitions, names: str) -> FeaturePlan:
    """The plan of applied views, single features or traits. Raises DefinitionError for one that there is not."""
    selections: list[Selection] = []
    for name in names.split(","):
        view, _, rest = name.partition(".")
        if view not in definitions.views:
            known = ", ".join(sorted(definitions.views))
            raise DefinitionError(
                f"there is no view {view!r}", where=names, remedy=f"The applied views are {known}", status=404, file=""
            )
        try:
            selections.append(_part(definitions.views[view], rest) if "." in name else definitions.views[view])
        except DefinitionError as error:
            raise DefinitionError(error.what, where=names, remedy=error.remedy, status=404, file="") from None
    return FeaturePlan.of(selections, where=names)


def _part(view: View, name: str) -> Selection:
    feature, _, what = name.partition(".")
    if name in view.feature_names:
        return view[name]
    if name == "age_s":
        return age(view)
    if what == "age_s":
        return age(view[feature])
    if what.startswith("is_"):
        return status(view[feature], what.removeprefix("is_"))
    return view[name]
