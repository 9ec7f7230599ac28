"""Intervals of best IoUs against a jackknife written out in fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdissect.measure.counters import Counters
from streamdissect.measure.stability import LEAST_SHARDS, BestIntervals

CATEGORY = np.array([0, 1, 0], np.int32)
T_975 = {5: 2.7764451051977987, 6: 2.570581835636314, 7: 2.4469118511449692, 8: 2.3646242515927844}
"""Student's t of n - 1 degrees of freedom, from tables."""


def random_shard(rng, n_units):
    """Counters that masks and labels could have."""
    counters = Counters(n_units, 3, 2)
    counters.rows[:3] = rng.integers(0, 6, (3, n_units)) * rng.integers(0, 2, (3, n_units))
    counters.rows[3:5] = 20 + rng.integers(0, 20, (2, n_units))
    counters.rows[5] = counters.rows[3:5].sum(axis=0)
    counters.concept_area[:] = 10 + rng.integers(0, 30, 3)
    return counters


def jackknife_width(shards, unit, union_rule):
    """By the definition, one shard after another left out."""

    def parts(chosen, c):
        shared = sum(int(s.intersection[unit, c]) for s in chosen)
        area = sum(int(s.unit_area_all[unit] if union_rule == "all-images" else s.unit_area[unit, CATEGORY[c]])
                   for s in chosen)  # fmt: skip
        return shared, area + sum(int(s.concept_area[c]) for s in chosen) - shared

    n = len(shards)
    ratios = [Fraction(*parts(shards, c)) for c in range(3)]
    best = ratios.index(max(ratios))
    if ratios[best] == 0:
        return 0.0
    without = [Fraction(*parts(shards[:i] + shards[i + 1 :], best)) for i in range(n)]
    mean = sum(without) / n
    variance = Fraction(n - 1, n) * sum((each - mean) ** 2 for each in without)
    return 2 * T_975[n] * float(variance) ** 0.5


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), union=st.sampled_from(["paper", "all-images"]))
def test_widths_are_the_jackknife_s_whatever_was_best_before(seed, n, union):
    rng = np.random.default_rng(seed)
    shards = [random_shard(rng, 4) for _ in range(n)]
    intervals = BestIntervals(4, 3, 2, CATEGORY, union)
    for shard in shards:
        intervals.add(shard, shards.__getitem__)
    found = intervals.widths()
    if n < LEAST_SHARDS:
        assert np.isinf(found).all()
        return
    np.testing.assert_allclose(found, [jackknife_width(shards, k, union) for k in range(4)], rtol=1e-9, atol=1e-12)


def test_earlier_shards_are_asked_for_only_where_a_best_concept_changes():
    asked = []
    intervals = BestIntervals(1, 3, 2, CATEGORY, "paper")

    def shard(c, n):
        made = Counters(1, 3, 2)
        made.rows[c], made.rows[3:5], made.concept_area[:] = n, 50, 50
        return made

    shards = [shard(0, 10), shard(0, 10), shard(1, 10), shard(1, 20)]
    for each in shards:
        intervals.add(each, lambda i: asked.append(i) or shards[i])
    assert asked == [0, 1, 2], "the fourth shard makes the second concept the best"


def test_a_unit_that_one_shard_alone_has_is_not_stable_and_one_without_concept_is():
    intervals = BestIntervals(2, 3, 2, CATEGORY, "paper")
    for i in range(LEAST_SHARDS):
        made = Counters(2, 3, 2)
        if i == 0:
            made.rows[0, 0], made.rows[3, 0], made.concept_area[0] = 5, 8, 6
        intervals.add(made, lambda i: pytest.fail("nothing changes after the first"))
    assert intervals.widths().tolist() == [np.inf, 0.0]


def test_equal_shards_have_no_width():
    intervals = BestIntervals(3, 3, 2, CATEGORY, "paper")
    shard = random_shard(np.random.default_rng(1), 3)
    for _ in range(6):
        intervals.add(shard, lambda i: shard)
    assert intervals.widths().max() < 1e-9
