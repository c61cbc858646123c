"""ONNX Runtime on the CPU, one thread, as a runtime.

Laws: a graph that its exporter marked as row-wise (trees and what is exactly rounded) runs a whole batch at once; any
other runs row by row, because the kernels of linear algebra and of vectorised functions give other bits to the same row
at another place or in a batch of another size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from trilane.errors import ModelError
from trilane.models.artifact import Artifact, library_versions, machine
from trilane.models.export import ROW_WISE
from trilane.models.runtime.protocol import Runtime
from trilane.models.runtime.session import is_shared, open_session
from trilane.models.runtime.sharing import laid_out
from trilane.models.signature import Matrix, Scores, Signature
from trilane.models.stamps import Stamps

__all__ = ["OnnxRuntime", "open_onnx", "verify_golden"]

_TOLERANCE = 1e-5


class OnnxRuntime:
    """An opened ONNX model (the bytes, or the path of the file) that keeps the contract of models.export."""

    def __init__(self, model: bytes | str, signature: Signature, *, shared: bool | None = None) -> None:
        self.signature = signature
        session = open_session(model, shared=shared)
        try:
            (given,), (answer,) = session.get_inputs(), session.get_outputs()
            fits = given.name == "features" and answer.name == "score" and given.shape[1] == signature.width
        except (ValueError, IndexError):
            fits = False
        if not fits:
            raise ModelError(
                f"the model does not take `features` [n, {signature.width}] and give `score`",
                where=_place(model),
                remedy="Export it with trilane.models.export.to_onnx",
            )
        self.row_wise = session.get_modelmeta().custom_metadata_map.get(ROW_WISE) == "1"
        self._session: ort.InferenceSession | None = session

    def predict(self, matrix: Matrix) -> Scores:
        self.signature.check(matrix)
        session = self._session
        if session is None:
            raise ModelError("the runtime is closed", where="features", remedy="Open the artifact again")
        try:
            if self.row_wise and len(matrix):
                return np.asarray(session.run(None, {"features": matrix})[0], np.float64).reshape(-1)
            scores = np.empty(len(matrix), np.float64)
            for row in range(len(matrix)):
                scores[row] = session.run(None, {"features": matrix[row : row + 1]})[0].reshape(-1)[0]
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot run the model: {error}",
                where="features",
                remedy="Check that the estimator keeps all columns: an imputer drops those that are always missing",
            ) from error
        return scores

    def close(self) -> None:
        self._session = None


def open_onnx(
    artifact: Artifact, *, verify: bool = True, weights: Path | None = None, stamps: Stamps | None = None
) -> OnnxRuntime:
    """Opens the model of an artifact; with `verify`, it must first give the golden answers.

    `weights`: a folder into which those of a large model are laid out, so that all processes map one copy. Raises
    ModelError if ONNX Runtime does not take it or its answers differ.
    """
    path, shared = artifact.model_path, is_shared(str(artifact.model_path))
    if shared and weights is not None:
        path = laid_out(path, weights, stamps or Stamps(None))
    runtime = OnnxRuntime(str(path), artifact.manifest.signature, shared=shared)
    if verify:
        verify_golden(runtime, artifact)
    return runtime


def verify_golden(runtime: Runtime, artifact: Artifact) -> bool:
    """Whether the golden rows get the golden scores to the last bit.

    On the machine and library version that made them they must; elsewhere they may differ by 1e-5 of their size, since
    another processor takes other kernels. Raises ModelError if they differ more.
    """
    golden = artifact.golden()
    expected, found = golden.expected(), runtime.predict(golden.matrix())
    if np.array_equal(found.view(np.int64), expected.view(np.int64)):
        return True
    same_place = golden.machine == machine() and golden.libraries == library_versions(golden.libraries)
    close = np.isclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
    if same_place or not close.all():
        differing = found.view(np.int64) != expected.view(np.int64) if same_place else ~close
        row = int(np.argmax(differing))
        raise ModelError(
            f"golden row {row} scores {float(found[row])!r} instead of {float(expected[row])!r}"
            + (", on the machine that packed it" if same_place else f"; it was packed on {golden.machine}"),
            where=str(artifact.path),
            remedy="Train and pack the model again with the installed libraries",
        )
    return False


def _place(model: bytes | str) -> str:
    return model if isinstance(model, str) else f"model of {len(model)} bytes"
