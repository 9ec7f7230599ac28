"""The levels of the compiled counting loops: which are taken, and that all give the same bits."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import build_info, count_maps, kernel_backend, mask_maps

from .levels import LEVELS, taking
from .test_counting import BOUNDS, N_CONCEPTS, N_ROWS, random_batch, special_maps

try:
    cython = kernel_backend("cython")
except ImportError:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

HERE = cython.levels()


def run(code, **environment):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


# Which is taken

ASK = "from streamdissect.kernels import build_info; print(build_info()['level'])"


def test_the_levels_are_known_ones_and_the_portable_one_is_always_among_them():
    assert [level for level in LEVELS if level in HERE] == HERE
    assert HERE[-1] == "portable"
    assert build_info()["levels"] == HERE
    assert build_info()["level"] == cython.level()


def test_the_fastest_is_taken_unless_the_environment_names_another():
    assert run(ASK).stdout.split() == HERE[:1]
    assert run(ASK, STREAMDISSECT_SIMD="").stdout.split() == HERE[:1]
    for level in HERE:
        assert run(ASK, STREAMDISSECT_SIMD=level).stdout.split() == [level]


@pytest.mark.parametrize("word", ["avx51", "AVX2", "neon", "avx512,avx2"])
def test_a_level_that_there_is_not_is_refused_in_one_line(word):
    code = "from streamdissect.cli import main; raise SystemExit(main(['info']))"
    done = run(code, STREAMDISSECT_SIMD=word)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"STREAMDISSECT_SIMD: got {word}, expected one of {', '.join(HERE)}" in line


def test_where_numba_serves_a_level_is_refused_too():
    code = "import sys; sys.modules['streamdissect.kernels._counting'] = None\n" + ASK
    done = run(code, STREAMDISSECT_SIMD="portable")
    assert done.returncode != 0 and "here Numba serves; unset it" in done.stderr.splitlines()[-1]


def test_a_level_is_taken_back(monkeypatch):
    before = cython.level()
    for level in HERE:
        with taking(f"cython {level}"):
            assert cython.level() == level
    assert cython.level() == before
    with pytest.raises(ValueError):
        cython.use_level("avx51")
    assert cython.level() == before


# All give the same bits


def everything(maps, thresholds, geometry, planes, or_equal):
    """Masks of the first image, and all counters, at the level in use."""
    counters = [np.zeros(shape, np.int64) for shape in ((N_ROWS, maps.shape[1]), (N_CONCEPTS, maps.shape[1]))]
    counters.append(np.zeros(maps.shape[1], np.int64))
    axes = geometry.rows, geometry.columns
    count_maps(maps, thresholds, *axes, planes, *counters, or_equal=or_equal, backend="cython")
    return [mask_maps(maps[0], thresholds, *axes, or_equal=or_equal, backend="cython"), *counters]


def assert_levels_agree(maps, thresholds, geometry, planes, or_equal):
    """Returns the pixels of the masks."""
    with taking("cython portable"):
        expected = everything(maps, thresholds, geometry, planes, or_equal)
    for level in HERE[:-1]:
        with taking(f"cython {level}"):
            found = everything(maps, thresholds, geometry, planes, or_equal)
        for name, one, other in zip(("masks", "counters", "chance", "active"), found, expected, strict=True):
            assert_array_equal(one, other, err_msg=f"{level}: {name}")
    return int(expected[1].sum())


GRIDS = {
    "1x1 to 1x1": ((1, 1), (1, 1)),
    "1x1 to 112x112": ((1, 1), (112, 112)),
    "7x7 to 112x112": ((7, 7), (112, 112)),
    "13x13 to 113x113": ((13, 13), (113, 113)),
    "14x14 to 224x224": ((14, 14), (224, 224)),
    "28x28 to 112x112": ((28, 28), (112, 112)),
    "56x56 to 112x112": ((56, 56), (112, 112)),
    "63x64 to 64x65": ((63, 64), (64, 65)),
    "65x64 to 70x64": ((65, 64), (70, 64)),
    "16x128 to 30x130": ((16, 128), (30, 130)),
    "130x130 to 130x130": ((130, 130), (130, 130)),
    "130x130 to 20x33": ((130, 130), (20, 33)),
    "130x130 to 7x9": ((130, 130), (7, 9)),
    "5x129 to 9x1000": ((5, 129), (9, 1000)),
    "3x7 to 5x1024": ((3, 7), (5, 1024)),
    "3x7 to 5x1025": ((3, 7), (5, 1025)),
    "2x300 to 4x2500": ((2, 300), (4, 2500)),
    "3x2200 to 4x2100": ((3, 2200), (4, 2100)),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("mode", ["half_pixel", "corners"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_levels_agree_on_grids_of_every_size(grid, mode, dtype, make_geometry):
    rng = np.random.default_rng(71)
    geometry = make_geometry(mode, *grid)
    planes = random_batch(rng, geometry.grid, [9, 33, 0])
    maps = special_maps(rng, (3, 12, *geometry.source), dtype)
    area = 0
    for or_equal in (False, True):
        thresholds = rng.choice(BOUNDS, 12)
        thresholds[:4] = 1.5, 3, np.quantile(maps[:, 2].astype(np.float32), 0.995), 0
        area += assert_levels_agree(maps, thresholds, geometry, planes, or_equal)
    assert area


@pytest.mark.parametrize("n_planes", [0, 1, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 130, 300])
def test_levels_agree_on_any_number_of_labels(n_planes, make_geometry):
    rng = np.random.default_rng(73)
    geometry = make_geometry("half_pixel", (9, 11), (90, 140))
    planes = random_batch(rng, geometry.grid, [n_planes, 3])
    maps = special_maps(rng, (2, 6, 9, 11), np.float32)
    assert assert_levels_agree(maps, np.zeros(6, np.float32), geometry, planes, False)


def test_levels_agree_on_masks_with_more_words_than_any_sum_is_held_for(make_geometry):
    """Whole masks of 300 x 250: every word is full, byte by byte, in planes that are full as well."""
    geometry = make_geometry("half_pixel", (3, 3), (300, 250))
    planes = random_batch(np.random.default_rng(79), geometry.grid, [70])
    planes.words[...] = 0
    planes.planes(0).reshape(300, 4, 70)[:, :3] = np.uint64(2**64 - 1)
    assert assert_levels_agree(np.ones((1, 2, 3, 3), np.float16), np.zeros(2, np.float32), geometry, planes, False)


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), or_equal=st.booleans(), dtype=st.sampled_from(["f2", "f4"]))
def test_levels_agree_on_any_shape(data, seed, or_equal, dtype, make_geometry):
    rng = np.random.default_rng(seed)
    source = data.draw(st.tuples(st.integers(1, 130), st.integers(1, 130)))
    grid = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 300)))
    geometry = make_geometry(data.draw(st.sampled_from(["half_pixel", "corners"])), source, grid)
    planes = random_batch(rng, grid, [data.draw(st.integers(0, 40))])
    maps = special_maps(rng, (1, 4, *source), dtype)
    assert_levels_agree(maps, rng.choice(BOUNDS, 4), geometry, planes, or_equal)


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from streamdissect.kernels import PlaneBatch, count_maps, kernel_backend
from streamdissect.measure.upsample import axis_weights
held = []
def guarded(array):
    "The array, at whose end begins a page that may not be read."
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    held.append(mmap.mmap(-1, size + mmap.PAGESIZE))
    start = np.frombuffer(held[-1], np.uint8).ctypes.data
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), mmap.PAGESIZE, 0) == 0
    copy = np.frombuffer(held[-1], array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy
level, beyond = sys.argv[1], int(sys.argv[2])
kernel_backend("cython").use_level(level)
n = np.arange(4, dtype=np.int32)
for dtype in (np.float16, np.float32):
    for source in ((1, 1), (2, 3), (5, 7), (4, 17), (6, 40)):
        maps = guarded(np.linspace(-1, 1, source[0] * source[1], dtype=dtype).reshape(1, 1, *source))
        words = guarded(np.full((20, 4), 2**30 - 1, np.uint64)).ravel()
        ends = [np.array([0, end]) for end in (80, 4, 0, 0)]
        none, no_rows = ends[0][:0], n[:0]
        planes = PlaneBatch((20, 30), words, ends[0], ends[1], n, n * 0 - 1, ends[2], no_rows, ends[3], no_rows, none)
        counters, chance, active = np.zeros((4, 1), np.int64), np.zeros((4, 1), np.int64), np.zeros(1, np.int64)
        axes = [axis_weights("half_pixel", a, b, b) for a, b in zip(source, (20, 30))]
        count_maps(maps, np.full(1, -2, np.float32), *axes, planes, counters, chance, active, backend="cython")
        assert (counters == 600).all(), counters
if beyond:
    print(np.ctypeslib.as_array(ctypes.cast(maps.ctypes.data, ctypes.POINTER(ctypes.c_char)), (maps.nbytes + 1,))[-1])
"""


@pytest.mark.parametrize("level", HERE)
def test_maps_and_labels_at_the_end_of_their_memory_are_not_read_beyond(level):
    def run_guarded(beyond):
        return subprocess.run(
            [sys.executable, "-c", GUARDED, level, beyond], capture_output=True, text=True, check=False
        )

    done = run_guarded("0")
    assert done.returncode == 0, done.stderr
    assert run_guarded("1").returncode in (-signal.SIGSEGV, -signal.SIGBUS), "the guard does not guard"
