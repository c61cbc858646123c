"""The files beside an ONNX model that hold its weights, as its graph names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trilane.errors import ModelError

__all__ = ["external_files"]

_LARGEST_GRAPH = 256 << 20  # a file of this size holds its weights itself


def external_files(model: Path) -> list[Path]:
    """The files that must go along with `model`. Raises ModelError if it is no ONNX model, or names one elsewhere."""
    if model.stat().st_size > _LARGEST_GRAPH:
        return []
    import onnx

    try:
        graph: Any = onnx.load(str(model), load_external_data=False).graph
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no common kind
        what = f"this is no ONNX model: {error}"
        raise ModelError(what, where=str(model), remedy="Export it again, and copy it whole") from None
    names = {entry.value for one in graph.initializer for entry in one.external_data if entry.key == "location"}
    for name in names:
        if Path(name).name != name:
            what, remedy = f"its weights lie in {name!r}", "Save it with its weights in one folder"
            raise ModelError(what, where=str(model), remedy=remedy)
        if not (model.parent / name).is_file():
            remedy = "Copy the file of weights beside it"
            raise ModelError(f"its weights, {name!r}, are not there", where=str(model.parent), remedy=remedy)
    return [model.parent / name for name in sorted(names)]
