"""Opens a trained model, whatever runs it: ONNX Runtime, LightGBM, XGBoost, or a Python process of its own.

Laws: a model answers its golden rows before anybody else asks it; a file of a library that may die over a damaged one
is tried in another process before it is opened in this one.
"""

from __future__ import annotations

from pathlib import Path

from trilane.clock import SECOND
from trilane.models.artifact import MODEL_FILES, Artifact
from trilane.models.own_process import ONNX, PYTHON, OwnProcess
from trilane.models.runtime.onnx import OnnxRuntime, open_onnx, verify_golden
from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Signature
from trilane.models.stamps import Stamps
from trilane.models.tensor import TensorSpec

__all__ = ["open_files", "open_trained"]


def open_trained(
    artifact: Artifact, *, process: OwnProcess | None = None, kept: Path | None = None, stamps: Stamps | None = None
) -> Runtime:
    """Opens the model of an artifact, which must first give the golden answers.

    `process`: what one in a process of its own may take; `kept`: the folder of what servers keep of models. Raises
    ModelError if it cannot be opened or its answers differ, SetupError for a library that is not installed.
    """
    manifest, stamps = artifact.manifest, stamps or Stamps(None)
    if manifest.runtime == ONNX:
        return open_onnx(artifact, weights=kept / "weights" if kept else None, stamps=stamps)
    if manifest.runtime != PYTHON:
        from trilane.models.runtime.trial import try_file

        digest = manifest.files[MODEL_FILES[manifest.runtime]]
        try_file(manifest.runtime, artifact.model_path, digest, notes=kept / "tried" if kept else None)
    runtime = open_files(
        artifact.path,
        manifest.signature,
        name=artifact.name,
        runtime=manifest.runtime,
        process=process,
        row_wise=manifest.row_wise,
    )
    try:
        verify_golden(runtime, artifact)
    except BaseException:
        runtime.close()
        raise
    return runtime


def open_files(
    folder: Path,
    signature: Signature,
    *,
    name: str,
    runtime: str,
    process: OwnProcess | None = None,
    row_wise: bool = False,
) -> Runtime:
    """Opens the files of an artifact before they are one; nothing is checked."""
    path = folder / MODEL_FILES[runtime]
    if runtime == ONNX:
        return OnnxRuntime(str(path), signature)
    if runtime != PYTHON:
        from trilane.models.runtime.boosted import BoostedRuntime
        from trilane.models.runtime.opening import open_runtime

        return BoostedRuntime(open_runtime(runtime, path), signature)
    from trilane.models.runtime.apart import ApartRuntime
    from trilane.models.runtime.supervised import Opening

    limits = process or OwnProcess()
    opening = Opening(
        runtime="pickled",
        path=str(path.resolve()),
        inputs=(TensorSpec("features", "FP32", (-1, signature.width)),),
        row_wise=row_wise,
        memory=limits.memory,
        threads=limits.threads,
        timeout=limits.timeout / SECOND,
        load_timeout=limits.load_timeout / SECOND,
        declared="tl.python of its definition",
    )
    return ApartRuntime(name, opening, signature)
