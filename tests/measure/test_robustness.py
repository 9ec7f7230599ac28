"""What follows from counts of perturbed images, against definitions written out."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from streamdissect.kernels.reference import pack
from streamdissect.measure.composition import Robustness, Setting, verdicts
from streamdissect.measure.counters import Counters
from streamdissect.measure.planes import LabelRules, image_planes
from streamdissect.measure.robustness import (
    NUMBERS,
    ImageCounts,
    RobustnessTally,
    SparseLabels,
    bits_of,
    correlations,
    find_outcome,
    map_sums,
    ranks,
    spearman,
)
from streamdissect.tally import Tally

RULES = LabelRules(
    np.array([2, 3, 7, 9], np.int32), np.array([0, 0, 1, 1], np.int32), 2, np.zeros(2, np.int32), "mask-touch"
)


def drawn(seed, n=5, shape=(9, 70)):
    """Planes of an image, and masks."""
    rng = np.random.default_rng(seed)
    layers = [(0, rng.choice([0, 2, 3], shape).astype(np.uint16)), (1, rng.choice([0, 7], shape).astype(np.uint16))]
    image = image_planes(shape, layers, [(1, 9)] if seed % 2 else [], RULES)
    masks = rng.random((n, *shape)) < 0.1
    return image, np.stack([pack(mask) for mask in masks])


@given(seed=st.integers(0, 30))
def test_labels_numbered_anew_count_as_all_of_them(seed):
    from streamdissect.kernels import count_masks
    from streamdissect.measure.planes import plane_batch

    image, masks = drawn(seed)
    expected = Counters(len(masks), 4, 2)
    count_masks(masks[None], plane_batch([image]), expected.rows, expected.chance)
    sparse = SparseLabels.of(image)
    found = np.zeros_like(expected.rows)
    found[sparse.rows] = sparse.count(masks)
    assert_array_equal(found, expected.rows)
    assert sparse.count(masks[:0]).shape == (len(sparse.rows), 0)


def tally_of(seeds):
    """Of drawn images, three of seven units active on each."""
    tally = RobustnessTally(7, 4, 2)
    for seed in seeds:
        image, masks = drawn(seed, 6)
        before, now = masks[:3], masks[3:]
        labels, units = SparseLabels.of(image), np.array([0, 2, 5])
        areas = np.stack([bits_of(before & now), bits_of(before), bits_of(now)])
        tally.add(ImageCounts(units, labels, labels.count(now), labels, labels.count(before), areas, bits_of(now) > 0))
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 9, (7, 12)).astype(np.float64)
        tally.add_sums(12, map_sums(x, x + rng.integers(0, 5, x.shape)))
        tally.perturbed.add_labels([image])
        tally.matched.add_labels([image])
    return tally


def assert_same(first, second):
    one, other = first.to_arrays(), second.to_arrays()
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert_array_equal(array, other[name], err_msg=name)


@given(seeds=st.lists(st.integers(0, 30), max_size=5), cut=st.integers(0, 5))
def test_parts_merge_to_the_whole_and_survive_the_disk(seeds, cut):
    first, second = tally_of(seeds[:cut]), tally_of(seeds[cut:])
    saved = RobustnessTally.from_arrays(second.to_arrays())
    saved.merge(first)
    assert_same(saved, tally_of(seeds))  # the sums are of small whole numbers, so exact in any order
    assert isinstance(saved, Tally)


def test_damaged_and_strange_tallies_are_refused():
    arrays = tally_of([1]).to_arrays()
    for name in arrays:
        with pytest.raises(ValueError):
            RobustnessTally.from_arrays({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ValueError, match="sums"):
        RobustnessTally.from_arrays(arrays | {"sums": arrays["sums"][:, :3]})
    with pytest.raises(ValueError, match="shared"):
        RobustnessTally.from_arrays(arrays | {"shared": arrays["shared"].astype(np.float64)})
    with pytest.raises(ValueError):
        tally_of([1]).merge(RobustnessTally(6, 4, 2))


# Correlations


def test_correlations_are_pearsons():
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (20, 500)), rng.normal(0, 1, (20, 500))
    y += x * np.linspace(-1, 1, 20)[:, None]
    found = correlations(500, map_sums(x[:, :200], y[:, :200]) + map_sums(x[:, 200:], y[:, 200:]))
    assert_allclose(found, [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)], atol=1e-12)


def test_correlation_of_equals_opposites_and_constants():
    x = np.random.default_rng(1).normal(0, 1, (1, 300)).astype(np.float16).astype(np.float64)
    assert correlations(300, map_sums(x, x)).tolist() == [1.0]
    assert correlations(300, map_sums(x, -x)).tolist() == [-1.0]
    for constant in (0.0, 0.1, 6.0, float(np.float16(0.3333))):
        flat = np.full_like(x, constant)
        for pair in ((flat, x), (x, flat), (flat, flat)):
            assert np.isnan(correlations(300, map_sums(*pair))).all(), constant


@given(values=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_rank_correlation_shares_ties(values):
    x, y = np.array(values, np.float64).T
    assert_array_equal(ranks(x), pd.Series(x).rank())
    if x.min() == x.max() or y.min() == y.max():
        assert np.isnan(spearman(x, y))
    else:
        assert abs(spearman(x, y) - pd.Series(x).rank().corr(pd.Series(y).rank())) < 1e-12


# Outcomes


def counted(intersection, concept_area, unit_area):
    """Counters of 4 units, 3 concepts of categories 0, 0, 1."""
    counters = Counters(4, 3, 2)
    counters.rows[:3] = np.array(intersection).T
    counters.rows[3:5] = np.array(unit_area).T
    counters.rows[5] = np.array(unit_area).max(1)
    counters.concept_area[:] = concept_area
    return counters


CATEGORY = np.array([0, 0, 1], np.int32)
CLEAN = SimpleNamespace(best_concept=np.array([0, 1, 2, -1], np.int32), is_detector=np.array([True, True, True, False]))


@pytest.fixture
def outcome():
    """Unit 0 keeps its concept, unit 1 changes to another, unit 2 falls silent, unit 3 starts to detect."""
    tally = RobustnessTally(4, 3, 2)
    clean_area = [[10, 10], [20, 20], [30, 30], [0, 0]]
    tally.matched = counted([[10, 0, 0], [0, 20, 0], [0, 0, 30], [0, 0, 0]], [50, 40, 60], clean_area)
    now = [[10, 10], [20, 20], [0, 0], [8, 8]]
    tally.perturbed = counted([[5, 0, 0], [10, 1, 0], [0, 0, 0], [0, 4, 0]], [50, 40, 60], now)
    tally.shared[:], tally.clean_area[:], tally.perturbed_area[:] = [4, 0, 0, 0], [10, 20, 30, 0], [10, 20, 0, 8]
    return find_outcome(tally, CLEAN, CATEGORY, Fraction(1, 25), "paper")


def test_an_outcome_by_hand(outcome):
    assert_allclose(outcome.iou, [5 / 55, 1 / 59, 0, 0])
    assert_allclose(outcome.iou_clean, [10 / 50, 20 / 40, 30 / 60, 0])
    assert_allclose(outcome.retention, [5 / 11, 2 / 59, 0, np.nan])
    assert outcome.intersection.tolist() == [5, 1, 0, 0]
    assert outcome.concept_area.tolist() == [50, 40, 60, 0]
    assert outcome.unit_area.tolist() == [10, 20, 0, 0]
    assert outcome.best_concept.tolist() == [0, 0, -1, 1]
    assert_allclose(outcome.best_iou, [5 / 55, 10 / 60, 0, 4 / 44])
    assert outcome.is_detector.tolist() == [True, True, False, True]
    assert outcome.is_surviving.tolist() == [True, False, False, False]
    assert_allclose(outcome.consistency, [4 / 16, 0, 0, 0])
    assert_allclose(outcome.firing_ratio, [1, 1, 0, np.nan])
    assert outcome.unique_by_category.tolist() == [2, 0]


def test_the_layer_in_numbers_by_hand(outcome):
    numbers = outcome.numbers
    assert numbers.keys() == NUMBERS.keys()
    assert numbers["survival"] == 1 / 3 and numbers["same_top"] == 1 / 3
    assert (numbers["detectors"], numbers["lost"], numbers["new"]) == (3, 1, 1)
    assert (numbers["unique_top"], numbers["unique_by_category"], numbers["unique_any"]) == (2, 2, 2)
    quartiles = np.quantile([0, 2 / 59, 5 / 11], [0.25, 0.5, 0.75])
    assert_allclose([numbers[f"retention{q}"] for q in ("_q1", "", "_q3")], quartiles)
    expected = pd.Series([0.2, 0.5, 0.5, 0]).rank().corr(pd.Series([5 / 55, 10 / 60, 0, 4 / 44]).rank())
    assert_allclose(numbers["spearman"], expected)
    assert numbers["consistency"] == 0 and numbers["firing_ratio"] == 1


def test_nothing_to_compare_is_no_number():
    silent = SimpleNamespace(best_concept=np.full(4, -1, np.int32), is_detector=np.zeros(4, bool))
    found = find_outcome(RobustnessTally(4, 3, 2), silent, CATEGORY, Fraction(1, 25), "paper")
    for name in ("survival", "same_top", "retention", "spearman", "consistency", "firing_ratio", "correlation"):
        assert np.isnan(found.numbers[name]), name
    assert found.numbers["detectors"] == 0 and np.isnan(found.consistency).all()


# Composition


def kept(retention):
    return SimpleNamespace(retention=np.array(retention), numbers=dict.fromkeys(NUMBERS, float(retention[0])))


@pytest.fixture
def robustness():
    result = SimpleNamespace(
        layers={"conv": CLEAN},
        concept_category=CATEGORY,
        category_name=("object", "texture"),
        concept_name=("a", "b", "c"),
    )
    settings = [("clean", 0), ("noise 5", 5), ("shuffle-grid 4", 4), ("shuffle-grid 8", 8)]
    outcomes = [
        [1, 1, 1, np.nan],
        [0, 0, 0, 0],
        [0.6, 0.5, 0.9, np.nan],
        [0.8, 0.5, 1.0, np.nan],
        [0.1, 0.1, 0.8, np.nan],
    ]
    return Robustness(
        result=result,
        settings=tuple(Setting(text, text.split()[0], m, text) for text, m in settings),
        trials=((0, 0), (1, 0), (2, 0), (2, 1), (3, 0)),
        outcomes={"conv": tuple(map(kept, outcomes))},
        image_name=("x",),
    )


def test_the_composition_index_is_what_stays_under_shuffles(robustness):
    assert_allclose(robustness.composition_index("conv", 2), [0.7, 0.5, 0.95, np.nan])
    assert_allclose(robustness.composition_index("conv"), [0.4, 0.3, 0.875, np.nan])
    things, textures = robustness.composition()
    assert (things["category"], things["detectors"], things["verdict"]) == ("object", 2, "mixed")
    assert_allclose([things["index"], things["shuffle-grid 4"], things["shuffle-grid 8"]], [0.35, 0.6, 0.1])
    assert (things["statistics"], things["mixed"], things["parts"]) == (0, 1, 1)
    assert (textures["verdict"], textures["statistics"]) == ("statistics", 1)
    assert verdicts(np.array([2 / 3, 0.5, 1 / 3, 0.33, 0])).tolist() == [
        "statistics",
        "mixed",
        "mixed",
        "parts",
        "parts",
    ]


def test_means_and_sample_deviations_over_trials(robustness):
    rows = {row["setting"]: row for row in robustness.summary()}
    assert list(rows) == ["clean", "noise 5", "shuffle-grid 4", "shuffle-grid 8"]
    assert rows["shuffle-grid 4"]["trials"] == 2
    assert_allclose(rows["shuffle-grid 4"]["survival"], 0.7)
    assert_allclose(rows["shuffle-grid 4"]["survival_std"], np.std([0.6, 0.8], ddof=1))
    assert np.isnan(rows["noise 5"]["survival_std"])
