"""The pixels of a mask as an SVG path along their edges, so that filling the path gives the same pixels again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outline(mask: NDArray[np.bool_]) -> str:
    """Trace a mask.

    Parameters
    ----------
    mask : bool (H, W)

    Returns
    -------
    str
        Path data in pixels of the mask grid, `M1 0h2v1h-2z...`: closed loops of horizontal and vertical steps, inside
        by the even-odd rule. Empty for a mask without pixels.

    Notes
    -----
    An edge lies between two pixels of which one is on. The corners of a row of grid points, from left to right, are in
    turn the beginnings and ends of its edges, and so are those of a column from top to bottom; where two pixels touch
    by a corner alone, that corner counts twice. So each corner has one partner in its row and one in its column, and
    following them in turn closes a loop.

    >>> outline(np.array([[False, True, True]]))
    'M1 0h2v1h-2z'
    """
    wide = np.pad(mask, 1)
    crossing = wide[:-1, :-1] ^ wide[:-1, 1:] ^ wide[1:, :-1] ^ wide[1:, 1:]  # (H + 1, W + 1) an odd number is on
    touching = (wide[:-1, :-1] == wide[1:, 1:]) & (wide[:-1, 1:] == wide[1:, :-1]) & (wide[:-1, :-1] != wide[:-1, 1:])
    y, x = np.nonzero(crossing | touching)
    twice = 1 + touching[y, x]
    y, x = np.repeat(y, twice), np.repeat(x, twice)
    n = len(y)
    by_column = np.lexsort((np.arange(n), y, x))
    partner = np.empty(n, np.int64)
    partner[by_column[0::2]], partner[by_column[1::2]] = by_column[1::2], by_column[0::2]
    below, across, down = partner.tolist(), x.tolist(), y.tolist()
    seen = [False] * n
    parts: list[str] = []
    for first in range(0, n, 2):
        if seen[first]:
            continue
        parts.append(f"M{across[first]} {down[first]}")
        corner = first
        while True:
            beside = corner ^ 1  # neighbours in the order of rows are partners
            seen[corner] = seen[beside] = True
            parts.append(f"h{across[beside] - across[corner]}")
            corner = below[beside]
            if corner == first:
                break
            parts.append(f"v{down[corner] - down[beside]}")
        parts.append("z")
    return "".join(parts)
