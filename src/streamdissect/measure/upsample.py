"""Where each mask pixel samples the activation grid (methods 2.1)."""

from __future__ import annotations

from fractions import Fraction

from ..kernels import AxisWeights
from ..options import UPSAMPLING
from .fieldmap import AxisField


def axis_weights(mode: str, n_source: int, n_pixels: int, n_input: int, field: AxisField | None = None) -> AxisWeights:
    """Exact interpolation weights of one axis.

    Parameters
    ----------
    mode : str
        `rf`: cells sit at the centres of their receptive fields; `half_pixel`: cells tile the mask grid;
        `corners`: first and last cell sit on the first and last pixel.
    n_source, n_pixels, n_input : int
        Cells of the activation grid, pixels of the mask grid, pixels of the network's input.
    field : AxisField
        Of the layer, for `rf`.

    Notes
    -----
    Pixel-index coordinates, centres at integers. A mask grid smaller than the map is point-sampled.
    """
    if mode == "rf":
        if field is None:
            raise ValueError("mode rf needs the layer's field map")
        positions = [
            ((Fraction(2 * j + 1, 2) * n_input / n_pixels - Fraction(1, 2)) - field.centre) / field.step
            for j in range(n_pixels)
        ]
    elif mode == "half_pixel":
        positions = [Fraction((2 * j + 1) * n_source, 2 * n_pixels) - Fraction(1, 2) for j in range(n_pixels)]
    elif mode == "corners":
        positions = [Fraction(j * (n_source - 1), max(n_pixels - 1, 1)) for j in range(n_pixels)]
    else:
        raise ValueError(f"upsampling mode {mode!r}: expected one of {', '.join(UPSAMPLING)}")
    return AxisWeights.from_positions(positions, n_source)
