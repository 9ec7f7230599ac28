import numpy as np
from numpy.typing import NDArray

def update_sketch(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit_begin: int,
    unit_end: int,
    seed: int,
    amounts: NDArray[np.int64],
    fill: NDArray[np.int64],
    turn: NDArray[np.int64],
    rows: NDArray[np.int32],
    pending: NDArray[np.int32],
    n_pending: int,
    coins: NDArray[np.uint32],
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None: ...
