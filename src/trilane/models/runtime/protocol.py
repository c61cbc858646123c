"""The promises of a runtime: what executes an artifact, or a model of any other kind.

Laws of `Runtime`: the score of a row depends on that row alone, to the last bit: not on its neighbours in the batch,
nor on how many they are, nor on when it is asked (`explain` rebuilds a decision by it); NaN is a value; the matrix is
not changed.

Laws of `TensorRuntime`: what it gives fits what it says that it gives; where all first axes are free, the answer to a
row depends on that row alone, but for the last bits, for kernels of linear algebra sum in an order that changes with
the size of a batch; what it is given is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from trilane.models.signature import Matrix, Scores, Signature
from trilane.models.tensor import TensorSpec

__all__ = ["Arrays", "Runtime", "TensorRuntime"]

Arrays: TypeAlias = Sequence[npt.NDArray[Any]]


class Runtime(Protocol):
    """An opened model. One thread at a time may use it."""

    @property
    def signature(self) -> Signature:
        """What goes in and what comes out."""
        ...

    def predict(self, matrix: Matrix) -> Scores:
        """The scores [n], float64, of a float32 matrix [n, width]. Raises ModelError if the matrix does not fit."""
        ...

    def close(self) -> None:
        """Gives back what is held; afterwards `predict` raises ModelError."""
        ...


class TensorRuntime(Protocol):
    """An opened model of named tensors, as its file or its owner declares them. One thread at a time may use it."""

    @property
    def platform(self) -> str:
        """What kind of model it is, in the words of the Open Inference Protocol, such as `onnxruntime_onnx`."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        ...

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        """The outputs, in their order, for arrays that fit `inputs`, in theirs. Raises ModelError if it cannot."""
        ...

    def close(self) -> None:
        """Gives back what is held; afterwards `run` raises ModelError."""
        ...
