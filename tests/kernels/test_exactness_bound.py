"""The bound E of the float32 filter: docs/exactness.md, by experiment. Too small a one is caught.

No test proves E; the worst case is far rarer than what chance finds. These show that the filter errs as much as the
proof leads one to expect, that the kernels are right where it does, and that they would not be with a smaller E.
"""

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.kernels import kernel_backend, numba_masks, threshold_keys, torch_masks
from streamdissect.kernels.reference import unpack

from .levels import CONTENDERS, LEVELS, skip_unless_here, taking
from .test_masks import is_on, masks

U = 2.0**-24
F = np.float32
GEOMETRIES = {
    "7x7 half_pixel": ("half_pixel", (7, 7), (112, 112), 224, (None, None)),
    "13x13 rf": ("rf", (13, 13), (113, 113), 227, ((-64, 163, 16), (-64, 163, 16))),
    "14x14 corners": ("corners", (14, 14), (112, 112), 224, (None, None)),
}


@pytest.fixture(params=GEOMETRIES)
def geometry(request, make_geometry):
    mode, source, grid, n_input, fields = GEOMETRIES[request.param]
    return make_geometry(mode, source, grid, n_input, fields)


@pytest.fixture(params=CONTENDERS)
def backend(request):
    """Each backend, Cython at each of its levels."""
    skip_unless_here(request.param)
    with taking(request.param) as name:
        yield name


def lerp(a, b, w, fused):
    """float32 a + w (b - a); fused: product and sum rounded once."""
    d = b - a
    if fused:  # the product is exact in float64; that the sum is rounded there first changes next to nothing
        return (a.astype(np.float64) + w.astype(np.float64) * d.astype(np.float64)).astype(F)
    return a + w * d


def errors(corners, across, down, fused):
    """Computed minus exact value of n pixels over M, in u. Corners float32 (4, n); weights: Fractions (n,)."""
    weight, height = (np.array([float(q) for q in part]).astype(F) for part in (across, down))
    a, b, c, d = corners
    found = lerp(lerp(a, b, weight, fused), lerp(c, d, weight, fused), height, fused)
    largest = np.abs(corners).max(axis=0)
    out = []
    for n in range(len(found)):
        values = [Fraction(float(v)) for v in corners[:, n]]
        top, bottom = (values[i] + across[n] * (values[i + 1] - values[i]) for i in (0, 2))
        exact = top + down[n] * (bottom - top)
        out.append(float((Fraction(float(found[n])) - exact) / Fraction(float(largest[n])) / Fraction(U)))
    return np.array(out)


def hostile(rng, geometry, n):
    """Corners of opposite signs just above powers of two, where roundings weigh most, at pixels of the geometry."""
    signs = rng.choice([-1, 1], (2, n))
    corners = F(1) + rng.random((4, n), F) * F(0.1)
    corners[[0, 3]] *= signs[0]
    corners[[1, 2]] *= np.where(signs[1] > 0, -signs[0], signs[0])  # a saddle, or none
    rows, columns = (rng.integers(0, m, n) for m in geometry.grid)
    down, across = geometry.places[0], geometry.places[1]
    return corners.astype(F), rows, columns, [down[y] % 1 for y in rows], [across[x] % 1 for x in columns]


def test_the_filter_errs_by_several_u_and_stays_far_below_the_bound(geometry):
    corners, _, _, down, across = hostile(np.random.default_rng(89), geometry, 4000)
    for fused in (False, True):
        found = np.abs(errors(corners, across, down, fused))
        assert 2 < found.max() < 14


def test_all_backends_use_the_bound_that_is_proved():
    margins = {(float(F(m.MARGIN)), float(F(m.SMALLEST_MARGIN))) for m in (numba_masks, torch_masks)}
    assert margins == {(float(F(1.2e-6)), 2.0**-120)}
    counting = pytest.importorskip("streamdissect.kernels._counting")
    assert {(counting.MARGIN, counting.SMALLEST_MARGIN)} == margins
    assert counting.MARGIN > 20 * U  # the proof needs 15 u and a little


def traps(geometry, n):
    """Maps (n, h, w), thresholds, and the pixel at which the filter is on the wrong side of T by several u M.

    Of many hostile pixels those are taken where the filter errs most, fused or not, both ways; T then lies between the
    exact value and the computed one, next to the exact.
    """
    rng = np.random.default_rng(97)
    corners, rows, columns, down, across = hostile(rng, geometry, 6000)
    by_kind = [errors(corners, across, down, fused) for fused in (False, True)]
    maps, thresholds, pixels = [], [], []
    for found in by_kind:
        for i in [*np.argsort(found)[: n // 4], *np.argsort(found)[-(n // 4) :]]:
            values = [Fraction(float(v)) for v in corners[:, i]]
            top, bottom = (values[k] + across[i] * (values[k + 1] - values[k]) for k in (0, 2))
            exact = top + down[i] * (bottom - top)
            threshold = F(float(exact))
            while found[i] > 0 and Fraction(float(threshold)) < exact:
                threshold = np.nextafter(threshold, F(np.inf))
            while found[i] < 0 and Fraction(float(threshold)) >= exact:
                threshold = np.nextafter(threshold, F(-np.inf))
            y, x = int(geometry.places[0][rows[i]]), int(geometry.places[1][columns[i]])
            values = np.full(geometry.source, corners[0, i])
            for k, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                if y + dy < geometry.source[0] and x + dx < geometry.source[1]:
                    values[y + dy, x + dx] = corners[k, i]
            maps.append(values)
            thresholds.append(threshold)
            pixels.append((rows[i], columns[i]))
    return np.array(maps, F), np.array(thresholds, F), pixels


TRAPS = {}
"""Worked out once: maps, thresholds, pixels, and whether these are on."""


def traps_of(geometry):
    key = str(geometry.places)
    if key not in TRAPS:
        maps, thresholds, pixels = traps(geometry, 80)
        places = [(geometry.places[0][y], geometry.places[1][x]) for y, x in pixels]
        on = [is_on(m, t, v, u, False) for m, t, (v, u) in zip(maps, thresholds, places, strict=True)]
        TRAPS[key] = maps, thresholds, pixels, np.array(on)
    return TRAPS[key]


def test_pixels_at_which_the_filter_errs_most_are_decided_right(geometry, backend):
    maps, thresholds, pixels, on = traps_of(geometry)
    assert 0 < on.sum() < len(on)
    found = masks(maps, thresholds, geometry, backend)
    assert_array_equal([found[n, y, x] for n, (y, x) in enumerate(pixels)], on)


def wrong_with(margin, level, geometry):
    """Of the traps, how many are decided wrongly with E = margin M."""
    maps, thresholds, pixels, on = traps_of(geometry)
    bounds, keys, _ = threshold_keys(thresholds, False)
    bits = np.zeros((len(maps), geometry.grid[0] * -(-geometry.grid[1] // 64)), np.uint64)
    with taking(f"cython {level}"):
        module = kernel_backend("cython")
        axes = [module._axis(axis) for axis in (geometry.rows, geometry.columns)]
        module._counting.mask_maps(maps.reshape(len(maps), -1), bounds, keys, False, *axes, bits, margin)
    found = [unpack(bits[n], geometry.grid)[y, x] for n, (y, x) in enumerate(pixels)]
    return int((found != on).sum())


@pytest.mark.parametrize("level", LEVELS)
def test_too_small_a_bound_is_caught(level, geometry):
    skip_unless_here(f"cython {level}")
    assert wrong_with(float(F(1.2e-6)), level, geometry) == 0
    assert wrong_with(0, level, geometry) > 20
    assert wrong_with(2 * U, level, geometry) > 5
