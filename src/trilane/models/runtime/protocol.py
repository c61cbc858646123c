"""The promise of a runtime: what executes an artifact.

Laws: the score of a row depends on that row alone, to the last bit: not on its neighbours in the batch, nor on how many
they are, nor on when it is asked (`explain` rebuilds a decision by it); NaN is a value; the matrix is not changed.
"""

from __future__ import annotations

from typing import Protocol

from trilane.models.signature import Matrix, Scores, Signature

__all__ = ["Runtime"]


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
