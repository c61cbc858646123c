"""Features by their names, `view,view.feature,...`, as a plan over the views of some definitions."""

from __future__ import annotations

from trilane.apps.definitions import Definitions
from trilane.errors import DefinitionError
from trilane.features.plan import FeaturePlan, Selection

__all__ = ["selected_plan"]


def selected_plan(definitions: Definitions, names: str) -> FeaturePlan:
    """The plan of applied views or single features. Raises DefinitionError for one that there is not."""
    selections: list[Selection] = []
    for name in names.split(","):
        view, dot, feature = name.partition(".")
        if view not in definitions.views:
            known = ", ".join(sorted(definitions.views))
            raise DefinitionError(
                f"there is no view {view!r}", where=names, remedy=f"The applied views are {known}", status=404, file=""
            )
        try:
            selections.append(definitions.views[view][feature] if dot else definitions.views[view])
        except DefinitionError as error:
            raise DefinitionError(error.what, where=names, remedy=error.remedy, status=404, file="") from None
    return FeaturePlan.of(selections, where=names)
