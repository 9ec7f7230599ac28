"""Thresholds T_k: the upper tails of many streams at once, exact and mergeable. Public, usable alone.

Where the tail, or how many values will come, is not known beforehand: sketches, of bounded memory and bounded error.
"""

from __future__ import annotations

from .binned import LARGEST_CAPACITY, BinnedTail
from .buffered import BufferedTail
from .kll import KllSketch
from .refinement import Refinement, needs_refinement
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
    "KllSketch",
    "Refinement",
    "ReqSketch",
    "Sketch",
    "Streams",
    "Thresholds",
    "UnitStreams",
    "find_thresholds",
    "needs_refinement",
    "tail_rank",
    "tail_threshold",
]
