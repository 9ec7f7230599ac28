"""Counters by blocks of images: against counters of each block's images alone, by the slow reference."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from streamdissect.kernels import available_backends
from streamdissect.measure.blocks import BlockTally, sum_blocks
from streamdissect.measure.bootstrap import BlockCounters
from streamdissect.measure.counters import Counters
from streamdissect.measure.iou import score_counters
from streamdissect.measure.planes import LabelRules, image_planes, with_both_unions
from streamdissect.measure.upsample import axis_weights

K, B, C, G = 3, 5, 4, 2
PAPER = LabelRules(np.array([1, 4, 7, 9], np.int32), np.array([0, 1, 1, 0], np.int32), G, np.zeros(G, np.int32))
TOUCH = replace(PAPER, union="mask-touch")
THRESHOLDS = np.array([1, 2, np.nan], np.float32)
WEIGHTS = {
    (n, n + 1): (axis_weights("half_pixel", 3, n, 1), axis_weights("half_pixel", 3, n + 1, 1)) for n in range(2, 5)
}


def labels_of(seed, n_images):
    """Grid, label map and labels of whole images."""
    rng = np.random.default_rng(seed)
    found = []
    for n in rng.integers(2, 5, n_images).tolist():
        numbers = rng.choice([0, 1, 4, 7], (n, n + 1), p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint16)
        found.append(((n, n + 1), numbers, [(1, 7)] * int(rng.integers(0, 2))))
    return found


def case(seed, n_images, rules=PAPER):
    """Maps, planes and blocks of some images; block 3 stays empty."""
    rng = np.random.default_rng(seed + 1)
    maps = rng.integers(-2, 5, (n_images, K, 3, 3)).astype(np.float32)
    planes = [image_planes(shape, [(0, layer)], whole, rules) for shape, layer, whole in labels_of(seed, n_images)]
    return maps, planes, rng.choice([0, 1, 2, 4], n_images)


def counted(maps, planes, n_categories=G, backend="auto"):
    counters = Counters(K, C, n_categories)
    counters.add(maps, THRESHOLDS, planes, WEIGHTS, backend=backend)
    return counters


def tallied(*cases, pool_bytes=1 << 20):
    tally, counters = BlockTally(B, K, C, G, pool_bytes), Counters(K, C, G)
    for maps, planes, blocks in cases:
        tally.add(counters, maps, THRESHOLDS, planes, blocks, WEIGHTS)
    counters.rows += tally.rows()
    return tally, counters


def dense(arrays):
    """(B, R, K) from the arrays, as the page on methods describes them."""
    n_rows = C + G + 1
    found = np.zeros((B, n_rows, K), np.int64)
    for i, (block, row) in enumerate(zip(arrays["block"], arrays["row"], strict=True)):
        part = slice(arrays["pointer"][i], arrays["pointer"][i + 1])
        found[block, row, arrays["unit"][part]] += arrays["count"][part].astype(np.int64)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_array_equal(found[name], array, err_msg=name, strict=True)


@given(
    parts=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 6)), min_size=1, max_size=3),
    rules=st.sampled_from([PAPER, TOUCH, replace(PAPER, unlabelled="ignore"), replace(PAPER, multiplicity="multiset")]),
    pool_bytes=st.sampled_from([1, 8 * K * 12, 1 << 20]),
)
def test_each_block_has_the_counters_of_its_images(parts, rules, pool_bytes):
    cases = [case(seed, n, rules) for seed, n in parts]
    tally, counters = tallied(*cases, pool_bytes=pool_bytes)
    arrays = tally.to_arrays()
    by_block = dense(arrays)
    assert (arrays["count"] > 0).all()
    whole = Counters(K, C, G)
    for block in range(B):
        alone = Counters(K, C, G)
        for maps, planes, blocks in cases:
            chosen = np.flatnonzero(blocks == block)
            alone.merge(counted(maps[chosen], [planes[i] for i in chosen], backend="reference"))
        assert_array_equal(by_block[block], alone.rows)
        for name in ("concept_area", "category_images", "category_pixels"):
            assert_array_equal(arrays[name][block], getattr(alone, name))
        assert (arrays["images"][block], arrays["pixels"][block]) == (alone.n_images, alone.n_pixels)
        whole.merge(alone)
    for name, array in whole.to_arrays().items():
        assert_array_equal(counters.to_arrays()[name], array, err_msg=name)


@pytest.mark.parametrize("backend", available_backends())
def test_all_backends_and_threads_agree(backend):
    maps, planes, blocks = case(11, 12, TOUCH)
    tally = BlockTally(B, K, C, G)
    tally.add(Counters(K, C, G), maps, THRESHOLDS, planes, blocks, WEIGHTS, backend=backend, threads=2)
    assert_same(tally.to_arrays(), tallied((maps, planes, blocks))[0].to_arrays())


@given(data=st.data(), seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4))
@settings(max_examples=30)
def test_sums_of_parts_are_the_whole_in_any_room(data, seeds):
    cases = [case(seed, 4) for seed in seeds]
    parts = [tallied(each)[0].to_arrays() for each in cases]
    expected = tallied(*cases)[0].to_arrays()
    parts = data.draw(st.permutations(parts))
    for room in (1, 8 * K * (C + G + 1) * 2, 1 << 30):  # one block at a time, two, all
        assert_same(sum_blocks(lambda: iter(parts), (B, K, C, G), room), expected)
    with pytest.raises(ValueError, match="among those of"):
        sum_blocks(lambda: iter(parts), (B, K + 1, C, G), 1)


def test_many_small_additions_are_the_large_one(monkeypatch):
    monkeypatch.setattr("streamdissect.measure.blocks.FEWEST_HELD", 4)
    cases = [case(seed, 3) for seed in range(8)]
    tally = BlockTally(B, K, C, G, 1)
    for maps, planes, blocks in cases:
        tally.add(Counters(K, C, G), maps, THRESHOLDS, planes, blocks, WEIGHTS)
        tally.rows()
    assert_same(tally.to_arrays(), tallied(*cases)[0].to_arrays())


def test_counts_beyond_32_bits_are_kept():
    tally, _ = tallied(case(1, 6))
    for _ in range(32):
        tally.merge(BlockTally.from_arrays(tally.to_arrays()))
    arrays = tally.to_arrays()
    assert arrays["count"].dtype == np.uint64
    assert_array_equal(dense(arrays), dense(tallied(case(1, 6))[0].to_arrays()) << 32)
    assert_array_equal(dense(BlockTally.from_arrays(arrays).to_arrays()), dense(arrays))


@pytest.mark.parametrize("sizes", [(B + 1, K, C, G), (B, K + 1, C, G), (B, K, C + 1, G), (B, K, C, G + 1)])
def test_strangers_are_refused(sizes):
    tally, _ = tallied(case(1, 4))
    with pytest.raises(ValueError, match="cannot join"):
        tally.merge(BlockTally(*sizes))
    with pytest.raises(ValueError, match="blocks of 3"):
        tally.add(Counters(K, C, G), *case(1, 4)[:1], THRESHOLDS, case(1, 4)[1], np.zeros(3, int), WEIGHTS)


@pytest.mark.parametrize("name", list(tallied(case(1, 4))[0].to_arrays()))
def test_cut_or_damaged_arrays_are_refused(name):
    arrays = tallied(case(3, 12))[0].to_arrays()
    with pytest.raises(ValueError, match=f"cut.*{name}"):
        BlockTally.from_arrays({key: array for key, array in arrays.items() if key != name})
    for damaged in (arrays[name][:-1], arrays[name][None], arrays[name].astype(float)):
        with pytest.raises(ValueError, match="damaged"):
            BlockTally.from_arrays(arrays | {name: damaged})


@pytest.mark.parametrize(
    "name, damage",
    [
        ("block", lambda a: a[::-1].copy()),
        ("block", lambda a: a + B),
        ("row", lambda a: a * 0),
        ("row", lambda a: a + 100),
        ("unit", lambda a: a * 0),
        ("unit", lambda a: a + np.uint16(K)),
        ("pointer", lambda a: a * 0),
        ("pointer", lambda a: a + 1),
    ],
)
def test_entries_out_of_order_or_range_are_refused(name, damage):
    arrays = tallied(case(3, 12))[0].to_arrays()
    with pytest.raises(ValueError, match="damaged"):
        BlockTally.from_arrays(arrays | {name: damage(arrays[name])})


def test_another_version_is_refused():
    arrays = tallied(case(3, 12))[0].to_arrays()
    with pytest.raises(ValueError, match="version 2"):
        BlockTally.from_arrays(arrays | {"shape": arrays["shape"] + [1, 0, 0, 0, 0]})


# What follows from them


def block_counters(union="paper", seed=5, n_images=40):
    maps, planes, blocks = case(seed, n_images, TOUCH if union == "mask-touch" else PAPER)
    tally, counters = tallied((maps, planes, blocks))
    return BlockCounters(tally.to_arrays(), PAPER.category, union), counters, (maps, planes, blocks)


@pytest.mark.parametrize("union", ["paper", "all-images", "mask-touch"])
def test_weights_of_one_reproduce_the_iou_bit_for_bit(union):
    found, counters, _ = block_counters(union)
    expected = score_counters(counters, PAPER.category, Fraction(1, 25), union).iou
    assert expected.any()
    for ones in (np.ones(B, int), np.ones(B, bool), np.ones(B)):
        assert_array_equal(found.iou(ones), expected, strict=True)


@pytest.mark.parametrize("union", ["paper", "all-images", "mask-touch"])
@given(weights=st.lists(st.integers(0, 3), min_size=B, max_size=B))
@settings(max_examples=20)
def test_whole_weights_count_the_images_so_often(union, weights):
    found, _, (maps, planes, blocks) = block_counters(union)
    again = np.repeat(np.arange(len(maps)), np.array(weights)[blocks])
    counters = counted(maps[again], [planes[i] for i in again])
    expected = score_counters(counters, PAPER.category, Fraction(1, 25), union)
    intersection, union_ = found.counts(np.array(weights))
    assert_array_equal(intersection, counters.intersection)
    assert_array_equal(union_, expected.union)
    assert_array_equal(found.iou(np.array(weights)), expected.iou)
    assert_array_equal(found.iou(np.array(weights) / 4), expected.iou)  # exact: a power of two


@pytest.mark.parametrize("weights", [np.ones(B - 1), np.ones((1, B)), -np.ones(B), np.full(B, np.nan)])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match=f"{B} numbers of at least 0"):
        block_counters()[0].iou(weights)


def test_replicates_draw_as_many_blocks_as_have_images():
    found, _, _ = block_counters()
    weights = found.bootstrap(500, seed=7)
    assert weights.shape == (500, B) and weights.dtype == np.int64
    assert (weights.sum(1) == 4).all() and not weights[:, 3].any(), "block 3 has no images"
    assert_array_equal(weights[:20], found.bootstrap(20, seed=7))
    assert (weights[:20] != found.bootstrap(20, seed=8)).any()
    assert len(np.unique(weights, axis=0)) > 20
    mean = weights[:, [0, 1, 2, 4]].mean(0)
    assert (abs(mean - 1) < 5 * np.sqrt(0.75 / 500)).all(), "multinomial: variance 4 * 1/4 * 3/4"


def test_the_stream_of_replicates_stays_what_it_was():
    found, _, _ = block_counters()
    assert found.bootstrap(3, seed=0).tolist() == [[3, 0, 1, 0, 0], [1, 1, 2, 0, 0], [0, 0, 1, 0, 3]]


@pytest.mark.parametrize("union", ["paper", "all-images", "mask-touch"])
def test_intervals_are_percentiles_of_the_replicates(union):
    found, counters, _ = block_counters(union)
    best = score_counters(counters, PAPER.category, Fraction(1, 25), union).best_concept
    assert (best[:2] >= 0).all() and best[2] == -1, "the third unit has no mask"
    intervals = found.intervals(best, n=60, seed=3, level=0.9)
    replicates = np.stack([found.iou(weights) for weights in found.bootstrap(60, seed=3)])
    for k in range(2):
        expected = np.quantile(replicates[:, k, best[k]], [0.05, 0.95])
        np.testing.assert_allclose(intervals[k], expected, rtol=1e-12)
        assert intervals[k, 0] < intervals[k, 1]
    assert not intervals[2].any()


def test_no_replicates_without_images():
    empty = BlockCounters(BlockTally(B, K, C, G).to_arrays(), PAPER.category, "paper")
    assert not empty.bootstrap(4).any() and not empty.iou(np.ones(B)).any()
    assert_array_equal(empty.intervals(np.zeros(K, np.int32)), np.zeros((K, 2)))


@pytest.mark.parametrize(
    "named", [{"concept": [0]}, {"concept": [0, 0, C]}, {"concept": [-2, 0, 0]}, {"level": 1.0}, {"n": 0}]
)
def test_wrong_intervals_are_refused(named):
    with pytest.raises(ValueError, match=r"concept is a column|level lies"):
        block_counters()[0].intervals(**{"concept": np.zeros(K, np.int32)} | named)


# Both unions at once


@given(seed=st.integers(0, 999), multiplicity=st.sampled_from(["set", "multiset"]))
def test_paper_and_mask_touch_from_one_counting(seed, multiplicity):
    paper, touch = (replace(rules, multiplicity=multiplicity) for rules in (PAPER, TOUCH))
    maps, planes, _ = case(seed, 6, touch)
    both = counted(maps, [with_both_unions(image, touch) for image in planes], 2 * G)
    for rules, part in ((paper, slice(0, G)), (touch, slice(G, 2 * G))):
        alone = counted(maps, case(seed, 6, rules)[1], backend="reference")
        assert_array_equal(both.unit_area[:, part], alone.unit_area)
        assert_array_equal(both.category_images[part], alone.category_images)
        for name in ("intersection", "unit_area_all", "concept_area", "chance", "active_maps"):
            assert_array_equal(getattr(both, name), getattr(alone, name), err_msg=name)
