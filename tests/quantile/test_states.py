"""Saved states: whatever is cut, foreign or out of order is refused, by an error that says so."""

import re

import numpy as np
import pytest

from streamdissect.quantile import BinnedTail, BufferedTail, Histogram, KllSketch, ReqSketch

from .oracle import METHODS, N_UNITS, assert_same_state, normal, saved

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
TAILS_KEPT = {name: m for name, m in METHODS.items() if m.kind in (BinnedTail, BufferedTail)}
RAGGED = TAILS_KEPT | {name: m for name, m in METHODS.items() if m.kind is Histogram}
BINNED = {name: m for name, m in METHODS.items() if m.kind in (BinnedTail, Histogram)}
ROWS = {BinnedTail: ("bin", "count"), BufferedTail: ("keys",), Histogram: ("bin", "count")}
every_tail = pytest.mark.parametrize("method", TAILS_KEPT.values(), ids=TAILS_KEPT)
every_ragged = pytest.mark.parametrize("method", RAGGED.values(), ids=RAGGED)
every_binned = pytest.mark.parametrize("method", BINNED.values(), ids=BINNED)
CAPACITY = 60


def stream(method, capacity=CAPACITY):
    """With values of every sort, of which a tail has forgotten most, and a sketch has compacted some."""
    values = normal(np.random.default_rng(0), (60, N_UNITS, 49), method.dtype)
    values[3, :, :9] = [np.nan, np.inf, -np.inf, 0, 0, 0, 5, 5, 5]
    return method.of(values, capacity=capacity)


def state(method, capacity=CAPACITY):
    """(arrays, whose restoring works)"""
    streams = stream(method, capacity)
    assert_same_state(saved(streams), streams)
    return {name: array.copy() for name, array in streams.to_arrays().items()}


class Refused:
    """Gathers what should have been refused and was not, so that all of it is seen at once."""

    def __init__(self, method):
        self.method, self.arrays, self.passed = method, state(method), []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is None:
            assert self.passed == []

    def try_with(self, what, words=".", arrays=None, **changes):
        """No other error will do, nor a warning, which a test makes one."""
        try:
            self.method.kind.from_arrays((self.arrays if arrays is None else arrays) | changes)
        except ValueError as error:
            if not re.search(words, str(error)) or len(str(error)) < 15:
                self.passed.append((what, str(error)))
        except Exception as error:
            self.passed.append((what, repr(error)))
        else:
            self.passed.append((what, "accepted"))

    def names(self):
        return [name for name in self.arrays if name != "kind"]

    def changed(self, name, place, value, dtype=None):
        """A copy of an array with one element changed."""
        wrong = self.arrays[name].astype(dtype or self.arrays[name].dtype)
        wrong[place] = value
        return wrong


@every_method
def test_a_state_without_one_of_its_arrays(method):
    with Refused(method) as refused:
        for name in refused.arrays:
            rest = {key: array for key, array in refused.arrays.items() if key != name}
            refused.try_with(name, "cut", rest)
        refused.try_with("all", "cut", {})


@every_method
def test_an_array_that_is_cut_or_too_long(method):
    with Refused(method) as refused:
        for name in refused.names():
            array = refused.arrays[name]
            assert array.size
            others = {"last": array[:-1], "first": array[1:], "last column": array[..., :-1], "all": array[:0],
                      "a dimension": array.ravel()[0], "an axis more": array[None],
                      "too long": np.concatenate([array, array[-1:]])}  # fmt: skip
            for what, other in others.items():
                refused.try_with((name, what), **{name: other})


@every_method
def test_a_state_of_another_version_kind_or_dtype(method):
    kind, dtype = method.kind.kind, np.dtype(method.dtype)
    with Refused(method) as refused:
        for version in (0, 2, 9, -1):
            refused.try_with(version, f"version {version}", shape=refused.changed("shape", 0, version))
        for other in METHODS.values():
            if other.kind is not method.kind:
                refused.try_with(other, "expected", kind=np.array(f"{other.kind.kind} {dtype}"))
        for text in ("", kind, f"{kind} float64", f"{kind} int8", f"{kind} nothing", f"{kind}float32"):
            refused.try_with(text, kind=np.array(text))
    for other in METHODS.values():
        if other.kind is not method.kind:
            with pytest.raises(ValueError, match="expected"):
                other.kind.from_arrays(state(method))


@every_method
def test_a_state_of_another_number_of_units(method):
    with Refused(method) as refused:
        for n_units in (0, 1, N_UNITS - 1, N_UNITS + 1, -1):
            refused.try_with(n_units, shape=refused.changed("shape", 1, n_units))


@every_method
def test_streams_of_another_number_of_units_dtype_kind_or_setting_do_not_join(method):
    streams = stream(method)
    before = stream(method)
    others = [other.new(CAPACITY) for other in METHODS.values() if other != method]
    others += [method.new(CAPACITY, N_UNITS + 1), method.new(CAPACITY, 1)]
    if method.kind in ROWS and method.kind is not Histogram:
        others.append(method.new(CAPACITY + 1))
    if method.kind in (ReqSketch, KllSketch):
        k, seed = method.settings
        others += [method.kind(N_UNITS, k + 2, seed, method.dtype), method.kind(N_UNITS, k, seed + 1, method.dtype)]
    for other in others:
        with pytest.raises(ValueError, match="cannot join"):
            streams.merge(other)
        assert_same_state(streams, before)


@every_method
def test_numbers_that_are_none_or_broken(method):
    """Where integers are saved, NaN, fractions and words are damage."""
    with Refused(method) as refused:
        for name in refused.names():
            middle = np.unravel_index(refused.arrays[name].size // 2, refused.arrays[name].shape)
            for value in (np.nan, np.inf, 0.5):
                refused.try_with((name, value), **{name: refused.changed(name, middle, value, np.float64)})
            refused.try_with((name, "words"), **{name: np.full(refused.arrays[name].shape, "many")})


@every_method
def test_extremes_that_are_no_ends(method):
    with Refused(method) as refused:
        lowest, highest = refused.arrays["extremes"]
        nothing = [[2**31 - 1] * N_UNITS, [-(2**31)] * N_UNITS]
        for what, extremes in (("the wrong way round", [highest, lowest]), ("of no value", nothing)):
            refused.try_with(what, extremes=np.array(extremes, np.int32))


@every_method
def test_counts_that_cannot_be(method):
    """More NaN, infinities and zeros than values, or fewer than none."""
    with Refused(method) as refused:
        for row, what in enumerate(("NaN", "infinite", "zero")):
            for count in (int(refused.arrays["shape"][-1]) + 1, -1):
                refused.try_with((what, count), counts=refused.changed("counts", (row, 1), count))


@every_method
def test_a_number_of_values_that_cannot_be(method):
    """Of what is kept there is more."""
    with Refused(method) as refused:
        for n_seen in (-1, 0, 1):
            refused.try_with(n_seen, shape=refused.changed("shape", -1, n_seen))


@every_ragged
def test_pointers_that_point_elsewhere(method):
    """One that moves values from a unit to its neighbour too, wherever order or counts tell of it."""
    with Refused(method) as refused:
        pointer = refused.arrays["pointer"]
        for place, by in ((0, 1), (0, -1), (-1, 1), (-1, -1), (1, 1), (1, -1), (1, 10**6), (2, -(10**6)), (2, 2**40)):
            refused.try_with((place, by), pointer=refused.changed("pointer", place, pointer[place] + by))
        refused.try_with("backwards", pointer=pointer[::-1])
        refused.try_with("nowhere", pointer=np.zeros_like(pointer))


@every_ragged
def test_rows_out_of_order(method):
    with Refused(method) as refused:
        name, row = ROWS[method.kind][0], slice(*refused.arrays["pointer"][:2])
        for what, where in (("a row", row), ("all", slice(None))):
            backwards = refused.arrays[name][where][::-1]
            refused.try_with(what, "order", **{name: refused.changed(name, where, backwards)})


@every_binned
def test_bins_and_counts_that_cannot_be(method):
    with Refused(method) as refused:
        refused.try_with("twice", "order", bin=refused.changed("bin", 1, refused.arrays["bin"][0]))
        for place, number in ((0, -1), (-1, 65536), (-1, 2**40)):
            refused.try_with(("bin", number), bin=refused.changed("bin", place, number, np.int64))
        for number in (0, -1, 2**40):
            refused.try_with(("count", number), count=refused.changed("count", 0, number, np.int64))


@every_ragged
@pytest.mark.parametrize("end", [0, -1])
def test_a_row_that_is_cut_with_its_pointer(method, end):
    """Nothing but the number of values tells. Bins that have forgotten some may hold any number: these have not."""
    arrays = state(method, 60 * 49 + 1 if method.kind is BinnedTail else CAPACITY)
    pointer = arrays["pointer"].copy()
    pointer[1:] -= 1
    place = 0 if end == 0 else pointer[1]
    cut = {name: np.delete(arrays[name], place) for name in ROWS[method.kind]}
    with Refused(method) as refused:
        refused.try_with("cut", arrays=arrays, pointer=pointer, **cut)


@pytest.mark.parametrize("method", [METHODS["float16 REQ"], METHODS["float32 KLL"]], ids=["REQ", "KLL"])
def test_levels_that_cannot_be(method):
    with Refused(method) as refused:
        fill, keys = refused.arrays["fill"], refused.arrays["keys"]
        assert len(fill) > 1 and keys.shape[1] > 2
        moved, negative = fill.copy(), fill.copy()
        moved[:2] += (-2, 1)
        negative[:2] = -2, fill[1] + fill[0] // 2 + 1
        others = {"more": fill + (np.arange(len(fill)) == 0), "moved": moved, "negative": negative,
                  "backwards": fill[::-1], "one level more": np.append(fill, 1), "none": fill * 0}  # fmt: skip
        for what, wrong in others.items():
            refused.try_with(what, "fit together", fill=wrong)
        refused.try_with("turns below none", turn=-1 - refused.arrays["turn"])
        refused.try_with("keys backwards", "order", keys=keys[:, ::-1])
        refused.try_with("a key", "order", keys=refused.changed("keys", (-1, -1), keys[-1, -2] - 1))
        for place, value, words in ((2, 7, "even"), (2, 9, "even"), (2, 2**17, "even"), (3, -1, "seed")):
            refused.try_with(words, words, shape=refused.changed("shape", place, value))


@every_tail
def test_a_capacity_that_cannot_be(method):
    with Refused(method) as refused:
        for capacity in (0, -1, 2**40 if method.kind is BinnedTail else 5):
            refused.try_with(capacity, "capacity", shape=refused.changed("shape", 2, capacity))


def test_a_buffer_that_is_not_full():
    """A larger capacity than what is held, of more values."""
    with Refused(METHODS["float32 buffer"]) as refused:
        refused.try_with("capacity", shape=refused.changed("shape", 2, CAPACITY + 1))


@pytest.mark.parametrize("name", ["float16 bins", "float32 bins"])
def test_bounds_that_cannot_be(name):
    """Kept bins lie above the bound; without one nothing was forgotten."""
    with Refused(METHODS[name]) as refused:
        highest = refused.arrays["bin"][refused.arrays["pointer"][1:] - 1].astype(np.int32) - 32768
        bounds = {"the highest bin": highest, "above all": np.full(N_UNITS, 40_000), "none": np.full(N_UNITS, -32769),
                  "below none": np.full(N_UNITS, -40_000)}  # fmt: skip
        for what, bound in bounds.items():
            refused.try_with(what, bound=bound.astype(np.int32))
