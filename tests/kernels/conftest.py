"""Backends and geometries that the tests of the kernels share."""

from fractions import Fraction
from types import SimpleNamespace

import pytest

from streamdissect.kernels import kernel_backend
from streamdissect.measure.fieldmap import AxisField
from streamdissect.measure.upsample import axis_weights


@pytest.fixture(params=["cython", "numba", "torch"])
def backend(request):
    """Each fast backend that can be imported here."""
    return importable(request.param)


@pytest.fixture(params=["cython", "numba", "torch", "reference"])
def any_backend(request):
    """Each backend that can be imported here."""
    return importable(request.param)


def importable(name):
    """The name; the test is skipped where that backend cannot be imported."""
    try:
        kernel_backend(name)
    except ImportError as error:
        pytest.skip(str(error))
    return name


def positions(mode, n_source, n_pixels, n_input, field):
    """Methods 2.1, in the test's own words: where each pixel samples the grid, clamped."""
    found = []
    for j in range(n_pixels):
        u = (j + Fraction(1, 2)) * Fraction(n_input, n_pixels) - Fraction(1, 2)
        if mode == "rf":
            offset, size, step = map(Fraction, field)
            v = (u - offset - (size - 1) / 2) / step
        elif mode == "half_pixel":
            v = (j + Fraction(1, 2)) * Fraction(n_source, n_pixels) - Fraction(1, 2)
        else:
            v = Fraction(0) if n_pixels == 1 else Fraction(j * (n_source - 1), n_pixels - 1)
        found.append(min(max(v, Fraction(0)), Fraction(n_source - 1)))
    return found


def geometry(mode, source, grid, n_input=227, fields=(None, None)):
    """Both axes' weights, and the positions they were made for."""
    axes = [
        axis_weights(mode, n, m, n_input, None if field is None else AxisField(*field))
        for n, m, field in zip(source, grid, fields, strict=True)
    ]
    places = [positions(mode, n, m, n_input, field) for n, m, field in zip(source, grid, fields, strict=True)]
    return SimpleNamespace(source=source, grid=grid, rows=axes[0], columns=axes[1], places=places)


@pytest.fixture(scope="session")
def make_geometry():
    """See `geometry`."""
    return geometry


RESNET, ALEXNET, OFF_LEFT = (-217, 435, 32), (-64, 163, 16), (-230, 491, 32)
SMALL = {
    "1x1 to 1x1": lambda: geometry("half_pixel", (1, 1), (1, 1)),
    "1x1 to 5x70": lambda: geometry("corners", (1, 1), (5, 70)),
    "1x9 to 6x1": lambda: geometry("half_pixel", (1, 9), (6, 1)),
    "1x9 to 1x67": lambda: geometry("half_pixel", (1, 9), (1, 67)),
    "7x1 to 20x3": lambda: geometry("corners", (7, 1), (20, 3)),
    "7x7 rf off-centre": lambda: geometry("rf", (7, 7), (28, 31), 224, (OFF_LEFT, RESNET)),
    "7x7 rf far away": lambda: geometry("rf", (7, 7), (16, 65), 224, ((3000, 99, 16), (-5000, 99, 16))),
    "7x7 rf beyond the image": lambda: geometry("rf", (7, 7), (30, 30), 224, ((-80, 5, 64), (90, 5, 7))),
    "5x6 to 24x80": lambda: geometry("half_pixel", (5, 6), (24, 80)),
    "13x13 to 6x4": lambda: geometry("half_pixel", (13, 13), (6, 4)),
    "13x13 to 13x13": lambda: geometry("half_pixel", (13, 13), (13, 13)),
    "13x13 corners to 5x27": lambda: geometry("corners", (13, 13), (5, 27)),
    "4x70 to 9x200": lambda: geometry("half_pixel", (4, 70), (9, 200)),
    "3x65 to 3x65": lambda: geometry("corners", (3, 65), (3, 65)),
    "2x130 to 5x64": lambda: geometry("half_pixel", (2, 130), (5, 64)),
    "2x64 to 4x128": lambda: geometry("half_pixel", (2, 64), (4, 128)),
}
LARGE = {
    "7x7 to 112x112": lambda: geometry("half_pixel", (7, 7), (112, 112)),
    "13x13 rf to 113x113": lambda: geometry("rf", (13, 13), (113, 113), 227, (ALEXNET, ALEXNET)),
    "7x7 rf off-centre to 112x112": lambda: geometry("rf", (7, 7), (112, 112), 224, (OFF_LEFT, OFF_LEFT)),
    "15x20 to 180x240": lambda: geometry("half_pixel", (15, 20), (180, 240)),
    "65x70 to 90x128": lambda: geometry("half_pixel", (65, 70), (90, 128)),
    "65x70 to 30x33": lambda: geometry("half_pixel", (65, 70), (30, 33)),
}


@pytest.fixture(scope="session", params=SMALL)
def small(request):
    """A geometry whose masks can be worked out pixel by pixel."""
    return SMALL[request.param]()


@pytest.fixture(scope="session", params=LARGE)
def large(request):
    """A geometry of the size that layers have."""
    return LARGE[request.param]()
