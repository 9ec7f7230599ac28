"""What the kernels need to know about a dataset's labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_NUMBERS = 65536
"""Label numbers are uint16."""

LabelIndex = tuple[
    NDArray[np.uint64],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.int64],
]
"""See kernels.label_planes."""


@dataclass(frozen=True, eq=False)
class LabelTables:
    """Columns and categories of label numbers, and the choices of methods 3.8. Checked when it is made.

    Raises ValueError where the arrays are of another shape or type, or point outside each other.
    """

    column_of: NDArray[np.int32]
    """(65536,) column of each label number, -1 where it is no concept; no two numbers share a column."""
    category: NDArray[np.int32]
    """(C,) of each column."""
    ignore: NDArray[np.int32]
    """(G,) label number whose pixels are not judged for the category, 0: none."""
    as_set: bool
    """A label given twice counts once."""
    touch: bool
    """A mask counts whole in a category if it meets a label of it."""
    labelled_only: bool
    """Only pixels with a label of the category are judged for it."""

    def __post_init__(self) -> None:
        sizes = {"column_of": N_NUMBERS, "category": len(self.category), "ignore": len(self.ignore)}
        for name, size in sizes.items():
            array = getattr(self, name)
            is_plain = array.flags.c_contiguous and array.flags.aligned
            if array.shape != (size,) or array.dtype != np.int32 or not is_plain:
                raise ValueError(f"{name} is contiguous int32 ({size},), not {array.dtype} {array.shape}")
        used = self.column_of[self.column_of >= 0]
        if np.any(used >= len(self.category)) or len(np.unique(used)) != len(used):
            raise ValueError(f"column_of gives each of the {len(self.category)} columns to one number at most")
        for name, values, end in (("category", self.category, len(self.ignore)), ("ignore", self.ignore, N_NUMBERS)):
            if np.any(values < 0) or np.any(values >= end):
                raise ValueError(f"{name} lies within 0..{end - 1}")
