"""Taking rows back: how the states of added rows are turned round.

Law: the states that can are commutative groups: merging a state and its inverse gives the state of no events, bit for
bit, and merging in any order gives the same; so of rows that are added and taken back in any order there remains what
was never taken back. Least values, sets and sketches cannot: they forget what they would have to return to.
"""

from __future__ import annotations

import numpy as np

from trilane.features.algebra import Columns, Ints, WideSum
from trilane.features.ragged import Ragged

__all__ = ["signed"]


def signed(state: Columns | Ragged, signs: Ints) -> Columns | Ragged:
    """Lifted states of single rows, those with sign -1 turned round."""
    if not isinstance(state, Ragged):
        return tuple(part * signs for part in state)
    hops, number, *limbs = state.parts
    sign = signs[state.of]
    turned = WideSum().pack(tuple(limb.astype(np.int64) * sign for limb in limbs))
    parts = (hops, number * sign, *(part.astype(limb.dtype) for part, limb in zip(turned, limbs, strict=True)))
    return Ragged(state.size, state.of, parts)
