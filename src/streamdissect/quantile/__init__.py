"""Thresholds T_k: the upper tails of many streams at once, exact and mergeable. Public, usable alone."""

from __future__ import annotations

from .binned import LARGEST_CAPACITY, BinnedTail
from .buffered import BufferedTail
from .refinement import Refinement, needs_refinement
from .streams import UnitStreams, tail_rank
from .thresholds import DEAD, FLAG_NAMES, SPARSE, Thresholds, find_thresholds, tail_threshold

__all__ = [
    "DEAD",
    "FLAG_NAMES",
    "LARGEST_CAPACITY",
    "SPARSE",
    "BinnedTail",
    "BufferedTail",
    "Refinement",
    "Thresholds",
    "UnitStreams",
    "find_thresholds",
    "needs_refinement",
    "tail_rank",
    "tail_threshold",
]
