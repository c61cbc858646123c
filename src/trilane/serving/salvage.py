"""What is left of a batch that a model refused: the scores of the rows that it takes, as one may have spoilt them all.

Laws: a row that is scored here has the score that it has alone; one that is not has the reason that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.errors import TrilaneError
from trilane.models.signature import Scores
from trilane.serving.reading import Fault

__all__ = ["Salvaged", "by_halves", "one_by_one"]

_MOST = 3  # rows in a row that a model may refuse alone, before the rest of their batch is given up

_Predict: TypeAlias = Callable[[npt.NDArray[np.float32]], Scores]
Salvaged: TypeAlias = tuple[Scores, tuple[Fault, ...]]


def one_by_one(predict: _Predict, matrix: npt.NDArray[np.float32], error: TrilaneError) -> Salvaged:
    """The scores of a `matrix` that was refused with `error`, for whoever waits: after a few refusals it gives up."""
    scores, refused, running = np.full(len(matrix), np.nan), set[int](), 0
    reason = f"model: {error.what}"
    if len(matrix) == 1:
        return scores, (Fault(reason),)
    for row in range(len(matrix)):
        try:
            scores[row] = predict(matrix[row : row + 1])[0]
            running = 0
        except TrilaneError as alone:
            reason, running = f"model: {alone.what}", running + 1
            refused.add(row)
        if running == _MOST:
            refused |= {*range(row + 1, len(matrix))}
            break
    return scores, (Fault(reason, frozenset(refused) if len(refused) < len(matrix) else None),) if refused else ()


def by_halves(predict: _Predict, matrix: npt.NDArray[np.float32], error: TrilaneError) -> Salvaged:
    """The same for a job, which has the time: each row that the model takes is found, however many it does not."""
    size, scores, refused = len(matrix), np.full(len(matrix), np.nan), dict[str, set[int]]()
    left = [(0, size, error)]
    while left:
        start, stop, why = left.pop()
        if stop - start == 1:
            refused.setdefault(f"model: {why.what}", set()).add(start)
            continue
        middle = (start + stop) // 2
        for begin, end in ((start, middle), (middle, stop)):
            try:
                scores[begin:end] = predict(matrix[begin:end])
            except TrilaneError as smaller:
                left.append((begin, end, smaller))
    return scores, tuple(Fault(why, frozenset(rows) if len(rows) < size else None) for why, rows in refused.items())
