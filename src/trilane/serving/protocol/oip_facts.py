"""What the Open Inference Protocol tells of servers and models: metadata, configuration, statistics and the index.

Law: facts are plain, in the words of the protocol's messages, so that REST writes them as JSON and gRPC as messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from trilane.models.tensor import TensorSpec
from trilane.serving.inference import About, State, Statistics

__all__ = ["EXTENSIONS", "configuration", "index", "metadata", "statistics", "version_of"]

Facts: TypeAlias = dict[str, object]

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)


def version_of(digest: str) -> str:
    """The version of what has a SHA-256: a number made of its first 12 digits.

    The protocol has any text, but Triton's tools read a version as a whole number, and JavaScript one below 2^53.
    """
    return str(int(digest[:12], 16))


def metadata(about: About) -> Facts:
    """The metadata of a model."""
    return {
        "name": about.name,
        "versions": list(about.versions),
        "platform": about.platform,
        "inputs": [_tensor(spec) for spec in about.inputs],
        "outputs": [_tensor(spec) for spec in about.outputs],
    }


def _tensor(spec: TensorSpec) -> Facts:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def configuration(about: About, settings: Mapping[str, object]) -> Facts:
    """The configuration of a model, in Triton's words; what it has no word for is among the parameters.

    Triton leaves the axis of rows out of shapes, and has none for an input that is nothing but that axis: clients that
    follow the configuration, such as `perf_analyzer`, cannot ask for one then. Such a model is told whole.
    """
    rows = about.max_rows > 0 and all(len(spec.shape) > 1 for spec in about.inputs)
    told = {**settings, **({"max_rows": about.max_rows} if about.max_rows else {})}
    return {
        "name": about.name,
        "platform": about.platform,
        "backend": str(settings.get("runtime", "trilane")),
        "max_batch_size": about.max_rows if rows else 0,
        "input": [_dimensions(spec, rows=rows) for spec in about.inputs],
        "output": [_dimensions(spec, rows=rows) for spec in about.outputs],
        **({"dynamic_batching": {}} if rows else {}),
        "parameters": {name: {"string_value": str(value)} for name, value in sorted(told.items())},
    }


def _dimensions(spec: TensorSpec, *, rows: bool) -> Facts:
    """A tensor without the axis of rows, which Triton's configuration leaves out; a number a row is one of length 1."""
    kind = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    dims = list(spec.shape[1:] if rows else spec.shape)
    if dims:
        return {"name": spec.name, "data_type": kind, "dims": dims}
    return {"name": spec.name, "data_type": kind, "dims": [1], "reshape": {"shape": []}}


def statistics(found: Iterable[Statistics]) -> Facts:
    """What models did."""
    return {"model_stats": [_statistics(one) for one in found]}


def _statistics(one: Statistics) -> Facts:
    # Reading and writing tensors is part of an answer's time, and not measured alone; clients want one count for all.
    nothing, around = _duration(0, 0), _duration(one.succeeded, 0)
    return {
        "name": one.name,
        "version": one.version,
        "last_inference": one.last_inference_ms,
        "inference_count": one.inferences,
        "execution_count": one.executions,
        "inference_stats": {
            "success": _duration(one.succeeded, one.success_ns),
            "fail": _duration(one.failed, one.fail_ns),
            "queue": _duration(one.succeeded, one.queue_ns),
            "compute_input": around,
            "compute_infer": _duration(one.succeeded, one.compute_ns),
            "compute_output": around,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(times, 0),
                "compute_infer": _duration(times, took),
                "compute_output": _duration(times, 0),
            }
            for rows, (times, took) in one.by_batch.items()
        ],
    }


def _duration(count: int, ns: int) -> Facts:
    return {"count": count, "ns": ns}


def index(states: Iterable[State], *, ready: bool = False) -> list[Facts]:
    """Every model there is; with `ready`, only those that would answer. What is loaded may be told with its costs."""
    return [
        {"name": one.name, "version": one.version, "state": one.state, "reason": one.reason, **(one.costs or {})}
        for one in states
        if one.state == "READY" or not ready
    ]
