"""Thresholds and counters without a run, on arrays you have: `python examples/kernels_alone.py`.

Activations (N, K, h, w), a label map and a concept of interest in; thresholds, masks and their IoU with concept 1 out.
"""

from fractions import Fraction

import numpy as np

from streamdissect.kernels import AxisWeights, mask_maps
from streamdissect.quantile import tail_threshold


def main() -> None:
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(50, 8, 7, 7)), 0).astype(np.float16)  # 50 images, 8 units
    labels = rng.integers(0, 3, (50, 56, 56))  # numbers of a concept each
    thresholds = np.array([tail_threshold(maps[:, k].ravel(), Fraction(1, 100)) for k in range(8)], np.float32)
    centres = [(Fraction(2 * j + 1, 2) * 7 / 56) - Fraction(1, 2) for j in range(56)]  # half-pixel, exactly
    axis = AxisWeights.from_positions(centres, 7)
    for k in range(8):
        bits = mask_maps(maps[:, k], np.full(50, thresholds[k], np.float32), axis, axis)
        rows = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").reshape(50, 56, -1)[..., :56].astype(bool)
        both, either = (rows & (labels == 1)).sum(), (rows | (labels == 1)).sum()
        print(f"unit {k}: T = {thresholds[k]:.3f}, {rows.mean():.2%} of the pixels, IoU {both / either:.3f}")


if __name__ == "__main__":
    main()
