"""What each tensor operation does to the receptive field of its result (methods 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

from torch import Tensor

from ..measure.fieldmap import AxisField


@dataclass(frozen=True)
class Axis:
    """The rows, or the columns, of the input as a tensor still shows them."""

    extent: int
    """Pixels of the input."""
    dim: int | None
    """Dimension of the tensor along which cells lie; None: there is but one cell."""
    field: AxisField
    is_global: bool = False
    """Something mixed in sees the whole input; `field` is that of the main path."""

    def moved(self, field: AxisField) -> Axis:
        """The same axis with another field."""
        return replace(self, field=field)

    def at(self, dim: int | None) -> Axis:
        """The same axis along another dimension."""
        return replace(self, dim=dim)

    def whole(self) -> Axis:
        """One cell that sees all of it."""
        return Axis(self.extent, None, AxisField(Fraction(0), Fraction(self.extent), Fraction(self.extent)), True)


@dataclass(frozen=True)
class Track:
    """Both axes of one tensor."""

    rows: Axis
    columns: Axis

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows, columns."""
        return self.rows, self.columns

    def each(self, change: Callable[[Axis], Axis | None]) -> Track | None:
        """Both axes changed; None as soon as one is lost."""
        rows, columns = change(self.rows), change(self.columns)
        return None if rows is None or columns is None else Track(rows, columns)

    def along(self, change: Callable[[Axis, int], Axis | None]) -> Track | None:
        """Axes that have a dimension changed, with that dimension; single cells stay."""
        return self.each(lambda axis: axis if axis.dim is None else change(axis, axis.dim))


Arguments = Mapping[str, Any]
Rule = Callable[[Track, Tensor, Arguments, Tensor], Track | None]
"""(track of the main input, main input, arguments by name, output) -> track of the output; None: unknown."""

Operand = tuple[Track, Tensor]


def merge(operands: Sequence[Operand], n_dims: int) -> Track | None:
    """Sums, products and channel concatenations: what either sees; steps must be equal.

    Of nested fields this keeps the larger one. An operand with a single cell next to maps is a gate that saw the
    whole input: it marks the result global and leaves the geometry of the maps (squeeze-excite).
    """
    rows = merge_axis([(track.rows, tensor) for track, tensor in operands], n_dims)
    columns = merge_axis([(track.columns, tensor) for track, tensor in operands], n_dims)
    return None if rows is None or columns is None else Track(rows, columns)


def merge_axis(operands: Sequence[tuple[Axis, Tensor]], n_dims: int) -> Axis | None:
    """One axis of `merge`."""
    widest = max(length(axis, tensor) for axis, tensor in operands)
    main = [(axis, tensor) for axis, tensor in operands if length(axis, tensor) == widest]
    if any(axis.dim is not None for axis, _ in main):
        main = [(axis, tensor) for axis, tensor in main if axis.dim is not None]
    first = main[0][0]
    places = {None if axis.dim is None else axis.dim - tensor.ndim for axis, tensor in main}
    if len(places) != 1 or any(axis.field.step != first.field.step for axis, _ in main):
        return None
    place = places.pop()
    start = min(axis.field.offset for axis, _ in main)
    end = max(axis.field.offset + axis.field.size for axis, _ in main)
    return Axis(
        first.extent,
        None if place is None else place + n_dims,
        AxisField(start, end - start, first.field.step),
        len(main) < len(operands) or any(axis.is_global for axis, _ in operands),
    )


def length(axis: Axis, tensor: Tensor) -> int:
    """Cells along an axis of a tensor."""
    return 1 if axis.dim is None else tensor.shape[axis.dim]


def nth(values: Sequence[int] | int, i: int) -> int:
    """Entry i of an argument that may be given once for all dimensions."""
    if isinstance(values, int):
        return values
    return int(values[i] if len(values) > 1 else values[0])


def centred(centre: Fraction, size: Fraction, step: Fraction) -> AxisField:
    """The field with its first centre there."""
    return AxisField(centre - (size - 1) / 2, size, step)


def same(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Every cell looks where it looked."""
    return track


def mark_global(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Statistics over the image enter every cell."""
    return track.each(lambda axis: replace(axis, is_global=True))


def convolution(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Plain and transposed; one, two or three dimensions behind batch and channels."""
    kernel = given["weight"].shape[2:]

    def change(axis: Axis, dim: int) -> Axis | None:
        i = dim - 2
        if i < 0:
            return None
        stride, padding, dilation = (nth(given[name], i) for name in ("stride", "padding", "dilation"))
        if not given["transposed"]:
            return axis.moved(axis.field.window(kernel[i], stride, padding, dilation))
        reach, step = dilation * (kernel[i] - 1), axis.field.step / stride
        centre = axis.field.centre + step * (padding - Fraction(reach, 2))
        return axis.moved(centred(centre, axis.field.size + reach * step, step))

    return track.along(change)


def pooling(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Over the last dimensions, as many as the kernel has; `ceil_mode` changes the number of cells alone."""
    kernel = given["kernel_size"]
    first = x.ndim - len(kernel)

    def change(axis: Axis, dim: int) -> Axis | None:
        i = dim - first
        if i < 0:
            return axis
        stride = nth(given.get("stride") or kernel, i)
        dilation = nth(given.get("dilation", 1), i)
        return axis.moved(axis.field.window(nth(kernel, i), stride, nth(given["padding"], i), dilation))

    return track.along(change)


def adaptive_pooling(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Known where the input is a multiple of the output."""

    def change(axis: Axis, dim: int) -> Axis | None:
        ratio, rest = divmod(x.shape[dim], y.shape[dim])
        if y.shape[dim] == 1:
            return axis.whole().at(dim)
        return None if rest else axis.moved(axis.field.window(ratio, ratio))

    return track.along(change)


def padding(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Cells put before the first move the offset; the list runs from the last dimension, negative ones crop."""
    pad = given.get("pad") or given["padding"]

    def change(axis: Axis, dim: int) -> Axis | None:
        i = 2 * (x.ndim - 1 - dim)
        return axis.moved(axis.field.window(1, padding=pad[i])) if i < len(pad) else axis

    return track.along(change)


def resizing(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Nearest and (bi)linear interpolation to another size; the sizes of fields are nominal (methods 2.2)."""
    factors = given.get("scale_factors") or [given.get("scales_h"), given.get("scales_w")]
    is_linear = "align_corners" in given

    def change(axis: Axis, dim: int) -> Axis | None:
        if dim < 2:
            return None
        old, new, factor = x.shape[dim], y.shape[dim], factors[dim - 2]
        f = Fraction(new, old) if not factor else Fraction(factor).limit_denominator(1 << 16)
        size = axis.field.size + (axis.field.step if is_linear else 0)
        if given.get("align_corners"):
            if new == 1 or old == 1:
                return None
            step = axis.field.step * (old - 1) / (new - 1)
            return axis.moved(centred(axis.field.centre, size, step))
        centre = axis.field.centre + axis.field.step * (1 / (2 * f) - Fraction(1, 2))
        return axis.moved(centred(centre, size, axis.field.step / f))

    return track.along(change)


def unshuffling(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Blocks of pixels become channels."""
    factor = given["downscale_factor"]
    return track.along(lambda axis, dim: axis.moved(axis.field.window(factor, factor)))


def reduction(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Sums, means and extremes over some dimensions."""
    dims = given.get("dim")
    dims = [] if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % x.ndim for dim in dims} or set(range(x.ndim))

    def change(axis: Axis, dim: int) -> Axis | None:
        if y.ndim == x.ndim:
            return axis.whole().at(dim) if dim in gone else axis
        return axis.whole() if dim in gone else axis.at(dim - sum(other < dim for other in gone))

    return track.along(change)


def batch_norm(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """An affine map per channel, unless it normalises by the image's own statistics."""
    own = given.get("training") or given.get("use_input_stats")
    return mark_global(track, x, given, y) if own else track


def layer_norm(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Normalises over the last dimensions."""
    first = x.ndim - len(given["normalized_shape"])
    return track.along(lambda axis, dim: replace(axis, is_global=axis.is_global or dim >= first))


def softmax(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Normalises over one dimension."""
    over = given["dim"] % x.ndim
    return track.along(lambda axis, dim: replace(axis, is_global=axis.is_global or dim == over))


def contraction(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """A matrix product with weights over the last dimension."""
    return track.along(lambda axis, dim: axis.whole() if dim == x.ndim - 1 else axis)


def viewing(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Reshaping keeps an axis whose cells still lie along one dimension; flattening to (B, K) makes units of cells."""

    def change(axis: Axis, dim: int) -> Axis | None:
        n, before = x.shape[dim], prod(x.shape[:dim])
        if n == 1:
            there = dim - x.ndim + y.ndim
            return axis.at(there if there >= 0 and y.shape[there] == 1 else None)
        for there in range(y.ndim):
            if y.shape[there] == n and prod(y.shape[:there]) == before:
                return axis.at(there)
        return axis.whole() if y.ndim == 2 else None

    return track.along(change)


def permuting(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """`permute`, `transpose`, `t`."""
    order = list(range(x.ndim))
    if "dims" in given:
        order = [dim % x.ndim for dim in given["dims"]]
    else:
        a, b = given.get("dim0", 0) % x.ndim, given.get("dim1", x.ndim - 1) % x.ndim
        order[a], order[b] = b, a
    return track.along(lambda axis, dim: axis.at(order.index(dim)))


def unsqueezing(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """A new dimension of length 1."""
    new = given["dim"] % y.ndim
    return track.along(lambda axis, dim: axis.at(dim + (dim >= new)))


def squeezing(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Dimensions of length 1 vanish."""
    dims = given.get("dim")
    chosen = range(x.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % x.ndim for dim in chosen if x.shape[dim] == 1}
    return track.along(lambda axis, dim: axis.at(None if dim in gone else dim - sum(other < dim for other in gone)))


def expanding(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Repetition without copies: known for dimensions other than the axes."""
    shift = y.ndim - x.ndim
    return track.along(lambda axis, dim: axis.at(dim + shift) if y.shape[dim + shift] == x.shape[dim] else None)


def slicing(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Every n-th cell from one on."""
    over, start, every = given["dim"] % x.ndim, given.get("start") or 0, given["step"]
    start = min(max(start + x.shape[over] if start < 0 else start, 0), x.shape[over])
    return track.along(
        lambda axis, dim: axis.moved(axis.field.window(1, every, padding=-start)) if dim == over else axis
    )


def picking(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """One index of a dimension that is no axis, or all of them apart."""
    over = given["dim"] % x.ndim
    return track.along(lambda axis, dim: None if dim == over else axis.at(dim - (dim > over)))


def splitting(track: Track, x: Tensor, given: Arguments, y: Tensor) -> Track | None:
    """Parts of a dimension that is no axis."""
    over = given["dim"] % x.ndim
    return track.along(lambda axis, dim: None if dim == over else axis)


NAMES: dict[Rule, str] = {
    same: "clone detach contiguous alias lift_fresh _to_copy to dropout native_dropout feature_dropout channel_shuffle "
    "native_channel_shuffle hardswish hardsigmoid mish elu celu selu softplus silu log_sigmoid_forward _prelu_kernel "
    "rrelu rrelu_with_noise threshold leaky_relu hardtanh relu6 hardshrink softshrink gelu relu clamp",
    mark_global: "native_group_norm",
    convolution: "convolution",
    pooling: "max_pool2d_with_indices avg_pool2d avg_pool3d max_pool3d_with_indices max_pool2d",
    adaptive_pooling: "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d",
    padding: "constant_pad_nd reflection_pad2d replication_pad2d",
    resizing: "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d",
    unshuffling: "pixel_unshuffle",
    reduction: "mean sum amax amin max min logsumexp var std norm linalg_vector_norm",
    batch_norm: "batch_norm native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm",
    layer_norm: "layer_norm native_layer_norm",
    softmax: "_softmax _log_softmax softmax log_softmax",
    contraction: "linear addmm mm",
    viewing: "view _unsafe_view reshape _reshape_alias",
    permuting: "permute transpose t",
    unsqueezing: "unsqueeze",
    squeezing: "squeeze",
    expanding: "expand",
    slicing: "slice",
    picking: "select unbind",
    splitting: "split split_with_sizes glu",
}
RULES = {name: rule for rule, names in NAMES.items() for name in names.split()}
"""Operation of ATen, without its trailing underscore -> rule. Pointwise operations and `cat` merge their operands."""
