"""Values as 64-bit keys and as coupons of Apache DataSketches' HyperLogLog, many at a time.

Law: the registers that `coupons` fill are those of `hll_sketch.update` of the same integers (MurmurHash3 128, x64,
seed 9001), so a sketch written here is read by every DataSketches library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Floats, Ints

__all__ = ["coupons", "estimates", "text_key"]

_U = np.uint64
_SEED = 9001
_SLOT_BITS = 26


def text_key(text: str) -> int:
    """A text as a signed 64-bit key: two texts share one with a chance of 2**-64."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def coupons(keys: Ints, lg_k: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """The register and the rank of each key in a sketch of 2**lg_k registers."""
    h1, h2 = _murmur3(keys)
    slot = h1 & _U((1 << min(lg_k, _SLOT_BITS)) - 1)
    high, low = (h2 >> _U(32)).astype(np.float64), (h2 & _U(0xFFFFFFFF)).astype(np.float64)
    length = np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1])
    return slot.astype(np.uint16), (np.minimum(64 - length, 62) + 1).astype(np.uint8)


def _murmur3(keys: Ints) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    k = keys.view(np.uint64) * _U(0x87C37B91114253D5)
    k = ((k << _U(31)) | (k >> _U(33))) * _U(0x4CF5AD432745937F)
    size = _U(8)
    h1, h2 = (_U(_SEED) ^ k) ^ size, np.full_like(k, _SEED) ^ size
    h1 = h1 + h2
    h2 = h2 + h1
    h1, h2 = _mixed(h1), _mixed(h2)
    h1 = h1 + h2
    return h1, h2 + h1


def _mixed(k: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    k = (k ^ (k >> _U(33))) * _U(0xFF51AFD7ED558CCD)
    k = (k ^ (k >> _U(33))) * _U(0xC4CEB9FE1A85EC53)
    return k ^ (k >> _U(33))


def sketch_bytes(registers: npt.NDArray[np.uint8]) -> bytes:
    """Full registers as an updatable HLL_8 sketch. It is marked as merged, so the estimate depends on them alone."""
    lg_k = len(registers).bit_length() - 1
    powers = 2.0 ** -registers.astype(np.float64)
    small = registers < 32
    sums = np.array([0.0, powers[small].sum(), powers[~small].sum()])  # sums of powers of two: exact in any order
    counts = np.array([(registers == 0).sum(), 0], "<i4")
    return bytes([10, 1, 7, lg_k, 0, 16, 0, 10]) + sums.tobytes() + counts.tobytes() + registers.tobytes()


def estimates(rows: Iterable[npt.NDArray[np.uint8]]) -> Floats:
    """The composite estimate of the number of distinct keys behind each row of registers."""
    from datasketches import hll_sketch

    return np.array([hll_sketch.deserialize(sketch_bytes(row)).get_estimate() for row in rows], np.float64)
