from typing import Any

import numpy as np
from numpy.typing import NDArray

compiler: str
has_clones: bool
MARGIN: float
SMALLEST_MARGIN: float

def levels() -> list[str]: ...
def level() -> str: ...
def use_level(name: str) -> None: ...

class Axis:
    def __init__(
        self,
        n_source: int,
        n_pixels: int,
        first: NDArray[np.int32],
        second: NDArray[np.int32],
        weight: NDArray[np.float32],
        numerator: NDArray[np.int64],
        denominator: int,
        start: NDArray[np.int32],
        begin: NDArray[np.int32],
        end: NDArray[np.int32],
    ) -> None: ...

class Labels:
    def __init__(
        self,
        words: NDArray[np.uint64],
        word_ptr: NDArray[np.int64],
        plane_ptr: NDArray[np.int64],
        plane_row: NDArray[np.int32],
        touch_row: NDArray[np.int32],
        whole_ptr: NDArray[np.int64],
        whole_row: NDArray[np.int32],
        present_ptr: NDArray[np.int64],
        present_row: NDArray[np.int32],
        present_area: NDArray[np.int64],
    ) -> None: ...

def mask_maps(
    maps: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    or_equal: bool,
    rows: Axis,
    columns: Axis,
    bits: NDArray[np.uint64],
    margin: float = ...,
) -> None: ...
def count_maps(
    half: NDArray[np.uint16] | None,
    single: NDArray[Any] | None,
    thresholds: NDArray[np.float32],
    keys: NDArray[np.int32],
    keys16: NDArray[np.int16],
    or_equal: bool,
    rows: Axis,
    columns: Axis,
    labels: Labels,
    most_planes: int,
    unit_begin: int,
    unit_end: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
    margin: float = ...,
) -> None: ...
def count_masks(
    masks: NDArray[np.uint64],
    n_rows: int,
    labels: Labels,
    most_planes: int,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
) -> None: ...
