"""Integers in the order of the floats they stand for, as csrc/bits.h makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)
BITS: dict[np.dtype[Any], np.dtype[Any]] = {FLOAT16: np.dtype(np.uint16), FLOAT32: np.dtype(np.uint32)}
INFINITY_KEYS = {FLOAT16: 0x7C00, FLOAT32: 0x7F800000}
"""Of +inf; that of -inf is one below its negative."""
NO_KEY = -(2**31)
"""What the kernels give for a map without a number."""


def bits_of(values: NDArray[Any]) -> NDArray[Any]:
    """(B, K, ...) float16 or float32 -> (B, K, n) uint16 or uint32, contiguous, -0.0 folded to +0.0."""
    values = np.ascontiguousarray(values)
    flat = values.reshape(*values.shape[:2], -1).view(BITS[values.dtype])
    negative_zero = flat.dtype.type(1 << (8 * flat.itemsize - 1))
    is_negative_zero = flat == negative_zero
    folded: NDArray[Any] = np.where(is_negative_zero, flat.dtype.type(0), flat) if is_negative_zero.any() else flat
    return folded


def keys_to_values(keys: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Keys of numbers of `dtype` -> those numbers, as float32."""
    if dtype == FLOAT16:
        narrow = keys.astype(np.int16)
        return (narrow ^ ((narrow >> 15) & 0x7FFF)).view(np.float16).astype(np.float32)
    wide = keys.astype(np.int32)
    return (wide ^ ((wide >> 31) & 0x7FFFFFFF)).view(np.float32)


def keys_at_most(bounds: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Keys of the largest numbers of `dtype` that do not exceed these, which are no NaN."""
    with np.errstate(over="ignore"):
        near = (bounds + 0.0).astype(dtype)  # -0.0 counts as zero
    bits = near.view(f"i{dtype.itemsize}").astype(np.int64)
    keys = bits ^ ((bits >> 63) & ((1 << (8 * dtype.itemsize - 1)) - 1))
    below: NDArray[np.int64] = keys - (near > bounds)
    return below
