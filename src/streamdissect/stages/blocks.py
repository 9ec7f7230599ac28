"""Which block each image of a run falls into (methods 3.6)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..data.csvtables import Table, digest_tables, require_table
from ..errors import BadInput

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
        See `parse_block_by`. Images that agree in it are in one block.

    Returns
    -------
    int64 (N,)
        blake2b of the text in UTF-8, its first 8 bytes as a little-endian number, modulo the blocks.

    Raises
    ------
    BadInput
        The table of `by` cannot be used, or lacks an image.
    """
    texts = keys_in_table(names, by) if is_table(by) else [key_of(name, by) for name in names]
    digests = [blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() for text in texts]
    return np.array([int.from_bytes(digest, "little") % n_blocks for digest in digests], np.int64)


def key_of(name: str, by: str) -> str:
    """The part of an image's name that counts."""
    if by == "name":
        return name
    _, _, length = by.partition(":")
    return name[: int(length)] if length else name.partition("/")[0]


def is_table(by: str) -> bool:
    """Whether blocks go by a column of a table."""
    return ".csv:" in by


def open_column(by: str) -> tuple[Table, str]:
    """The table, and the column's name."""
    path, _, column = by.rpartition(":")
    return require_table(*os.path.split(path), ("image", column), "a table of that name, for --block-by"), column


def digest_column(by: str) -> str | None:
    """A digest of the table that blocks go by; None where they go by names."""
    return digest_tables([open_column(by)[0]]).hex() if is_table(by) else None


def keys_in_table(names: Iterable[str], by: str) -> list[str]:
    """Each image's cell."""
    table, column = open_column(by)
    cells: dict[str, str] = {}
    for row in table.rows:
        image = row.get("image")
        if image in cells:
            raise BadInput(row.place, f"image {image!r} again", "each image once", "remove one of the lines")
        cells[image] = row.get(column)
    keys = []
    for name in names:
        if name not in cells:
            raise BadInput(table.path, f"no line for image {name!r}", "one for each image of the run", "add it")
        keys.append(cells[name])
    return keys
