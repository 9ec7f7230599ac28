"""Which way of counting is the fastest: found by trying each on the first maps, for all of them count the same."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import AxisWeights, PlaneBatch

FORMS = ("device", "bits", "maps")
"""Who counts for the backend `torch`: its device, or the host, which is sent masks or maps from there."""
TRIAL_SECONDS = 0.02
"""That each way is tried for, after one image that is not timed."""
clock = time.perf_counter


class Way(NamedTuple):
    """How maps are counted: arguments of `kernels.count_maps`."""

    backend: str = "auto"
    device: str | None = None
    form: str | None = None


def ways_of(backend: str = "auto", device: str | None = None, *, imports_torch: bool = False) -> tuple[Way, ...]:
    """Ways to count that a backend leaves open.

    Parameters
    ----------
    backend : str
        `torch`: all of its forms. `auto`: the kernels of the host, and beside them the forms of PyTorch on CUDA, where
        that is found and STREAMDISSECT_KERNELS names no kernels. Another: itself alone.
    device : str, optional
        Of the backend `torch`.
    imports_torch : bool
        Import PyTorch to look for CUDA. If not, `auto` leaves it out unless it is imported already.
    """
    if backend == "torch":
        return tuple(Way("torch", device, form) for form in FORMS)
    is_open = backend == os.environ.get("STREAMDISSECT_KERNELS", "auto") == "auto"
    if is_open and finds_cuda(imports_torch):
        return (Way(), *ways_of("torch", "cuda"))
    return (Way(backend, device),)


def finds_cuda(imports_torch: bool) -> bool:
    """Is there a CUDA device, as far as one may look?"""
    found = import_module("torch") if imports_torch else sys.modules.get("torch")
    return found is not None and bool(found.cuda.is_available())


class Chooser:
    """A choice among ways to count, made anew for each kind of maps, and kept.

    To be given to `kernels.count_maps` as its backend. What is fastest depends on the share of maps that pass as well,
    so each set of thresholds, that is each layer, takes a chooser of its own. Whatever is chosen, the counters are the
    same.

    Parameters
    ----------
    ways : sequence of Way
        At least one, see `ways_of`. A single one is taken without a trial.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self.ways = tuple(ways)
        self.chosen: dict[Hashable, Way] = {}
        """(maps of an image, dtype, device, mask grid) -> the way that was found."""

    def way(
        self,
        count: Callable[..., None],
        maps: Any,
        thresholds: NDArray[np.float32],
        rows: AxisWeights,
        columns: AxisWeights,
        planes: PlaneBatch,
        counters: NDArray[np.int64],
        chance: NDArray[np.int64],
        active: NDArray[np.int64],
        **options: Any,
    ) -> Way:
        """The way for these maps, which are counted in vain if there are none of their kind yet.

        Arguments are those of `kernels.count_maps`, which is `count`; the counters are left alone.
        """
        kind = maps.shape[1:], str(maps.dtype), str(getattr(maps, "device", "cpu")), planes.shape
        if kind not in self.chosen:
            scratch = [np.zeros_like(array) for array in (counters, chance, active)]

            def trial(way: Way, n: int) -> None:
                labels = planes.part(0, n)
                count(maps[:n], thresholds, rows, columns, labels, *scratch, **way._asdict(), **options)

            self.chosen[kind] = self.fastest(trial, len(maps))
        return self.chosen[kind]

    def fastest(self, trial: Callable[[Way, int], None], n_images: int) -> Way:
        """The way that takes the least time for an image; `trial(way, n)` counts the first n.

        Ways that fail are left out. If all do, the last failure is raised.
        """
        if len(self.ways) == 1:
            return self.ways[0]
        seconds: dict[Way, float] = {}
        failure = None
        for way in self.ways:
            try:
                seconds[way] = seconds_of(partial(trial, way), n_images)
            except RuntimeError as error:  # PyTorch's word for a device without room for it, among others
                failure = error
        if failure is not None and not seconds:
            raise failure
        return min(seconds, key=seconds.__getitem__)


def seconds_of(trial: Callable[[int], None], n_images: int) -> float:
    """Time for an image, from the most images that were counted at once: twice as many each time."""
    trial(1)  # loads, compiles, takes memory
    n, spent, best = 1, 0.0, np.inf
    while True:
        begin = clock()
        trial(n)
        taken = clock() - begin
        best, spent = min(best, taken), spent + taken
        if spent >= TRIAL_SECONDS:
            return float(best / n)
        if n < n_images:
            n, best = min(2 * n, n_images), np.inf
