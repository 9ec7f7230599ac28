"""Receptive fields by experiment: which outputs a half-plane of NaN reaches (methods 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import BadInput
from ..measure.fieldmap import AxisField, FieldMap
from .layers import LayerRef
from .layouts import choose_layout, tensor_of, to_maps
from .quiet import blank_images, evaluating, native_kernels
from .reaching import NanReach
from .tracing import trace_fields
from .wrappers import unwrapped

Bools = NDArray[np.bool_]
Edge = tuple[bool, int]
"""(False, j): pixels before j are NaN; (True, j): pixels from j on are."""

NARROW = (8, 16, 32, 64, 128, 256)
"""Lengths tried for the axis that is not probed: the axes are separable, so the shortest that the network takes."""
GROWTH = 64
"""Larger inputs are longer by a multiple of this: the same residue for every step that divides it."""
LONGEST = 4096
"""Pixels; a layer of which every cell still sees both ends of so long an input sees everything."""
PIXELS = 1 << 17
"""Of one batch of probes: 2 images of 224 x 224, so that memory stays that of a small batch."""
N_CLEAR = 3
"""Cells that must see neither end of the axis: two neighbours, and one more to see that the step is constant."""
N_COARSE = 16
"""Parts into which the first probes cut the axis, before brackets are halved."""
N_TRIES = 2
"""Input lengths at which a step may turn out not to be constant before a layer is given up."""

Verdict = Literal["whole", "clipped", "uneven"]
"""Every cell sees both ends; too few cells see neither; cells do not move by one whole number of pixels."""


def field_maps(
    module: nn.Module, refs: Sequence[LayerRef], input_shape: tuple[int, int], layout: str = "auto"
) -> dict[str, FieldMap | None]:
    """Field map of every layer: by tracing, else by the probe, else None, where `half_pixel` has to serve.

    Parameters
    ----------
    module, refs, input_shape
        See `trace_fields`.
    layout : str
        Of layers with four dimensions, for the probe: `nchw`, `nhwc`, else as their shapes tell.

    >>> from .shipped import scenes_net
    >>> str(field_maps(scenes_net(), [LayerRef("relu5", "relu5")], (112, 112))["relu5"])
    '(-24,55,8)'
    """
    traced = trace_fields(module, refs, input_shape)
    rest = [ref for ref in refs if ref.name not in traced]
    probed = probe_fields(module, rest, input_shape, layout) if rest else {}
    return {ref.name: traced.get(ref.name) or probed.get(ref.name) for ref in refs}


def probe_fields(
    module: nn.Module, refs: Sequence[LayerRef], input_shape: tuple[int, int], layout: str = "auto"
) -> dict[str, FieldMap]:
    """Field maps measured on the network itself.

    Parameters
    ----------
    module, refs, input_shape, layout
        See `field_maps`. Nothing of the module is changed.

    Returns
    -------
    dict of FieldMap
        By name of the layer. Layers of which every cell sees the whole image are marked global, with cells that tile
        the image. Absent: layers that NaN does not reach, whose step is no whole number or not constant, tokens, and
        those of a network that takes no other input size where that would be needed.

    Notes
    -----
    Rows are probed on narrow images and columns on flat ones. All layers are probed together; every probe tells for
    every cell whether its field reaches into the half-plane, so starts and ends are bracketed for all cells at once.
    Convolutions are replaced by what passes NaN on in the same way; see `NanReach`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    >>> str(probe_fields(net, [LayerRef("1", "1")], (224, 224))["1"])
    '(-1,3,2)'
    """
    with evaluating(module), native_kernels():
        layouts = dict.fromkeys((ref.name for ref in refs), layout) if layout in ("nchw", "nhwc") else {}
        own = reach(module, refs, layouts, blank_images(module, 1, input_shape), None)
        refs = [ref for ref in refs if ref.name in own]
        rows, columns = (AxisProbe(module, refs, input_shape, axis, layouts).fit() for axis in (0, 1))
    fields: dict[str, FieldMap] = {}
    for name in (ref.name for ref in refs if ref.name in rows and ref.name in columns):
        whole = [tiling(n, g) for n, g in zip(input_shape, own[name].shape, strict=True)]
        is_global = rows[name] is None or columns[name] is None
        fields[name] = FieldMap(rows[name] or whole[0], columns[name] or whole[1], "probe", is_global)
    return fields


def tiling(n_pixels: int, n_cells: int) -> AxisField:
    """Cells that see all of an axis, centred where they would tile it."""
    step = Fraction(n_pixels, n_cells)
    return AxisField((step - n_pixels) / 2, Fraction(n_pixels), step)


class Finished(Exception):
    """Every layer has run; what follows in the network is of no interest."""


def reach(
    module: nn.Module, refs: Sequence[LayerRef], layouts: dict[str, str], images: Tensor, axis: int | None
) -> dict[str, Bools]:
    """Name -> which cells see NaN, of the layers that run and are maps; the network stops when all have run.

    (B, cells) along one axis, 0 or 1; without one, (h, w) for the first image. `layouts` gains those of layers that
    it lacks.
    """
    size = images.shape[2], images.shape[3]
    found: dict[str, Bools] = {}
    calls = {ref.name: 0 for ref in refs}

    def note(ref: LayerRef, value: object) -> None:
        call = calls[ref.name]
        calls[ref.name] += 1
        if call == (ref.call or 0):
            try:
                tensor = tensor_of(value, ref.name)
                if tensor.ndim == 4:
                    layouts.setdefault(ref.name, choose_layout(tuple(tensor.shape), size))
                maps = to_maps(tensor, ref.name, layouts.get(ref.name, "nchw"))
            except BadInput:
                maps = None
            if maps is not None:
                is_nan = torch.isnan(maps).any(1)  # (B, h, w)
                found[ref.name] = (is_nan[0] if axis is None else is_nan.any(2 - axis)).cpu().numpy()
        if all(calls[ref.name] > (ref.call or 0) for ref in refs):
            raise Finished

    with ExitStack() as stack:
        for ref in refs:
            part = module.get_submodule(ref.module_name)
            if ref.tensor == "input":
                handle = part.register_forward_pre_hook(partial(lambda ref, _, inputs: note(ref, inputs), ref))
            else:
                handle = part.register_forward_hook(partial(lambda ref, _, inputs, output: note(ref, output), ref))
            stack.callback(handle.remove)
        try:
            with NanReach():  # type: ignore[no-untyped-call]
                unwrapped(module)(images)
        except Exception:  # Finished; or this size does not suit the network, with an error of any kind
            return found
    return found


@dataclass
class Reached:
    """What the probes of one input length have told about one layer."""

    n_pixels: int
    seen: dict[Edge, Bools] = field(default_factory=dict)
    """Probe -> (cells,) which see NaN."""

    @property
    def clear(self) -> NDArray[np.intp]:
        """Cells that see neither the first pixel nor the last, but something."""
        n = self.n_pixels
        return np.flatnonzero(self.seen[False, n] & ~self.seen[False, 1] & ~self.seen[True, n - 1])

    @property
    def pair(self) -> tuple[int, int]:
        """Two neighbours in the middle of the clear cells, where the image's ends disturb least."""
        clear = self.clear
        first = (len(clear) - 1) // 2
        return int(clear[first]), int(clear[first + 1])

    def bracket(self, cell: int, is_end: bool) -> tuple[int, int]:
        """(low, high): the first (or last) pixel that a cell sees is one of low ... high - 1.

        It sees pixels before j exactly if its first is less than j, pixels from j on if its last is at least j.
        """
        low, high = 0, self.n_pixels
        for (from_j, j), cells in self.seen.items():
            if from_j == is_end:
                low, high = (max(low, j), high) if bool(cells[cell]) == is_end else (low, min(high, j))
        return low, high

    def open_edges(self) -> set[Edge]:
        """The next probes: they halve what is open about the pair and the outermost clear cells."""
        if self.verdict is not None:
            return set()
        cells = {*self.pair, int(self.clear[0]), int(self.clear[-1])}
        brackets = [(is_end, *self.bracket(cell, is_end)) for cell in cells for is_end in (False, True)]
        return {(is_end, (low + high) // 2) for is_end, low, high in brackets if high - low > 1}

    @property
    def verdict(self) -> Verdict | None:
        """Why there is nothing to fit, if so."""
        first, last = self.seen[False, 1], self.seen[True, self.n_pixels - 1]
        if bool((first & last).all()):
            return "whole"
        return "clipped" if len(self.clear) < N_CLEAR else None

    def fit(self) -> AxisField | Verdict:
        """The field, if it moves by the same whole number of pixels from cell to cell."""
        if self.verdict is not None:
            return self.verdict
        cell, neighbour = self.pair
        start, end = self.bracket(cell, False)[0], self.bracket(cell, True)[0]
        step = self.bracket(neighbour, False)[0] - start
        if neighbour != cell + 1 or step < 1 or end < start:
            return "uneven"
        cells = np.arange(len(self.seen[False, 1]))
        first = start + step * (cells - cell)
        last = first + end - start
        # Of a cell at the image's end the visible part may begin late, behind a gap of a dilated field.
        inside = (first >= 0) & (last < self.n_pixels)
        for (from_j, j), seen in self.seen.items():
            if not np.array_equal(seen[inside], (last >= j if from_j else first < j)[inside]):
                return "uneven"
        return AxisField(Fraction(int(first[0])), Fraction(end - start + 1), Fraction(step))


class AxisProbe:
    """The probe along one axis of the input.

    Parameters
    ----------
    module, refs, input_shape
        See `probe_fields`.
    axis : int
        0: rows, 1: columns.
    layouts : dict
        Name -> `nchw` or `nhwc`.
    """

    def __init__(
        self,
        module: nn.Module,
        refs: Sequence[LayerRef],
        input_shape: tuple[int, int],
        axis: int,
        layouts: dict[str, str],
    ) -> None:
        self._module, self._refs, self._axis, self._layouts = module, list(refs), axis, layouts
        self._n, across = input_shape[axis], input_shape[1 - axis]
        # The run's own size comes last: the network certainly takes it.
        self._across = [*(n for n in NARROW if n < across), across]

    def fit(self) -> dict[str, AxisField | None]:
        """Name -> field; None: every cell sees all; absent: nothing could be fitted."""
        fitted: dict[str, AxisField | None] = {}
        tries = dict.fromkeys((ref.name for ref in self._refs), 0)
        pending, n, growth = self._refs, self._n, GROWTH
        is_whole: set[str] = set()
        while pending:
            found = self._at(n, pending)
            for ref in pending:
                result = found.get(ref.name)
                if isinstance(result, AxisField):
                    own = self._of_own_residue(ref, result, n)
                    if own is not None:
                        fitted[ref.name] = own
                elif ref.name in is_whole and (result is None or n >= LONGEST):
                    fitted[ref.name] = None
                tries[ref.name] += result == "uneven"
            is_whole = {name for name, result in found.items() if result == "whole"}
            if n >= LONGEST:
                break
            pending = [ref for ref in pending if isinstance(found.get(ref.name), str) and tries[ref.name] < N_TRIES]
            n, growth = n + growth * max(1, self._n // GROWTH), growth * 2
        return fitted

    def _of_own_residue(self, ref: LayerRef, result: AxisField, n: int) -> AxisField | None:
        """The field at a length with the run's own residue modulo the step, since padding may depend on it."""
        step = int(result.step)
        if (n - self._n) % step == 0:
            return result
        again = self._at(self._n + step * -(-(n - self._n) // step), [ref]).get(ref.name)
        return again if isinstance(again, AxisField) and again.step == step else None

    def _at(self, n: int, refs: list[LayerRef]) -> dict[str, AxisField | Verdict]:
        """Name -> what inputs of length n tell; absent: NaN does not reach it, or the network fails at n."""
        ends: list[Edge] = [(False, n), (False, 0), (False, 1), (True, n - 1)]
        while True:
            seen = self._run(n, refs, ends)
            # Where few cells lie across, those of a dilated kernel may look past all of them, into the padding.
            n_reached = sum(bool(cells[False, n].any()) for cells in seen.values())
            if n_reached == len(refs) or len(self._across) == 1:
                break
            self._across.pop(0)
        reached = {
            name: Reached(n, cells)
            for name, cells in seen.items()
            if cells[False, n].any() and not cells[False, 0].any()
        }
        live = [ref for ref in refs if ref.name in reached]
        coarse: list[Edge] = [(is_end, n * i // N_COARSE) for is_end in (False, True) for i in range(1, N_COARSE)]
        edges = coarse if any(layer.verdict is None for layer in reached.values()) else []
        while edges:
            for name, cells in self._run(n, live, edges).items():
                reached[name].seen |= cells
            edges = sorted(set().union(*(layer.open_edges() for layer in reached.values())))
        return {name: layer.fit() for name, layer in reached.items()}

    def _run(self, n: int, refs: list[LayerRef], edges: list[Edge]) -> dict[str, dict[Edge, Bools]]:
        """Name -> probe -> which cells see NaN."""
        seen: dict[str, dict[Edge, Bools]] = {}
        size = (n, self._across[0]) if self._axis == 0 else (self._across[0], n)
        at_once = max(1, PIXELS // (size[0] * size[1]))
        for first in range(0, len(edges), at_once):
            batch = edges[first : first + at_once]
            images = blank_images(self._module, len(batch), size)
            for image, (is_end, j) in zip(images, batch, strict=True):
                image.narrow(1 + self._axis, j if is_end else 0, n - j if is_end else j).fill_(torch.nan)
            for name, cells in reach(self._module, refs, self._layouts, images, self._axis).items():
                seen.setdefault(name, {}).update(zip(batch, cells, strict=True))
        return seen
