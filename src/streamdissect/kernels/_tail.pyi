import numpy as np
from numpy.typing import NDArray

def update_bins(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit: int,
    capacity: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    above: NDArray[np.int64],
    bound: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> tuple[int, int]: ...
def update_buffer(
    single: NDArray[np.uint32],
    capacity: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    values: NDArray[np.int32],
    filled: NDArray[np.int64],
    bound: NDArray[np.int32],
    highest: NDArray[np.int32],
) -> None: ...
def update_histogram(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    unit: int,
    counts: NDArray[np.int64],
    extremes: NDArray[np.int32],
    page_of: NDArray[np.int32],
    pages: NDArray[np.uint32],
    vacant: NDArray[np.int32],
    n_vacant: int,
    highest: NDArray[np.int32],
) -> tuple[int, int]: ...
def collect(
    half: NDArray[np.uint16] | None,
    single: NDArray[np.uint32] | None,
    slot: int,
    unit: NDArray[np.int32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    counts: NDArray[np.int64],
    pool: NDArray[np.int64],
    filled: int,
) -> tuple[int, int]: ...
