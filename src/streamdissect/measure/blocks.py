"""Counting by blocks of images, sparse (methods 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..kernels import AxisWeights, PlaneBatch, count_maps
from ..tally import Arrays
from .counters import Counters, whole_numbers
from .planes import ImagePlanes, grid_runs, plane_batch

VERSION = 1
POOL_BYTES = 64 << 20
"""Of counters being filled; each row of a block that an image feeds has one for every unit."""
SLAB_ROWS = 256
"""Of the pool that are looked through at once."""
FEWEST_HELD = 1 << 16
"""Entries that are gathered in pieces before they are sorted in among the others."""
BY_BLOCK = ("concept_area", "category_images", "category_pixels", "images", "pixels")
"""Counts of each block that no unit has a part in."""


@dataclass(frozen=True)
class Piece:
    """Entries, ascending."""

    line: NDArray[np.int64]
    """(n,) block * R + row, of the rows that have any."""
    length: NDArray[np.int64]
    """(n,) how many."""
    unit: NDArray[Any]
    count: NDArray[np.int64]

    def keys(self, n_units: int, n_rows: int | None = None) -> NDArray[np.int64]:
        """Line (or row, of so many to a block) * K + unit of each entry."""
        line = self.line if n_rows is None else self.line % n_rows
        keys: NDArray[np.int64] = np.repeat(line * n_units, self.length) + self.unit
        return keys


class BlockTally:
    """Sums over the images of each of B blocks; only what is not zero is held.

    An entry is a counter of one block: a row of `Counters.rows` (C concepts, G categories, all images) at one unit. The
    kernels fill a pool of such rows, handed out as images feed them; from time to time it is emptied into entries.

    Parameters
    ----------
    n_blocks, n_units, n_concepts, n_categories : int
    pool_bytes : int
        Bound on the pool, if it holds the rows that a single image feeds.
    """

    def __init__(
        self, n_blocks: int, n_units: int, n_concepts: int, n_categories: int, pool_bytes: int = POOL_BYTES
    ) -> None:
        self.n_blocks, self.n_units = n_blocks, n_units
        self.n_concepts, self.n_categories = n_concepts, n_categories
        self.n_rows = n_concepts + n_categories + 1
        self.concept_area = np.zeros((n_blocks, n_concepts), np.int64)
        self.category_images = np.zeros((n_blocks, n_categories), np.int64)
        self.category_pixels = np.zeros((n_blocks, n_categories), np.int64)
        self.images = np.zeros(n_blocks, np.int64)
        self.pixels = np.zeros(n_blocks, np.int64)
        self._pieces: list[Piece] = []
        self._capacity = min(n_blocks * self.n_rows, max(1, pool_bytes // (8 * max(n_units, 1))))
        self._pool = np.zeros((0, n_units), np.int64)
        self._lines = np.zeros(0, np.int64)
        """What the rows of the pool stand for: block * R + row; the first `_used` are handed out."""
        self._place = np.zeros(0, np.int32)
        """(B * R,) where each is in the pool, -1: nowhere."""
        self._used = 0

    def add(
        self,
        counters: Counters,
        maps: NDArray[Any],
        thresholds: NDArray[np.float32],
        images: Sequence[ImagePlanes],
        blocks: NDArray[np.int64],
        weights: Mapping[tuple[int, int], tuple[AxisWeights, AxisWeights]],
        **how: Any,
    ) -> None:
        """Count maps (B, K, h, w) as `Counters.add` does: by the blocks (B,) of their images, the rest into `counters`.

        The rows of `counters` are left alone; the sum of all blocks, `rows`, is theirs.
        """
        if not len(maps) == len(images) == len(blocks):
            raise ValueError(f"maps of {len(maps)} images, labels of {len(images)}, blocks of {len(blocks)}")
        for run in grid_runs(images):
            for part in self._parts(images, run):
                batch = self._placed(plane_batch(images[part.start : part.stop]), blocks[part.start : part.stop])
                count_maps(
                    maps[part.start : part.stop],
                    thresholds,
                    *weights[batch.shape],
                    batch,
                    self._pool,
                    counters.chance,
                    counters.active_maps,
                    **how,
                )
        counters.add_labels(images)
        for image, block in zip(images, blocks.tolist(), strict=True):
            self.concept_area[block, image.present_row] += image.present_area
            self.category_images[block] += image.category_pixels > 0
            self.category_pixels[block] += image.category_pixels
            self.pixels[block] += image.shape[0] * image.shape[1]
            self.images[block] += 1

    def rows(self) -> NDArray[np.int64]:
        """(R, K) the sum of all blocks, as `Counters.rows`."""
        entries, total = self._settled(), np.zeros(self.n_rows * self.n_units, np.int64)
        np.add.at(total, entries.keys(self.n_units, self.n_rows), entries.count)
        return total.reshape(self.n_rows, self.n_units)

    def _parts(self, images: Sequence[ImagePlanes], run: range) -> Iterator[range]:
        """Parts of the images whose rows together fit the pool; at least one image."""
        begin, n_rows = run.start, 0
        for i in run:
            more = len(images[i].plane_row) + len(images[i].whole_row) + self.n_categories
            if i > begin and n_rows + more > self._capacity:
                yield range(begin, i)
                begin, n_rows = i, 0
            n_rows += more
        yield range(begin, run.stop)

    def _placed(self, batch: PlaneBatch, blocks: NDArray[np.int64]) -> PlaneBatch:
        """The batch with its rows replaced by those of the pool that stand for them, in the blocks of their images."""
        first = blocks * self.n_rows
        of_plane, of_whole = (np.repeat(first, np.diff(ptr)) for ptr in (batch.plane_ptr, batch.whole_ptr))
        touches = batch.touch_row >= 0
        plane, whole = batch.plane_row + of_plane, batch.whole_row + of_whole
        touch = np.where(touches, batch.touch_row + of_plane, plane)
        self._hand_out(np.concatenate([plane, whole, touch]))
        return replace(
            batch,
            plane_row=self._place[plane],
            touch_row=np.where(touches, self._place[touch], np.int32(-1)),
            whole_row=self._place[whole],
        )

    def _hand_out(self, lines: NDArray[np.int64]) -> None:
        """Give rows of the pool to lines that have none, emptying it first where it has too few left."""
        if not len(self._place):
            self._place = np.full(self.n_blocks * self.n_rows, -1, np.int32)
        new = np.unique(lines[self._place[lines] < 0])
        if self._used + len(new) > len(self._pool):
            if self._used:
                self._drain()
            new = np.unique(lines)
            if len(new) > len(self._pool):
                n_rows = max(self._capacity, len(new))
                self._pool, self._lines = np.zeros((n_rows, self.n_units), np.int64), np.zeros(n_rows, np.int64)
        end = self._used + len(new)
        self._lines[self._used : end] = new
        self._place[new] = np.arange(self._used, end, dtype=np.int32)
        self._used = end

    def _drain(self) -> None:
        """Empty the pool into entries."""
        used, n_units = self._used, self.n_units
        order = np.argsort(self._lines[:used])
        lines = self._lines[order]
        found = []
        for start in range(0, used, SLAB_ROWS):
            slab = slice(start, min(start + SLAB_ROWS, used))
            flat = self._pool[order[slab]].reshape(-1)
            index = np.flatnonzero(flat != 0)  # of booleans: several times as fast as of integers
            begins = np.arange(slab.stop - start + 1) * n_units
            length = np.diff(np.searchsorted(index, begins))
            unit = (index - np.repeat(begins[:-1], length)).astype(self._unit_dtype)
            found.append((length, unit, flat[index]))
        length, unit, count = (np.concatenate(each) for each in zip(*found, strict=True))
        has_any = length > 0
        self._pieces.append(Piece(lines[has_any], length[has_any], unit, count))
        if sum(len(piece.unit) for piece in self._pieces[1:]) > max(FEWEST_HELD, len(self._pieces[0].unit)):
            self._sort_in()
        self._pool[:used] = 0
        self._place[lines] = -1
        self._used = 0

    def _settled(self) -> Piece:
        """All entries, each once."""
        if self._used:
            self._drain()
        if len(self._pieces) != 1:
            self._sort_in()
        return self._pieces[0]

    def _sort_in(self) -> None:
        """Make one piece of all, equal entries added up."""
        key = np.concatenate([np.zeros(0, np.int64), *(piece.keys(self.n_units) for piece in self._pieces)])
        count = np.concatenate([np.zeros(0, np.int64), *(piece.count for piece in self._pieces)])
        order = np.argsort(key, kind="stable")
        key = key[order]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        key, count = key[starts], np.add.reduceat(count[order], starts) if len(starts) else count
        line = key // max(self.n_units, 1)
        starts = np.flatnonzero(np.diff(line, prepend=-1))
        unit = (key - line * self.n_units).astype(self._unit_dtype)
        self._pieces = [Piece(line[starts], np.diff(starts, append=len(line)), unit, count)]

    @property
    def _unit_dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint16 if self.n_units <= 1 << 16 else np.uint32

    def merge(self, other: BlockTally) -> None:
        """Add another part's counts."""
        if self._sizes() != other._sizes():
            raise ValueError(f"block counters of sizes {other._sizes()} cannot join those of {self._sizes()}")
        self.fill(other.to_arrays(), range(self.n_blocks))

    def fill(self, arrays: Arrays, blocks: range) -> None:
        """Add what `to_arrays` gave of some neighbouring blocks; of equal sizes, and checked."""
        for name in BY_BLOCK:
            getattr(self, name)[blocks.start : blocks.stop] += arrays[name][blocks.start : blocks.stop]
        first, last = np.searchsorted(arrays["block"], [blocks.start, blocks.stop]).tolist()
        all_lines = arrays["block"] * np.int64(self.n_rows) + arrays["row"]
        for start in range(first, last, self._capacity):
            end = min(start + self._capacity, last)
            lines, pointer = all_lines[start:end], arrays["pointer"][start : end + 1]
            self._hand_out(lines)
            part = slice(int(pointer[0]), int(pointer[-1]))
            place = np.repeat(self._place[lines] * np.int64(self.n_units), np.diff(pointer)) + arrays["unit"][part]
            self._pool.reshape(-1)[place] += arrays["count"][part].astype(np.int64)  # no entry stands there twice

    def _sizes(self) -> tuple[int, ...]:
        return self.n_blocks, self.n_units, self.n_concepts, self.n_categories

    def to_arrays(self) -> Arrays:
        """The state: the entries line by line, a line being a row of a block that has any."""
        entries = self._settled()
        return {
            "shape": np.array([VERSION, *self._sizes()], np.int64),
            "block": (entries.line // self.n_rows).astype(np.int32),
            "row": (entries.line % self.n_rows).astype(np.int32),
            "pointer": np.append(0, np.cumsum(entries.length)),
            "unit": entries.unit,
            "count": entries.count.astype(np.uint32 if entries.count.max(initial=0) < 1 << 32 else np.uint64),
            **{name: getattr(self, name) for name in BY_BLOCK},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError where arrays are missing, damaged or of another version."""
        sizes = check_arrays(arrays)
        tally = cls(*sizes)
        tally.fill(dict(arrays), range(sizes[0]))
        return tally


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[int, int, int, int]:
    """(B, K, C, G) of saved block counters; ValueError where arrays are missing, damaged or of another version."""
    try:
        version, *sizes = whole_numbers(arrays, "shape", (5,)).tolist()
        if version != VERSION:
            raise ValueError(f"block counters of version {version}, expected {VERSION}")
        n_blocks, n_units, n_concepts, n_categories = sizes
        widths: dict[str, tuple[int, ...]] = {"concept_area": (n_concepts,), "images": (), "pixels": ()}
        widths |= dict.fromkeys(("category_images", "category_pixels"), (n_categories,))
        for name, width in widths.items():
            whole_numbers(arrays, name, (n_blocks, *width))
        block, row, unit, count = (np.asarray(arrays[name]) for name in ("block", "row", "unit", "count"))
        pointer = whole_numbers(arrays, "pointer", (len(block) + 1 if block.ndim else -1,))
    except KeyError as error:
        raise ValueError(f"saved block counters are cut: no {error}") from error
    n_rows = n_concepts + n_categories + 1
    is_typed = block.ndim == unit.ndim == 1 and row.shape == block.shape and count.shape == unit.shape
    is_typed &= block.dtype == row.dtype == np.int32
    is_typed &= unit.dtype in (np.uint16, np.uint32) and count.dtype in (np.uint32, np.uint64)
    if not is_typed or pointer[0] != 0 or pointer[-1] != len(unit) or np.any(np.diff(pointer) <= 0):
        raise ValueError("saved block counters are damaged: their lines do not fit together")
    lines = block.astype(np.int64) * n_rows + row
    starts = np.zeros(len(unit), bool)
    starts[pointer[:-1]] = True
    ascend = np.all(np.diff(lines) > 0) and np.all((np.diff(unit.astype(np.int64)) > 0) | starts[1:])
    within = all(np.all((each >= 0) & (each < n)) for each, n in ((block, n_blocks), (row, n_rows), (unit, n_units)))
    if not (ascend and within):
        raise ValueError("saved block counters are damaged: blocks, rows and units must ascend within their ranges")
    return n_blocks, n_units, n_concepts, n_categories


def sum_blocks(parts: Callable[[], Iterable[Arrays]], sizes: tuple[int, int, int, int], room: int) -> Arrays:
    """The sum of saved block counters.

    Parameters
    ----------
    parts : callable
        Gives what `BlockTally.to_arrays` gave, each time it is called: once for as many blocks as the room holds.
    sizes : (B, K, C, G)
    room : int
        Bytes of counters, were none of them zero; a single block's may be more.

    Returns
    -------
    Arrays
        As `BlockTally.to_arrays` gives them.
    """
    n_blocks, n_units, n_concepts, n_categories = sizes
    step = max(1, room // max(1, 8 * n_units * (n_concepts + n_categories + 1)))
    found, by_block = [], dict[str, NDArray[np.int64]]()
    for start in range(0, n_blocks, step):
        tally, blocks = BlockTally(*sizes, room), range(start, min(start + step, n_blocks))
        for arrays in parts():
            if check_arrays(arrays) != sizes:
                raise ValueError(f"block counters of sizes {check_arrays(arrays)} among those of {sizes}")
            tally.fill(arrays, blocks)
        arrays = tally.to_arrays()
        for name in BY_BLOCK:  # each time those of a few blocks, the others zero
            by_block[name] = by_block[name] + arrays[name] if name in by_block else arrays[name]
            del arrays[name]
        found.append(arrays)
    ends = np.cumsum([0, *(len(each["unit"]) for each in found)]).tolist()
    pointers = [each["pointer"][:-1] + end for each, end in zip(found, ends, strict=False)]
    return {
        "shape": found[0]["shape"],
        "pointer": np.append(np.concatenate(pointers), ends[-1]),
        **{name: np.concatenate([each[name] for each in found]) for name in ("block", "row", "unit", "count")},
        **by_block,
    }
