"""The masks of a scoring as they were counted: computed again from the activations, or read where they were kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..kernels import AxisWeights, mask_maps
from ..kernels.reference import unpack
from ..measure.dissection import Dissection
from ..measure.fieldmap import AxisField
from ..measure.upsample import axis_weights
from ..options import ScoreOptions
from ..quantile import DEAD, SPARSE
from ..stages.directed import DirectedMaps
from ..stages.directionfiles import directions_to_setting, find_layer, read_directions
from ..stages.masks import masks_path
from ..stages.recording import layers_of, store_of
from ..stages.sources import Maps
from ..store.masks import iter_masks
from ..store.rundir import RunDir

Shape = tuple[int, int]
Found = tuple[int, int, NDArray[np.bool_]]
"""Row, unit, mask (H, W)."""
NO_MASKS = "score again with --keep-masks, or extract without --spill none"


@dataclass
class StoredMasks:
    """Computes masks from the activations, as the scoring did."""

    run: RunDir
    result: Dissection
    options: ScoreOptions
    """As it was scored."""
    maps: Maps
    positions: Mapping[str, int]
    """Layer of the result -> its position in the run."""
    _weights: dict[tuple[str, Shape], tuple[AxisWeights, AxisWeights]] = field(default_factory=dict)

    def iter_masks(
        self, layer: str, wanted: Mapping[int, Sequence[int]], grids: Mapping[int, Shape]
    ) -> Iterator[Found]:
        """Masks of the units wanted in each row, whose mask grid is known; rows ascending."""
        spec, thresholds = layers_of(self.run)[self.positions[layer]], self._thresholds(layer)
        by_chunk: dict[int, list[int]] = {}
        for row in sorted(wanted.keys() & grids.keys()):
            by_chunk.setdefault(row // spec.chunk_images, []).append(row)  # a chunk is decoded whole
        for rows in by_chunk.values():
            held = self.maps.read(layer, range(rows[0], rows[-1] + 1))
            for row in rows:
                units = np.array(wanted[row], np.int64)
                shape = grids[row]
                bits = mask_maps(
                    np.ascontiguousarray(held[row - rows[0], units]),
                    thresholds[units],
                    *self._axes(layer, shape),
                    or_equal=self.options.mask_test == "ge",
                    backend="auto",
                )
                for unit, mask in zip(units.tolist(), bits, strict=True):
                    yield row, unit, unpack(mask, shape)

    def _thresholds(self, layer: str) -> NDArray[np.float32]:
        """(K,); NaN, an empty mask, where `>=` would light a DEAD or SPARSE unit everywhere."""
        found = self.result.layers[layer]
        if self.options.mask_test == "gt":
            return found.threshold
        return np.where(found.flags & (DEAD | SPARSE), np.float32(np.nan), found.threshold)

    def _axes(self, layer: str, shape: Shape) -> tuple[AxisWeights, AxisWeights]:
        """Interpolation weights of rows and columns."""
        if (layer, shape) not in self._weights:
            described = self.run.manifest["layers"][self.positions[layer]]
            known, mode = described["field"], self.result.layers[layer].attributes["upsample"]
            grid, size = described["array"]["grid"], self.run.manifest["plan"]["input_size"]
            fields = [AxisField.from_json(known[axis]) if known and mode == "rf" else None
                      for axis in ("rows", "columns")]  # fmt: skip
            axes = [axis_weights(mode, int(grid[i]), shape[i], int(size[i]), fields[i]) for i in (0, 1)]
            self._weights[layer, shape] = axes[0], axes[1]
        return self._weights[layer, shape]


@dataclass
class KeptMasks:
    """Reads the masks that `score --keep-masks` left."""

    run: RunDir
    name: str | None
    positions: Mapping[str, int]

    def iter_masks(
        self, layer: str, wanted: Mapping[int, Sequence[int]], grids: Mapping[int, Shape]
    ) -> Iterator[Found]:
        """See `StoredMasks`; masks that were not kept are empty."""
        for shard in range(self.run.n_shards):
            inside = [row for row in self.run.rows(shard) if row in wanted]
            if not inside:
                continue
            left = {(row, unit) for row in inside for unit in wanted[row]}
            for row, unit, shape, bits in iter_masks(masks_path(self.run, self.name, shard), self.positions[layer]):
                if (row, unit) in left:
                    left.discard((row, unit))
                    yield row, unit, unpack(bits, shape)
            for row, unit in sorted(left):
                if row in grids:
                    yield row, unit, np.zeros(grids[row], np.bool_)


def find_masks(
    run: RunDir, result: Dissection, settings: dict[str, Any], options: ScoreOptions
) -> tuple[StoredMasks | KeptMasks | None, str]:
    """Where the masks of a scoring are to be had, or None; and what a reader has to know of it."""
    names = [spec.name for spec in layers_of(run)]
    if run.is_spilled and run.activations_path.exists():
        if not settings.get("directions"):
            return StoredMasks(run, result, options, store_of(run), {name: names.index(name) for name in names}), ""
        try:
            directions = read_directions(options)
            if directions_to_setting(options) == settings["directions"]:
                position = find_layer(run, options, directions)
                maps = DirectedMaps(store_of(run), [layers_of(run)[position]], [directions], options.threads)
                return StoredMasks(run, result, options, maps, {names[position]: position}), ""
            reason = "their file has changed"
        except BadInput as error:
            reason = str(error)
        return None, f"The directions are not to be had ({reason}), so masks are left out."
    if settings.get("keep_masks") and all(masks_path(run, options.name, s).exists() for s in range(run.n_shards)):
        positions = {name: i for i, name in enumerate(result.layers)}
        return KeptMasks(run, options.name, positions), ""
    if run.is_spilled:
        why = "The activations were dropped by clean, and masks with them"
    else:
        why = "The activations were not stored (--spill none), and no masks were kept"
    return None, f"{why}, so images are shown without masks: {NO_MASKS}."
