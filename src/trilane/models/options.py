"""What the owner of a model says of it beside its file: `model.toml`.

Laws: every key has a default, so no file is needed where the model's own file tells what it takes; an unknown key or a
value that cannot be is refused with its name.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from trilane.clock import SECOND, duration
from trilane.contract import split_message
from trilane.errors import DefinitionError, ModelError
from trilane.models.tensor import DATATYPES, TensorSpec

__all__ = ["OPTIONS_FILE", "Options", "read_options"]

OPTIONS_FILE = "model.toml"
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class _Declared(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An input or output; -1 in `shape` is any length."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    datatype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=-1)], ...]


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The keys, all optional.

    `runtime`: if the file's name does not tell it; `inputs`, `outputs`: if the file does not; `batching`: whether
    questions are answered together, where all first axes are free; `max_rows`: of a question and of a batch; `process`:
    whether it runs in a process of its own, `instances`: in how many; `pinned`: never put out to make room; `warm`:
    loaded when the server starts; `memory_mib`, `threads`, `timeout` and `load_timeout`: what its process may take;
    `providers`: ONNX Runtime's, by name; `share`: whether large weights are mapped; `nan`: whether NaN is an answer;
    `tolerance`: how far answers to golden rows may be off, as a part of their size; `tier`: of questions that name
    none.
    """

    runtime: Literal["", "onnx", "lightgbm", "xgboost", "sklearn", "python"] = ""
    inputs: tuple[_Declared, ...] = ()
    outputs: tuple[_Declared, ...] = ()
    batching: bool = True
    max_rows: _Count = 4_096
    process: bool = False
    instances: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    pinned: bool = False
    warm: bool = False
    memory_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 4_096
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    timeout: str = "10s"
    load_timeout: str = "60s"
    providers: tuple[str, ...] = ()
    share: bool = True
    nan: bool = False
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 1e-5
    tier: Literal["critical", "standard", "sheddable", "batch"] = "standard"

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """The declared inputs and outputs."""
        inputs, outputs = (
            tuple(TensorSpec(one.name, one.datatype, one.shape) for one in side) for side in (self.inputs, self.outputs)
        )
        return inputs, outputs

    def seconds(self) -> tuple[float, float]:
        """`timeout` and `load_timeout`."""
        return duration(self.timeout) / SECOND, duration(self.load_timeout) / SECOND


def read_options(path: Path) -> Options:
    """The options in a file; the defaults if there is none. Raises ModelError that names the key which is wrong."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Options()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the file cannot be read: {error}", where=str(path)) from None
    try:
        found = tomllib.loads(text)
        strange = sorted(set(found) - set(Options.__struct_fields__))
        if strange:
            remedy = f"The keys are {', '.join(Options.__struct_fields__)}"
            raise ModelError(f"unknown key {strange[0]!r}", where=f"{path}: {strange[0]}", remedy=remedy)
        options = msgspec.convert(found, Options)
        _check(options, path)
        options.seconds()
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"this is not TOML: {error}", where=str(path), remedy="Mend the line") from None
    except msgspec.ValidationError as error:
        reason, place = split_message(str(error))
        key = place.removeprefix("$.")
        raise ModelError(reason, where=f"{path}: {key}", remedy=f"Correct the value of {key!r}") from None
    except DefinitionError as error:
        raise ModelError(error.what, where=f"{path}: timeout", remedy=error.remedy) from None
    return options


def _check(options: Options, path: Path) -> None:
    for side, declared in (("inputs", options.inputs), ("outputs", options.outputs)):
        for one in declared:
            if one.datatype not in DATATYPES:
                what = f"{one.datatype!r} is no data type"
                raise ModelError(what, where=f"{path}: {side}", remedy=f"Write one of {', '.join(DATATYPES)}")
        if len({one.name for one in declared}) < len(declared):
            raise ModelError("two have the same name", where=f"{path}: {side}", remedy="Name each once")
