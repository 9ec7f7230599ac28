"""What is gathered of a layer while its activations pass: fixed by the plan, saved by each worker, merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..measure.topimages import TopImages
from ..quantile import (
    BinnedTail,
    BufferedTail,
    Distribution,
    Histogram,
    KllSketch,
    Moments,
    ReqSketch,
    Sketch,
    Streams,
    find_distribution,
)
from ..store.activations import LayerArray
from ..store.partials import under_prefix, with_prefix
from ..tally import Arrays

STREAMS: dict[str, type[Streams]] = {
    cls.kind: cls for cls in (BinnedTail, BufferedTail, Histogram, ReqSketch, KllSketch)
}


@dataclass(frozen=True)
class StreamPlan:
    """Streams of a kind, with what its constructor takes between the units and the dtype."""

    kind: str
    settings: tuple[int, ...] = ()

    def streams(self, layer: LayerArray, threads: int = 1) -> Streams:
        """Fresh ones for a layer."""
        make: Callable[..., Streams] = STREAMS[self.kind]
        streams = make(layer.n_units, *self.settings, layer.dtype)
        if isinstance(streams, Sketch):
            streams.threads = threads
        return streams

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {"kind": self.kind, "settings": list(self.settings)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(str(found["kind"]), tuple(int(each) for each in found["settings"]))


@dataclass(frozen=True)
class LayerPlan:
    """What is gathered of one layer: fixed when the run is made."""

    array: LayerArray
    streams: StreamPlan
    """Whence the thresholds come."""
    sketch: StreamPlan | None
    """Whence the distributions come, where the streams do not know them."""
    has_distribution: bool
    """Whether they are wanted."""
    n_top: int

    @classmethod
    def from_json(cls, layer: Mapping[str, Any], n_top: int) -> Self:
        """From a layer of run.json."""
        sketch = layer["sketch"]
        return cls(
            LayerArray.from_json(layer["array"]),
            StreamPlan.from_json(layer["streams"]),
            None if sketch is None else StreamPlan.from_json(sketch),
            bool(layer["distribution"]),
            n_top,
        )


class LayerTally:
    """One layer's tallies over some of the images.

    Parameters
    ----------
    plan : LayerPlan
    threads : int
        That sketches may use.
    """

    def __init__(self, plan: LayerPlan, threads: int = 1) -> None:
        self.plan = plan
        self.streams = plan.streams.streams(plan.array, threads)
        self.sketch = None if plan.sketch is None else plan.sketch.streams(plan.array, threads)
        self.moments = None if plan.sketch is None else Moments(plan.array.n_units)
        self.top = TopImages(plan.array.n_units, plan.n_top)

    def update(self, maps: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Take in maps (B, K, h, w), and which rows of the store they are; gives keys (B, K) of the maps' maxima."""
        highest = self.streams.update(maps)
        if self.sketch is not None and self.moments is not None:
            self.sketch.update(maps)
            self.moments.update(maps)
        self.top.add(highest, rows)
        return highest

    def merge(self, other: Self) -> None:
        """Take in another part of the images; ValueError where it was gathered otherwise."""
        self.streams.merge(other.streams)
        if self.sketch is not None and other.sketch is not None:
            self.sketch.merge(other.sketch)
        if self.moments is not None and other.moments is not None:
            self.moments.merge(other.moments)
        self.top.merge(other.top)

    def distribution(self) -> Distribution | None:
        """Of all values; None where the plan gathers none."""
        if not self.plan.has_distribution:
            return None
        if self.sketch is not None:
            return find_distribution(self.sketch, self.streams, self.moments)
        return find_distribution(self.streams, self.streams)

    def to_arrays(self) -> Arrays:
        """The state."""
        arrays = with_prefix("streams", self.streams.to_arrays()) | with_prefix("top", self.top.to_arrays())
        if self.sketch is not None and self.moments is not None:
            arrays |= with_prefix("sketch", self.sketch.to_arrays())
            arrays |= with_prefix("moments", self.moments.to_arrays())
        return arrays

    @classmethod
    def restore(cls, plan: LayerPlan, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError for a state that is cut or of another plan."""
        tally = cls.__new__(cls)
        tally.plan, saved = plan, dict(arrays)
        tally.streams = STREAMS[plan.streams.kind].from_arrays(under_prefix("streams", saved))
        tally.sketch = tally.moments = None
        if plan.sketch is not None:
            tally.sketch = STREAMS[plan.sketch.kind].from_arrays(under_prefix("sketch", saved))
            tally.moments = Moments.from_arrays(under_prefix("moments", saved))
        tally.top = TopImages.from_arrays(under_prefix("top", saved))
        return tally
