"""Arrays in, arrays out: masks from maps, counters from masks and label planes. Public, usable alone.

No file, no state, no model. `backend` is the name of the implementation in use: the compiled Cython kernels, else their
Numba twins; by name also PyTorch, whose `device` may be a GPU. All equal `kernels.reference`, the definition, bit for
bit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import BadInput
from .choosing import FORMS, Chooser, ways_of
from .geometry import WORD, AxisWeights, PlaneBatch, words_of
from .labels import N_NUMBERS, LabelIndex, LabelTables

__all__ = [
    "AxisWeights",
    "Chooser",
    "LabelTables",
    "PlaneBatch",
    "available_backends",
    "build_info",
    "count_maps",
    "count_masks",
    "kernel_backend",
    "label_planes",
    "mask_maps",
    "ways_of",
    "words_of",
]

BACKENDS = ("auto", "cython", "numba", "torch", "reference")


def kernel_backend(name: str = "auto") -> ModuleType:
    """The module that implements the kernels: `cython`, `numba`, `torch` or `reference`.

    `auto` takes Cython where it was built, else Numba; the environment variable STREAMDISSECT_KERNELS overrides it (for
    tests). Raises ImportError where `cython` is asked for and was not built.
    """
    if name == "auto":
        name = os.environ.get("STREAMDISSECT_KERNELS", "auto")
    if name == "auto":
        return host_backend()
    if name in BACKENDS:
        return import_module(f".{name}_backend", __name__)
    raise ValueError(f"backend {name!r}: expected one of {', '.join(BACKENDS)}")


def host_backend() -> ModuleType:
    """The fastest kernels of the CPU: Cython where it was built, else Numba.

    Cython counts at the highest of its levels that the CPU can run: `avx512`, `avx2` or `portable`; STREAMDISSECT_SIMD
    takes another (for tests). Raises BadInput where it names none of them, or none were built.
    """
    try:
        return import_module(".cython_backend", __name__)
    except ImportError:
        if asked := os.environ.get("STREAMDISSECT_SIMD"):
            found = "compiled kernels, which have levels; here Numba serves"
            raise BadInput("STREAMDISSECT_SIMD", asked, found, "unset it") from None
        return import_module(".numba_backend", __name__)


def available_backends() -> list[str]:
    """Names of the backends that can be imported here, fastest on a CPU first."""
    extensions = ("_counting", "_planes", "_sketch", "_tail")
    found = ["cython"] if all(find_spec(f"{__name__}.{extension}") for extension in extensions) else []
    found += [name for name in ("numba", "torch") if find_spec(name)]  # looked for, not imported: that takes its time
    return [*found, "reference"]


def build_info() -> dict[str, Any]:
    """The backend in use, and how the compiled kernels were built if there are any.

    `level` is that of the counting loops in this process, `levels` those that it could have; `cpu_clones` tells whether
    the other kernels were built for x86-64-v3 too.
    """
    module = kernel_backend()
    info = {"backend": str(module.name)}
    if info["backend"] == "cython":
        info |= {"compiler": module.compiler, "level": module.level(), "levels": module.levels()}
        info |= {"cpu_clones": "x86-64-v3" if module.has_clones else "none"}
    return info


def check(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def _placed(module: ModuleType, device: str | None, form: str | None = None) -> dict[str, str]:
    """Arguments that give a backend its device. ValueError for one that knows no other than the CPU."""
    check(form is None or (module.name == "torch" and form in FORMS), f"form {form!r}: torch has {', '.join(FORMS)}")
    if device is None or (device == "cpu" and module.name != "torch"):
        return {}
    check(module.name == "torch", f"device {device!r}: the backend {module.name} counts on the CPU, torch elsewhere")
    return {"device": device}


def threshold_keys(
    thresholds: NDArray[np.float32], or_equal: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int16]]:
    """Thresholds with -0.0 folded, and the float32 and float16 keys that a passing value must exceed.

    A threshold that is no float16 lies between two of them: a float16 value exceeds it iff it exceeds the lower one.
    NaN passes nothing.
    """
    bits = _plain(thresholds, np.float32).view(np.int32)
    bits = np.where(bits == -(2**31), np.int32(0), bits)  # integers: floats may be flushed to zero in this thread
    keys = _keys32(bits).astype(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        half = bits.view(np.float32).astype(np.float16)
        wide = _keys32(half.astype(np.float32).view(np.int32))
    half_bits = half.view(np.int16)
    keys16 = (half_bits ^ ((half_bits >> 15) & 0x7FFF)).astype(np.int64)
    keys16 -= wide > keys
    if or_equal:
        keys16 -= wide == keys
        keys = np.where(bits == 0, -2, keys - 1)  # both zeros are at least zero
        keys16 = np.where(bits == 0, -2, keys16)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    keys[nan], keys16[nan] = 2**31 - 1, 2**15 - 1
    return bits.view(np.float32), keys.astype(np.int32), keys16.astype(np.int16)


def _plain(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Contiguous and aligned: the array itself where it is so already."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _keys32(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """float32 bits -> integers in the order of the floats."""
    keys: NDArray[np.int32] = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return keys


def _check_maps(maps: NDArray[Any], rows: AxisWeights, columns: AxisWeights) -> NDArray[Any]:
    dtype = str(maps.dtype).removeprefix("torch.")
    check(dtype in ("float16", "float32"), f"maps are float16 or float32, not {dtype}")
    grid = (rows.n_source, columns.n_source)
    check(maps.shape[-2:] == grid, f"maps are {tuple(maps.shape[-2:])}, the weights are for {grid}")
    return _plain(maps) if isinstance(maps, np.ndarray) else maps  # a tensor stays where it is


def mask_maps(
    maps: NDArray[Any],
    thresholds: NDArray[np.float32],
    rows: AxisWeights,
    columns: AxisWeights,
    *,
    or_equal: bool = False,
    backend: str = "auto",
    device: str | None = None,
) -> NDArray[np.uint64]:
    """Masks of single maps, on the mask grid of the weights (methods 2.5, 3.1).

    Parameters
    ----------
    maps : float16 or float32 (B, h, w)
    thresholds : float32 (B,)
        One for each map.
    rows, columns : AxisWeights
        Of the h and of the w axis.
    or_equal : bool
        Test `>=` instead of `>`.
    backend : str
        See `kernel_backend`.
    device : str, optional
        Where the backend `torch` works: `cpu`, the default, `cuda`, `cuda:1`. Masks are the same everywhere.

    Returns
    -------
    uint64 (B, H * words)
        Bit x % 64 of word x // 64 of each row; padding bits are zero.

    Raises
    ------
    ValueError
        Arrays do not fit together, the device is not there, or the backend knows no devices.
    """
    maps = _check_maps(maps, rows, columns)
    check(maps.ndim == 3 and len(thresholds) == len(maps), "maps are (B, h, w) with B thresholds")
    bits = np.zeros((len(maps), rows.n_pixels * words_of(columns.n_pixels)), np.uint64)
    module = kernel_backend(backend)
    where = _placed(module, device)
    if len(maps):
        thresholds, keys, _ = threshold_keys(thresholds, or_equal)
        singles = maps.astype(np.float32, copy=False)
        module.mask_maps(singles, thresholds, keys, or_equal, rows, columns, bits, **where)
    return bits


def _check_counters(
    planes: PlaneBatch, n_images: int, n_units: int, counters: NDArray[np.int64], chance: NDArray[np.int64]
) -> None:
    check(len(planes) == n_images, f"{n_images} images of maps, label planes of {len(planes)}")
    for name, array in (("counters", counters), ("chance", chance)):
        check(array.dtype == np.int64 and array.flags.carray, f"{name} are contiguous, writeable int64")
        check(array.ndim == 2 and array.shape[1] == n_units, f"{name} are (rows, {n_units}), not {array.shape}")
    planes.check()
    for name, rows, array in (
        ("plane_row", planes.plane_row, counters),
        ("touch_row", planes.touch_row, counters),
        ("whole_row", planes.whole_row, counters),
        ("present_row", planes.present_row, chance),
    ):
        check(
            bool(np.all((rows < len(array)) & (rows >= (-1 if name == "touch_row" else 0)))),
            f"{name} points outside the {len(array)} rows of its counter",
        )


def count_maps(
    maps: NDArray[Any],
    thresholds: NDArray[np.float32],
    rows: AxisWeights,
    columns: AxisWeights,
    planes: PlaneBatch,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    active: NDArray[np.int64],
    *,
    or_equal: bool = False,
    threads: int = 1,
    backend: str | Chooser = "auto",
    device: str | None = None,
    form: str | None = None,
) -> None:
    """Mask every map at its unit's threshold and add up what the masks share with the labels (methods 3.4).

    Parameters
    ----------
    maps : float16 or float32 (B, K, h, w)
    thresholds : float32 (K,)
        NaN: a unit without a mask.
    rows, columns : AxisWeights
        From the (h, w) grid to the mask grid of `planes`.
    planes : PlaneBatch
        Labels of the B images.
    counters : int64 (C + G + 1, K)
        Added to: intersections, unit areas by category, unit area over all images.
    chance : int64 (C, K)
        Added to: sum over images of |M| |L_c|.
    active : int64 (K,)
        Added to: maps with a value that passes.
    threads : int
        Units are shared out among them; each counter belongs to one thread, so the result is the same for any number.
        With `torch`, PyTorch's own threads during the call.
    backend : str or Chooser
        See `kernel_backend`. A chooser tries its ways on the first maps of a kind and gives device and form as well.
    device : str, optional
        Where the backend `torch` counts: `cpu`, the default, `cuda`, `cuda:1`. Counts are the same everywhere.
    form : str, optional
        Who counts for `torch`: its `device`, the default; or the host, which is sent `bits`, packed masks, or `maps`.

    Raises
    ------
    ValueError
        Arrays do not fit together, the device is not there, or the backend knows no devices.
    """
    maps = _check_maps(maps, rows, columns)
    check(maps.ndim == 4, f"maps are (B, K, h, w), not {maps.shape}")
    n_images, n_units = maps.shape[:2]
    check(len(thresholds) == n_units, f"{n_units} units, {len(thresholds)} thresholds")
    check(planes.shape == (rows.n_pixels, columns.n_pixels), f"planes are {planes.shape}, the weights for another grid")
    _check_counters(planes, n_images, n_units, counters, chance)
    is_vector = active.shape == (n_units,) and active.dtype == np.int64 and active.flags.carray
    check(is_vector, f"active is contiguous, writeable int64 ({n_units},)")
    if isinstance(backend, Chooser):
        if n_images == 0 or n_units == 0:
            return
        arrays = maps, thresholds, rows, columns, planes, counters, chance, active
        backend, device, form = backend.way(count_maps, *arrays, or_equal=or_equal, threads=threads)
    module = kernel_backend(backend)
    where = _placed(module, device, form)
    if n_images == 0 or n_units == 0:
        return
    if module.name != "torch" and not isinstance(maps, np.ndarray):
        maps = _plain(maps.numpy(force=True))
    thresholds, keys, keys16 = threshold_keys(thresholds, or_equal)
    prepared = module.prepare(planes, **where)

    def count(begin: int, end: int, **named: Any) -> None:
        added = counters, chance, active
        module.count_maps(
            maps, thresholds, keys, keys16, or_equal, rows, columns, prepared, begin, end, *added, **named
        )

    if module.name == "torch":  # shares out by itself, within its operations
        count(0, n_units, threads=threads, form=form or "device")
        return
    edges = np.linspace(0, n_units, max(1, min(threads, n_units)) + 1).astype(int).tolist()
    if len(edges) == 2:
        count(0, n_units)
        return
    with ThreadPoolExecutor(len(edges) - 1) as pool:
        list(pool.map(count, edges[:-1], edges[1:]))


def count_masks(
    masks: NDArray[np.uint64],
    planes: PlaneBatch,
    counters: NDArray[np.int64],
    chance: NDArray[np.int64],
    *,
    backend: str = "auto",
    device: str | None = None,
) -> None:
    """As `count_maps`, from masks (B, K, H * words) that exist already."""
    n_words = planes.shape[0] * words_of(planes.shape[1])
    check(masks.dtype == np.uint64 and masks.ndim == 3, "masks are uint64 (B, K, H * words)")
    check(masks.shape[2] == n_words, f"masks have {masks.shape[2]} words, the grid {planes.shape} has {n_words}")
    if (used := planes.shape[1] % WORD) and masks.size:
        last = masks.reshape(*masks.shape[:2], planes.shape[0], -1)[..., -1]
        check(not np.any(last >> np.uint64(used)), "padding bits of the masks are 0")
    _check_counters(planes, masks.shape[0], masks.shape[1], counters, chance)
    module = kernel_backend(backend)
    where = _placed(module, device)
    if masks.size:
        module.count_masks(_plain(masks), planes.shape[0], module.prepare(planes, **where), counters, chance)


def label_planes(
    shape: tuple[int, int],
    layers: Sequence[NDArray[np.uint16]],
    whole: Sequence[int],
    tables: LabelTables,
    *,
    backend: str = "auto",
) -> LabelIndex:
    """The labels of one image as planes, and the counter rows that they feed (methods 3.2, 3.3).

    Parameters
    ----------
    shape : (H, W)
        Of the label maps.
    layers : sequence of uint16 (H, W)
        Label numbers. A label holds at a pixel if any map gives it.
    whole : sequence of int
        Label numbers that hold at every pixel.
    tables : LabelTables
        What the numbers mean.
    backend : str
        See `kernel_backend`; the labels of `torch` are the host's.

    Returns
    -------
    words : uint64 (H * words, n_planes)
        Planes of concepts and of the pixels judged for a category, side by side.
    plane_row, touch_row : int32 (n_planes,)
    whole_row : int32
    present_row : int32
    present_area : int64
        See `PlaneBatch`, of which this is one image.
    category_pixels : int64 (G,)
        Pixels judged for each category, 0 where the image lacks it.

    Raises
    ------
    ValueError
        Label maps of another size or of numbers that are no uint16.
    """
    maps = [_label_map(layer) for layer in layers]
    for layer in maps:
        if layer.shape != shape:
            raise ValueError(f"a label map of {layer.shape} among those of {shape}")
    if min(shape) < 1:
        raise ValueError(f"label maps have pixels, not {shape}")
    if whole and not 0 <= min(whole) <= max(whole) < N_NUMBERS:
        raise ValueError(f"label numbers are uint16, not {min(whole)}..{max(whole)}")
    index: LabelIndex = kernel_backend(backend).label_planes(
        maps,
        list(whole),
        *shape,
        tables.column_of,
        tables.category,
        tables.ignore,
        tables.as_set,
        tables.touch,
        tables.labelled_only,
    )
    return index


def _label_map(layer: NDArray[Any]) -> NDArray[np.uint16]:
    if layer.dtype == np.uint16 and layer.ndim == 2 and layer.size and layer.flags.c_contiguous and layer.flags.aligned:
        return layer
    check(layer.ndim == 2 and layer.size > 0, f"a label map is (H, W), not {layer.shape}")
    check(np.can_cast(layer.dtype, np.uint16), f"a label map holds uint16, not {layer.dtype}")
    return _plain(layer, np.uint16)
