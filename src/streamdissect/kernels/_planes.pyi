import numpy as np
from numpy.typing import NDArray

from .labels import LabelIndex

def label_planes(
    layers: list[NDArray[np.uint16]],
    whole: list[int],
    height: int,
    width: int,
    column_of: NDArray[np.int32],
    category: NDArray[np.int32],
    ignore: NDArray[np.int32],
    as_set: bool,
    touch: bool,
    labelled_only: bool,
) -> LabelIndex: ...
