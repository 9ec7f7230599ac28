"""PyTorch feeding the kernels of the host, and the choice among ways to count: always the same counters."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import choosing, host_backend, kernel_backend, threshold_keys, torch_feed
from streamdissect.kernels import torch_backend as backend
from streamdissect.kernels import torch_masks as masks
from streamdissect.kernels.choosing import FORMS, Chooser, Way, seconds_of, ways_of

from .test_torch_backend import UNITS, counted, world, zeros

HOST_FORMS = ["bits", "maps"]
NAMES = "counters", "chance", "active"
ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def on_cuda(test):
    """Only where there is one."""
    for mark in ON_CUDA:
        test = mark(test)
    return test


def fed(case, form, maps=None, *, or_equal=False, device="cpu", units=(0, UNITS), **options):
    """Counters, chance, active; `maps` in the place of the case's."""
    found, geometry = zeros(case), case.geometry
    maps, bounds = case.maps if maps is None else maps, threshold_keys(case.thresholds, or_equal)
    axes, prepared = (geometry.rows, geometry.columns), backend.prepare(case.planes, device)
    backend.count_maps(maps, *bounds, or_equal, *axes, prepared, *units, *found, form=form, **options)
    return found


def assert_same(found, expected):
    for name, one, other in zip(NAMES, found, expected, strict=True):
        assert_array_equal(one, other, err_msg=name)


def assert_fed_as(name, case, form, **options):
    """An array and a tensor count as the backend of that name does."""
    for or_equal in (False, True):
        expected = counted(case, name, or_equal=or_equal)
        assert any(array.any() for array in expected) or np.isnan(case.thresholds).all()
        for maps in (case.maps, torch.tensor(case.maps)):
            assert_same(fed(case, form, maps, or_equal=or_equal, **options), expected)


@pytest.fixture
def sent(monkeypatch):
    """What happens, in order: how many maps a load holds when it is sent, and 0 for one that the host looks at."""
    events = []
    send, wait = torch_feed.Carrier.send, torch_feed.Load.wait
    monkeypatch.setattr(
        torch_feed.Carrier, "send", lambda self, index, parts: events.append(len(index)) or send(self, index, parts)
    )
    monkeypatch.setattr(torch_feed.Load, "wait", lambda self: events.append(0) or wait(self))
    return events


# Every form, every case


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype, union", [(np.float16, "mask-touch"), (np.float32, "paper")])
def test_counters_equal_the_reference(dtype, union, form, small):
    case = world(small, dtype, union=union)
    assert_fed_as("reference", case, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_counters_equal_the_hosts_on_large_grids(dtype, form, large):
    assert_fed_as(host_backend().name, world(large, dtype, union="mask-touch"), form)


@pytest.mark.parametrize("form", FORMS)
def test_images_with_any_number_of_maps_that_count(form, make_geometry, sent):
    """None, all and some; and a batch without any."""
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)), n_images=6)
    case.maps[[0, 3, 5]] = -1
    case.maps[[1, 2]] = 1 + np.abs(np.nan_to_num(case.maps[[1, 2]]))
    case.thresholds[:] = np.linspace(0, 0.9, UNITS)
    some = (case.maps[4] > case.thresholds[:, None, None]).any(axis=(1, 2))
    assert 0 < some.sum() < UNITS
    assert_array_equal(counted(case, "reference")[2], 2 + some)
    assert_fed_as("reference", case, form)
    sent.clear()
    case.thresholds[:] = np.nan
    assert_fed_as("reference", case, form)
    assert not any(array.any() for array in fed(case, form)) and sent == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("host", ["cython", "numba"])
def test_whichever_kernels_the_host_has(host, form, make_geometry, monkeypatch):
    try:
        kernels = kernel_backend(host)
    except ImportError as error:
        pytest.skip(str(error))
    for module in (masks, torch_feed):
        monkeypatch.setattr(module, "host", kernels)
    for dtype in (np.float16, np.float32):
        case = world(make_geometry("half_pixel", (5, 4), (17, 70)), dtype, union="mask-touch")
        assert_fed_as("reference", case, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_units_in_parts(dtype, form, make_geometry):
    """Some units only, from arrays and tensors, the others' counters left alone."""
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)), dtype)
    expected = counted(case, "reference")
    for maps in (case.maps, torch.tensor(case.maps)):
        found = [fed(case, form, maps, units=units) for units in ((3, 7), (7, UNITS))]
        for one, other, whole in zip(*found, expected, strict=True):
            assert_array_equal((one + other)[..., 3:], whole[..., 3:])
            assert not one[..., 7:].any() and not other[..., :7].any() and not (one + other)[..., :3].any()


@pytest.mark.parametrize("form", FORMS)
def test_maps_of_any_layout(form, make_geometry):
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)))
    expected = counted(case, "reference")
    before = case.maps.copy()
    case.maps.flags.writeable = False
    tensor = torch.tensor(case.maps)
    by_pixel = tensor.to(memory_format=torch.channels_last)
    assert not by_pixel.is_contiguous()
    for maps in (case.maps, by_pixel, tensor.clone().requires_grad_(), tensor.repeat(2, 1, 1, 1)[::2][:0]):
        assert_same(fed(case, form, maps), expected if len(maps) else zeros(case))
    assert_array_equal(case.maps, before)
    assert_array_equal(tensor.numpy(), before)


# Labels


@pytest.mark.parametrize("form", FORMS)
def test_images_that_feed_nothing(form, make_geometry):
    """Without planes, without labels of the whole, without a row for their area; beside one that has all of these."""
    case = world(make_geometry("half_pixel", (3, 3), (9, 66)), n_images=3)
    one, middle = case.planes.part(1, 2), np.array([0, 0, 1, 1])
    case.planes = replace(
        one,
        word_ptr=middle * len(one.words),
        plane_ptr=middle * len(one.plane_row),
        whole_ptr=middle * len(one.whole_row),
        present_ptr=middle * len(one.present_row),
    )
    assert len(case.planes) == 3 and len(one.plane_row) and len(one.whole_row)
    assert_fed_as("reference", case, form)


@given(entries=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9))))
def test_rows_are_numbered_within_their_image(entries):
    image, row = np.array(entries, int).reshape(-1, 2).T
    found = torch_feed.Rows.of(image, row.astype(np.int32), 4)
    assert found.row[found.start[image] + found.number].tolist() == row.tolist()
    for i in range(4):
        assert found.of_image(i).tolist() == sorted({r for j, r in entries if i == j})


def test_images_of_a_batch(make_geometry):
    planes = world(make_geometry("half_pixel", (3, 3), (9, 66)), n_images=5).planes
    for begin, end in ((0, 5), (0, 2), (2, 4), (4, 5), (3, 3)):
        part = planes.part(begin, end)
        part.check()
        assert len(part) == end - begin
        for i in range(begin, end):
            j = i - begin
            assert_array_equal(part.planes(j), planes.planes(i))
            for pointer, name in (("plane_ptr", "plane_row"), ("plane_ptr", "touch_row"), ("whole_ptr", "whole_row"),
                                  ("present_ptr", "present_row"), ("present_ptr", "present_area")):  # fmt: skip
                found, whole = (
                    getattr(batch, name)[getattr(batch, pointer)[k] : getattr(batch, pointer)[k + 1]]
                    for batch, k in ((part, j), (planes, i))
                )
                assert_array_equal(found, whole)


# What the device does not settle


@pytest.mark.parametrize("margin", [0.05, 2.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_masks_in_doubt_are_made_again_by_the_host(dtype, margin, make_geometry, monkeypatch):
    """With a margin this wide the device's masks are wrong wherever they are not made again."""
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)), dtype)
    monkeypatch.setattr(masks, "MARGIN", margin)
    settled = []
    settle = masks.Masks.exact
    monkeypatch.setattr(masks.Masks, "exact", lambda self, index: settled.extend(index) or settle(self, index))
    assert_fed_as("reference", case, "bits")
    assert len(settled) > 100
    monkeypatch.setattr(masks.Masks, "exact", lambda self, index: np.zeros((len(index), 17 * 2), np.uint64))
    assert (fed(case, "bits")[0][-1] < counted(case, "reference")[0][-1]).any()


def test_masks_without_doubt_are_the_devices(make_geometry, monkeypatch):
    """A chance in 10**5 for each pixel."""
    case = world(make_geometry("half_pixel", (7, 7), (14, 14)), n_images=2)
    case.maps = np.random.default_rng(1).uniform(0, 1, case.maps.shape).astype(np.float32)
    case.thresholds[:] = np.linspace(0.45, 0.55, UNITS)
    settled = []
    settle = masks.Masks.exact
    monkeypatch.setattr(masks.Masks, "exact", lambda self, index: settled.extend(index) or settle(self, index))
    assert_same(fed(case, "bits"), counted(case, "reference"))
    assert len(settled) <= 2
    monkeypatch.setattr(masks.Filter, "decide", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fed(case, "bits")
    assert_same(fed(case, "maps"), counted(case, "reference"))  # these are the host's altogether


# Loads


@pytest.mark.parametrize("form, each", [("bits", 17 * 16 + 1), ("maps", 5 * 4 * 4)])
@pytest.mark.parametrize("buffer, most", [(0.5, 1), (1, 1), (2.5, 2), (7, 7), (1000, 1000)])
def test_loads_of_any_size(buffer, most, form, each, make_geometry, monkeypatch, sent):
    """Buffers that hold less than an image, less than a map, or several images."""
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)), union="mask-touch")
    monkeypatch.setattr(torch_feed, "BUFFER_BYTES", int(buffer * each))
    assert_fed_as("reference", case, form)
    sent.clear()
    n = int(fed(case, form)[2].sum())
    loads = [size for size in sent if size]
    assert sum(loads) == n and max(loads) == min(most, n) and min(loads[:-1], default=most) == most


@pytest.mark.parametrize("form", HOST_FORMS)
@pytest.mark.parametrize("working, band", [(1, 1), (3000, 1 << 20), (16 << 20, 70 * 5)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_working_memory(dtype, working, band, form, make_geometry, monkeypatch):
    """Steps, groups, bands and loads that do not fit each other."""
    monkeypatch.setattr(masks, "HOST_BYTES", working)
    monkeypatch.setattr(masks, "BAND_PIXELS", band)
    monkeypatch.setattr(torch_feed, "BUFFER_BYTES", 1500)
    assert_fed_as("reference", world(make_geometry("half_pixel", (5, 4), (17, 70)), dtype), form)


@pytest.mark.parametrize("form", HOST_FORMS)
def test_a_load_is_counted_while_the_next_one_is_under_way(form, make_geometry, monkeypatch, sent):
    monkeypatch.setattr(torch_feed, "BUFFER_BYTES", 1)
    case = world(make_geometry("half_pixel", (2, 2), (4, 4)), n_images=2)
    n = int(fed(case, form)[2].sum())
    assert n > 4
    assert sent == [1, *[1, 0] * (n - 1), 0]


def test_a_load_stays_until_the_load_after_the_next():
    carrier = torch_feed.Carrier(torch.device("cpu"), 4)
    loads = []
    for i in range(5):
        loads.append(carrier.send(np.arange(2), [torch.full((2, 1), 10 * i + j, dtype=torch.uint8) for j in (0, 1)]))
        for j, load in enumerate(loads[-2:], max(0, i - 1)):
            assert [part.ravel().tolist() for part in load.parts] == [[10 * j] * 2, [10 * j + 1] * 2]


@pytest.mark.parametrize("form", FORMS)
def test_threads_change_nothing(form, make_geometry, monkeypatch):
    monkeypatch.setattr(torch_feed, "BUFFER_BYTES", 6000)
    case, before = world(make_geometry("half_pixel", (5, 4), (17, 70)), n_images=9), torch.get_num_threads()
    expected = counted(case, "reference")
    for threads in (1, 2, 3, 16, None):
        assert_same(fed(case, form, threads=threads), expected)
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("form", HOST_FORMS)
def test_a_failure_of_the_host_is_the_callers(form, make_geometry, monkeypatch):
    kernels = SimpleNamespace(**vars(host_backend()))
    kernels.count_maps = kernels.count_masks = lambda *_: 1 / 0
    monkeypatch.setattr(torch_feed, "host", kernels)
    case, before = world(make_geometry("half_pixel", (5, 4), (17, 70))), torch.get_num_threads()
    for threads in (1, before + 1):
        with pytest.raises(ZeroDivisionError):
            fed(case, form, threads=threads)
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("form", HOST_FORMS)
def test_the_callers_settings_have_no_say(form, make_geometry):
    case = world(make_geometry("half_pixel", (5, 4), (50, 70)))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            for maps in (case.maps, torch.from_numpy(case.maps)):
                assert_same(fed(case, form, maps), counted(case, "reference"))
    finally:
        torch.set_default_dtype(torch.float32)


def test_packed_masks_are_those_of_the_definition():
    rng = np.random.default_rng(2)
    for width in (1, 7, 63, 64, 65, 200):
        on = rng.integers(0, 2, (3, 2, width))
        found = masks.words_of_bytes(masks.packed(torch.tensor(on, dtype=torch.float32)).numpy())
        bits = [[int(found[i, y * (found.shape[1] // 2) + x // 64]) >> x % 64 & 1 for x in range(width)]
                for i in range(3) for y in range(2)]  # fmt: skip
        assert_array_equal(bits, on.reshape(6, width))
        assert sum(map(int.bit_count, map(int, found.ravel()))) == on.sum()


# The choice among ways


class Clock:
    """A time that only work moves on."""

    def __init__(self, monkeypatch):
        self.now, self.asked = 0.0, []
        monkeypatch.setattr(choosing, "clock", lambda: self.now)

    def work(self, way, n, start, each, first=0.0):
        self.now += (start + n * each) / 1000 + (0 if any(way == one for one, _ in self.asked) else first)
        self.asked.append((way, n))


@pytest.fixture
def clock(monkeypatch):
    """Milliseconds to start with and for each image; the first time costs seconds more."""
    return Clock(monkeypatch)


def test_a_trial_takes_more_images_until_its_time_is_over(clock):
    seconds = seconds_of(lambda n: clock.work("", n, 1, 1, first=5), 100)
    assert [n for _, n in clock.asked] == [1, 1, 2, 4, 8, 16]  # 2 + 3 + 5 + 9 do not make 20 ms
    assert seconds == pytest.approx(0.017 / 16)


def test_a_batch_that_is_done_sooner_is_counted_again(clock):
    seconds = seconds_of(lambda n: clock.work("", n, 1, 1, first=5), 3)
    assert [n for _, n in clock.asked] == [1, 1, 2, 3, 3, 3, 3]
    assert seconds == pytest.approx(0.004 / 3)


COSTS = {"slow": (0, 2), "starts slowly": (3, 0.1), "quick": (0, 0.5)}
"""Milliseconds."""
SLOW, STARTS, QUICK = WAYS = tuple(map(Way, COSTS))


@pytest.mark.parametrize("n_images, expected", [(1, QUICK), (4, QUICK), (64, STARTS)])
def test_the_fastest_way_is_taken(n_images, expected, clock):
    """What a way costs to start weighs the less the more images a batch has; what it costs once, not at all."""

    def trial(way, n):
        clock.work(way, n, *COSTS[way.backend], first=9 if way == expected else 0)

    assert Chooser(WAYS).fastest(trial, n_images) == expected


def test_one_way_is_taken_without_a_trial():
    assert Chooser([QUICK]).fastest(lambda way, n: 1 / 0, 4) == QUICK


def test_ways_that_fail_are_left_out_unless_all_do(clock):
    def trial(way, n):
        if way in failing:
            raise torch.OutOfMemoryError(f"no room for {way.backend}")
        clock.work(way, n, *COSTS[way.backend])

    failing = {QUICK, STARTS}
    assert Chooser(WAYS).fastest(trial, 4) == SLOW
    failing = {*WAYS}
    with pytest.raises(torch.OutOfMemoryError, match="no room for quick"):
        Chooser(WAYS).fastest(trial, 4)
    with pytest.raises(ZeroDivisionError):
        Chooser(WAYS).fastest(lambda way, n: 1 / 0, 4)


def count(maps, thresholds, rows, columns, planes, *added, backend, device, form, or_equal, threads):
    """kernels.count_maps, with the forms of `torch`."""
    planes.check()
    bounds, module = threshold_keys(thresholds, or_equal), kernel_backend(backend)
    named = {} if form is None else {"form": form, "threads": threads}
    prepared = module.prepare(planes, **({} if device is None else {"device": device}))
    module.count_maps(maps, *bounds, or_equal, rows, columns, prepared, 0, len(thresholds), *added, **named)


GRIDS, DTYPES = ((17, 70), (9, 9)), (np.float16, np.float32)


@pytest.mark.parametrize("place, ways", [(np.asarray, (Way(), *ways_of("torch", "cpu"))),
                                         (torch.tensor, ways_of("torch", "cpu"))], ids=["array", "tensor"])  # fmt: skip
def test_a_choice_is_made_once_for_each_kind_of_maps(place, ways, make_geometry):
    calls = []

    def watched(maps, *arguments, backend, device, form, **options):
        calls.append((Way(backend, device, form), len(maps)))
        count(maps, *arguments, backend=backend, device=device, form=form, **options)

    chooser, options = Chooser(ways), {"or_equal": True, "threads": 1}
    for grid in GRIDS:
        for dtype in DTYPES:
            case = world(make_geometry("half_pixel", (5, 4), grid), dtype, n_images=3)
            maps, found = place(case.maps), zeros(case)
            arrays = case.thresholds, case.geometry.rows, case.geometry.columns, case.planes
            way = chooser.way(watched, maps, *arrays, *found, **options)
            assert {one for one, _ in calls} == {*ways} and {n for _, n in calls} == {1, 2, 3}
            assert not any(array.any() for array in found)
            calls.clear()
            assert way in ways and chooser.way(watched, maps, *arrays, *found, **options) == way
            assert calls == []
            count(maps, *arrays, *found, **way._asdict(), **options)
            assert_same(found, counted(case, "reference", or_equal=True))
    assert len(chooser.chosen) == 4


def test_ways_that_backends_leave_open(monkeypatch):
    three = tuple(Way("torch", "cuda:1", form) for form in ("device", "bits", "maps"))
    assert ways_of("torch", "cuda:1") == three
    assert ways_of("numba") == (Way("numba"),)
    for there in (False, True):
        cuda = SimpleNamespace(is_available=lambda there=there: there)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        expected = (Way("auto"), *(Way("torch", "cuda", form) for form in FORMS))
        for imports_torch in (False, True):
            assert ways_of(imports_torch=imports_torch) == (expected if there else (Way("auto"),))
    monkeypatch.setenv("STREAMDISSECT_KERNELS", "numba")
    assert ways_of() == (Way("auto"),)


def test_the_choice_imports_torch_only_when_it_may():
    script = (
        "import sys\nfrom streamdissect.kernels.choosing import Way, ways_of\n"
        "assert ways_of() == (Way(),) and 'torch' not in sys.modules\n"
        "ways_of(imports_torch=True)\nassert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# CUDA


@on_cuda
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("buffer", [1, 5000, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_cuda_equals_the_host(dtype, buffer, form, large, monkeypatch):
    """From arrays and from tensors that are there already."""
    monkeypatch.setattr(torch_feed, "BUFFER_BYTES", buffer)
    case = world(large, dtype, union="mask-touch")
    for or_equal in (False, True):
        expected = counted(case, host_backend().name, or_equal=or_equal)
        for maps in (case.maps, torch.tensor(case.maps), torch.tensor(case.maps, device="cuda")):
            for threads in (1, 3):
                found = fed(case, form, maps, or_equal=or_equal, device="cuda", threads=threads)
                assert_same(found, expected)


@on_cuda
@pytest.mark.parametrize("form", FORMS)
def test_cuda_equals_the_host_on_many_maps_in_doubt(form, make_geometry, monkeypatch):
    """Many loads, one after the other, and masks of which the host asks for the maps meanwhile."""
    monkeypatch.setattr(masks, "MARGIN", 0.01)
    case = world(make_geometry("half_pixel", (14, 14), (336, 336)), np.float16, n_images=64)
    expected = counted(case, host_backend().name)
    for maps in (case.maps, torch.tensor(case.maps, device="cuda")):
        assert_same(fed(case, form, maps, device="cuda", threads=4), expected)


@on_cuda
@pytest.mark.parametrize("form", FORMS)
def test_cuda_counts_what_the_callers_stream_has_made(form, make_geometry):
    """Maps that are still being computed when they are handed over."""
    case = world(make_geometry("half_pixel", (14, 14), (112, 112)), n_images=16)
    expected = counted(case, host_backend().name)
    maps = torch.tensor(case.maps, device="cuda")
    late = torch.full_like(maps, torch.nan)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)
        late.copy_(maps)
        assert_same(fed(case, form, late, device="cuda"), expected)


@on_cuda
def test_auto_has_ways_on_cuda(make_geometry):
    case = world(make_geometry("half_pixel", (5, 4), (17, 70)))
    arrays = case.maps, case.thresholds, case.geometry.rows, case.geometry.columns, case.planes
    chooser = Chooser(ways_of())
    assert len(chooser.ways) == 1 + len(FORMS)
    assert chooser.way(count, *arrays, *zeros(case), or_equal=False, threads=1) in chooser.ways
