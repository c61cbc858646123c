"""ONNX Runtime's sessions, as a server with one process per core wants them.

Laws: one thread, in sequence, without spinning, since batches are the parallelism; no arena of memory per session,
since hundreds of models would each keep one; weights of `SHARED_BYTES` or more stay in the file they are mapped from,
as kernels read them, so that processes share them (a session would else pack a copy of its own), whatever way the model
comes, so that its answers are the same bits by every way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from trilane.errors import ModelError, SetupError

__all__ = ["CPU", "SHARED_BYTES", "Provider", "is_shared", "lay_out", "open_session"]

Provider = str | tuple[str, Mapping[str, str]]
CPU: tuple[Provider, ...] = ("CPUExecutionProvider",)
SHARED_BYTES = 16 << 20
_SMALLEST = 1_024  # initializers below it stay in the graph
_EXTERNAL = "session.optimized_model_external_initializers"


def is_shared(model: bytes | str) -> bool:
    """Whether a model (its bytes, or the path of its file) is so large that processes share its weights."""
    return _size(model) >= SHARED_BYTES


def open_session(
    model: bytes | str, *, shared: bool | None = None, providers: Sequence[Provider] = CPU
) -> ort.InferenceSession:
    """Opens a model; `shared` says that its weights are, or are not, to be shared, whatever their size.

    Raises ModelError that tells why it cannot be opened, SetupError for a provider that is not installed.
    """
    options = _options(shared=is_shared(model) if shared is None else shared)
    return _open(model, options, providers)


def lay_out(model: str, folder: Path) -> None:
    """Writes the optimised model into `folder`, as `model.onnx` and `weights.bin`, which sessions map instead of
    reading.

    Raises ModelError if it cannot be opened or written.
    """
    options = _options(shared=True)
    options.optimized_model_filepath = str(folder / "model.onnx")
    options.add_session_config_entry(f"{_EXTERNAL}_file_name", "weights.bin")
    options.add_session_config_entry(f"{_EXTERNAL}_min_size_in_bytes", str(_SMALLEST))
    _open(model, options, CPU)


def _options(*, shared: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3  # errors; what it warns of is how others wrote their graphs
    if shared:
        # The level above lays weights out anew for this processor: a copy in each process.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _open(model: bytes | str, options: ort.SessionOptions, providers: Sequence[Provider]) -> ort.InferenceSession:
    names = [one if isinstance(one, str) else one[0] for one in providers]
    missing = [name for name in names if name not in ort.get_available_providers()]
    if missing:
        raise SetupError(
            f"the execution provider {missing[0]} is not in the installed onnxruntime",
            where="providers",
            remedy=f"It has {', '.join(ort.get_available_providers())}",
        )
    try:
        return ort.InferenceSession(model, options, providers=list(providers))
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot open the model: {error}",
            where=model if isinstance(model, str) else f"model of {len(model)} bytes",
            remedy="Export it again, and copy it whole",
        ) from error


def _size(model: bytes | str) -> int:
    try:
        return len(model) if isinstance(model, bytes) else Path(model).stat().st_size
    except OSError:
        return 0  # the session tells what is wrong with it
