"""Masks moved bit by bit: only what is on is touched, one pixel in some two hundred."""

# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..kernels.numba_bits import lowest_bit
from ..kernels.numba_jit import jit


@jit
def scatter(masks, n_columns, n_words, begin, target, moved):
    """moved[a] |= every bit of masks[a], (A, H * words), wherever its pixel goes; see `PixelWarp.targets`."""
    for a in range(masks.shape[0]):
        for at in range(masks.shape[1]):
            word = masks[a, at]
            if word == 0:
                continue
            row = at // n_words
            first = row * n_columns + (at - row * n_words) * 64
            while word != 0:
                pixel = first + lowest_bit(word)
                word &= word - np.uint64(1)
                for e in range(begin[pixel], begin[pixel + 1]):
                    bit = target[e]
                    moved[a, bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
