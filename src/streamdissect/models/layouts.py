"""Which axis of a layer's tensor is what: images first, then units and a grid in one order or another (methods 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from ..errors import BadInput

LAYOUT_REMEDY = "say where its units and cells are with --layout, --grid and --prefix-tokens"
UNCLEAR = "unclear"
"""The layout of a tensor with four dimensions about which nothing certain is known."""
MOST_PREFIX_TOKENS = 16
FEWEST_CELLS = 9
"""Class and register tokens that a remedy tries out, and tokens of the grid that must be left."""


def tensor_of(value: object, layer: str) -> Tensor:
    """The tensor a module takes or returns: itself, or the first of a tuple, list or dict."""
    first = value
    if isinstance(value, Mapping):
        first = next(iter(value.values()), None)
    elif isinstance(value, (tuple, list)):
        first = value[0] if value else None
    if not isinstance(first, Tensor):
        kind = type(value).__name__
        raise BadInput(f"layer {layer}", f"a {kind}", "a tensor, or a tensor first", "choose a module inside it")
    return first


def choose_layout(shape: tuple[int, ...], size: tuple[int, int], traced: str | None = None) -> str:
    """`nchw` or `nhwc` of a tensor with four dimensions, where one of them alone can be meant; else `unclear`.

    Parameters
    ----------
    shape : (B, ., ., .)
    size : (rows, columns)
        Of the network's input, whose proportions a grid keeps.
    traced : str, optional
        What the trace tells; it knows along which dimension rows and columns lie.

    >>> choose_layout((8, 96, 14, 14), (224, 224)), choose_layout((8, 14, 14, 96), (224, 224))
    ('nchw', 'nhwc')
    >>> choose_layout((8, 14, 14, 14), (224, 224))
    'unclear'
    """
    if traced is not None:
        return traced
    if shape[1] == shape[2] == shape[3] == 1:
        return "nchw"  # which is all the same
    (rows, columns), grids = size, {"nchw": shape[2:], "nhwc": shape[1:3]}
    # How far a grid is from the input's proportions. They are kept exactly, or else to a cell.
    off = {layout: abs(h * columns - w * rows) for layout, (h, w) in grids.items()}
    for most in (0, max(rows, columns)):
        fitting = [layout for layout, by in off.items() if by <= most]
        if fitting:
            return fitting[0] if len(fitting) == 1 else UNCLEAR
    return UNCLEAR


def token_grid(n: int, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """(h, w) of n tokens: square patches that tile the image; a square where its size is unknown. None: no such grid.

    >>> token_grid(196, (224, 224)), token_grid(8, (32, 64)), token_grid(197, (224, 224))
    ((14, 14), (2, 4), None)
    """
    if n == 1:
        return 1, 1
    rows, columns = size or (1, 1)
    h = isqrt(max(n, 0) * rows // columns)
    w = n // h if h else 0
    fits = h > 0 and h * w == n and rows * w == columns * h
    return (h, w) if fits and (size is None or rows % h == 0) else None


def to_maps(
    tensor: Tensor,
    layer: str,
    layout: str = "auto",
    prefix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """(B, K, h, w) from a layer's tensor (methods 1.4), a view where that is possible.

    Parameters
    ----------
    tensor : (B, K, h, w), (B, K), (B, tokens, K), or (B, h, w, K) with layout `nhwc`
    layer : str
        For messages.
    layout : str
        `nhwc` and `unclear` matter to four dimensions; any other means channels first there.
    prefix_tokens : int, optional
        Tokens before those of the grid.
    grid : (h, w), optional
        Of tokens, in row-major order; without it they must tile the image, see `token_grid`.
    size : (rows, columns), optional
        Of the network's input.

    Raises
    ------
    BadInput
        The tensor is no map of units, or could be read in several ways.
    """
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        return tensor[:, :, None, None]
    if tensor.ndim == 4:
        if layout == UNCLEAR:
            got = f"a tensor {shape}, which may have its units first or last"
            raise BadInput(f"layer {layer}", got, "--layout nchw or --layout nhwc", "give one of them")
        return tensor.permute(0, 3, 1, 2) if layout == "nhwc" else tensor
    if tensor.ndim != 3 or layout in ("nchw", "nhwc"):
        expected = "(B, units, h, w), (B, units) or (B, tokens, units)"
        raise BadInput(f"layer {layer}", f"a tensor {shape} with layout {layout}", expected, LAYOUT_REMEDY)
    prefix = prefix_tokens or 0
    n_tokens = shape[1] - prefix
    cells = grid or token_grid(n_tokens, size)
    if cells is None or cells[0] * cells[1] != n_tokens:
        raise no_grid(layer, shape[1], prefix, grid, size)
    is_told = layout == "tokens" or grid is not None or prefix_tokens is not None
    if size is not None and not is_told and token_grid(shape[2], size):
        got = f"a tensor {shape}, of which either axis may be tokens"
        raise BadInput(f"layer {layer}", got, "(B, tokens, units)", "give --layout tokens if that is its order")
    return tensor[:, prefix:].transpose(1, 2).reshape(shape[0], shape[2], *cells)


def no_grid(
    layer: str, n_tokens: int, prefix: int, grid: tuple[int, int] | None, size: tuple[int, int] | None
) -> BadInput:
    """The refusal of tokens that do not make a grid, with the number of prefix tokens that would."""
    expected = f"{grid[0]} x {grid[1]} tokens of the grid" if grid else "a square number of tokens"
    if size is not None and grid is None:
        expected = f"square patches that tile the {size[0]}x{size[1]} image"
    got = f"{n_tokens} tokens" + (f", {n_tokens - prefix} without {prefix} before them" if prefix else "")
    for p in range(MOST_PREFIX_TOKENS + 1):
        cells = grid or token_grid(n_tokens - p, size)
        if cells and cells[0] * cells[1] == n_tokens - p >= FEWEST_CELLS:
            hint = f"perhaps --prefix-tokens {p} (then {cells[0]} x {cells[1]} are left); else {LAYOUT_REMEDY}"
            return BadInput(f"layer {layer}", got, expected, hint)
    return BadInput(f"layer {layer}", got, expected, LAYOUT_REMEDY)
