"""Quantiles and thresholds T_k of many streams at once, mergeable. Public, usable alone.

| | knows | takes, for a unit |
| --- | --- | --- |
| `BinnedTail`, `BufferedTail` | the largest values, exactly; how many is said beforehand | memory for these |
| `Histogram` | every rank: float16 exactly, float32 to 2**-7 of the value | 20 to 180 KiB |
| `ReqSketch` | every rank, the far tail best | 33 KiB with k = 50 |
| `KllSketch` | every rank alike | 17 KiB with k = 1024 |

All offer `update`, `merge`, `tail_threshold`, `quantile`, `rank`, `error_bound`, `to_arrays` and `from_arrays`.
Where `is_exact` is false, a `Refinement` makes a threshold exact in a second pass.
"""

from __future__ import annotations

from .binned import LARGEST_CAPACITY, BinnedTail
from .buffered import BufferedTail
from .distribution import Distribution, find_distribution
from .histogram import Histogram
from .kll import KllSketch
from .moments import Moments
from .refinement import MissedBracket, Refinement
from .req import ReqSketch
from .sketch import Sketch
from .streams import Streams, UnitStreams, tail_rank
from .thresholds import DEAD, FLAG_NAMES, SPARSE, Thresholds, find_thresholds, tail_threshold

__all__ = [
    "DEAD",
    "FLAG_NAMES",
    "LARGEST_CAPACITY",
    "SPARSE",
    "BinnedTail",
    "BufferedTail",
    "Distribution",
    "Histogram",
    "KllSketch",
    "MissedBracket",
    "Moments",
    "Refinement",
    "ReqSketch",
    "Sketch",
    "Streams",
    "Thresholds",
    "UnitStreams",
    "find_distribution",
    "find_thresholds",
    "tail_rank",
    "tail_threshold",
]
