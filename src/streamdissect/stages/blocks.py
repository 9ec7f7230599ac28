"""Which block each image of a run falls into (methods 3.6)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

SUM_PART = 8
"""Part of the memory that the blocks of a layer being summed may take."""


def blocks_of(names: Iterable[str], n_blocks: int, by: str) -> NDArray[np.int64]:
    """The block of each image.

    Parameters
    ----------
    names : iterable of str
        Image names.
    n_blocks : int
    by : str
        `name`, `prefix` or `prefix:N`: see `parse_block_by`. Images that agree in it are in one block.

    Returns
    -------
    int64 (N,)
        blake2b of the text in UTF-8, its first 8 bytes as a little-endian number, modulo the blocks.
    """
    texts = [key_of(name, by) for name in names]
    digests = [blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() for text in texts]
    return np.array([int.from_bytes(digest, "little") % n_blocks for digest in digests], np.int64)


def key_of(name: str, by: str) -> str:
    """The part of an image's name that counts."""
    if by == "name":
        return name
    _, _, length = by.partition(":")
    return name[: int(length)] if length else name.partition("/")[0]
