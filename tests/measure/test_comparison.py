"""Means and spreads of groups, differences with their errors, concepts gained and lost."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdissect.measure.comparison import (
    Comparison,
    Member,
    Spread,
    rows_of,
    spread_text,
    welch,
)

NAMES = ("sky", "tree", "red", "blue")
numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
values = st.lists(numbers, min_size=1, max_size=6).map(tuple)


def member(group, run, detects, best, layer="act", **measures):
    return Member(group, run, layer, 8, measures, np.array(detects, bool), np.array(best, float))


def compared(*members):
    names = tuple(dict.fromkeys(name for each in members for name in each.measures))
    return Comparison(rows_of(members), NAMES, ("object",) * 2 + ("color",) * 2, ("object", "color"), names)


def test_the_worked_example_of_welch():
    # s^2 = 1 and 4, n = 3 each: error sqrt(5/3), freedom (5/3)^2 / (1/18 + 16/18) = 2.9412, rounded down t(2) = 4.3027
    found = welch(Spread((1.0, 2.0, 3.0)), Spread((5.0, 7.0, 9.0)))
    assert found["difference"] == 5.0
    assert found["standard_error"] == pytest.approx(math.sqrt(5 / 3))
    assert found["freedom"] == pytest.approx(50 / 17)
    assert found["high"] - 5.0 == pytest.approx(4.302653 * math.sqrt(5 / 3), rel=1e-6)
    assert found["low"] == pytest.approx(10.0 - found["high"])


@given(values, values)
def test_differences_turn_round_with_the_groups(one, two):
    forth, back = welch(Spread(one), Spread(two)), welch(Spread(two), Spread(one))
    assert forth["difference"] == -back["difference"]
    for key in ("standard_error", "freedom"):
        assert forth[key] == pytest.approx(back[key], nan_ok=True)
    assert forth["low"] == pytest.approx(-back["high"], nan_ok=True)


@given(st.lists(numbers, min_size=2, max_size=5), st.lists(numbers, min_size=2, max_size=5))
def test_freedom_lies_between_the_smaller_group_and_both_together(one, two):
    freedom = welch(Spread(tuple(one)), Spread(tuple(two)))["freedom"]
    if freedom == freedom:
        assert min(len(one), len(two)) - 1 - 1e-9 <= freedom <= len(one) + len(two) - 2 + 1e-9


def test_a_single_run_has_neither_deviation_nor_error():
    alone = Spread((2.0,))
    assert math.isnan(alone.std) and spread_text(alone) == "2"
    found = welch(alone, Spread((3.0, 5.0)))
    assert found["difference"] == 2.0
    assert all(math.isnan(found[key]) for key in ("standard_error", "freedom", "low", "high"))


def test_groups_that_do_not_vary_have_no_interval():
    found = welch(Spread((2.0, 2.0)), Spread((3.0, 3.0)))
    assert found["standard_error"] == 0 and math.isnan(found["low"]) and math.isnan(found["freedom"])


def test_deviations_are_those_of_a_sample():
    spread = Spread((1.0, 2.0, 4.0))
    assert spread.mean == pytest.approx(7 / 3) and spread.std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert spread_text(spread) == "2.333 ± 1.5"


def test_concepts_are_gained_lost_shared_or_vary():
    found = compared(
        member("a", "a0", [0, 1, 1, 1], [0.01, 0.2, 0.3, 0.1]),
        member("a", "a1", [0, 1, 1, 0], [0.03, 0.4, 0.3, 0.0]),
        member("b", "b0", [1, 0, 1, 0], [0.3, 0.0, 0.2, 0.0]),
        member("b", "b1", [1, 0, 1, 0], [0.5, 0.0, 0.2, 0.0]),
    )
    changes = {each.concept: each for each in found.concepts()}
    assert {name: each.change for name, each in changes.items()} == {
        "sky": "gained",
        "tree": "lost",
        "red": "shared",
        "blue": "varies",
    }
    assert (changes["sky"].base_detecting, changes["sky"].detecting) == (0, 2)
    assert changes["sky"].base_best_iou == pytest.approx(0.02) and changes["sky"].best_iou == pytest.approx(0.4)
    assert changes["blue"].category == "color"


def test_half_of_the_runs_is_not_most_of_them():
    found = compared(
        member("a", "a0", [0, 0, 0, 0], [0.0] * 4),
        member("b", "b0", [1, 0, 0, 0], [0.3, 0.0, 0.0, 0.0]),
        member("b", "b1", [0, 0, 0, 0], [0.0] * 4),
    )
    (only,) = found.concepts()
    assert (only.concept, only.change) == ("sky", "varies")


def test_one_run_against_one_gains_and_loses():
    found = compared(member("a", "a0", [1, 0, 0, 0], [0.3, 0, 0, 0]), member("b", "b0", [0, 1, 0, 0], [0, 0.3, 0, 0]))
    assert [(each.concept, each.change) for each in found.concepts()] == [("tree", "gained"), ("sky", "lost")]


def test_layers_of_one_name_are_compared_and_single_ones_whatever_their_names():
    nothing = [0] * 4
    several = [member(group, "r", nothing, nothing, layer) for group in "ab" for layer in ("x", "y")]
    assert [(base.layer, row.layer) for base, row in compared(*several).pairs()] == [("x", "x"), ("y", "y")]
    single = compared(member("a", "r", nothing, nothing, "x"), member("b", "r", nothing, nothing, "z"))
    assert [(base.layer, row.layer) for base, row in single.pairs()] == [("x", "z")]
    apart = compared(*several[:2], member("b", "r", nothing, nothing, "z"))
    assert list(apart.pairs()) == []


def test_measures_that_some_runs_lack_are_spread_over_the_others():
    nothing = [0] * 4
    found = compared(
        member("a", "a0", nothing, nothing, detectors=3.0, survival=0.5),
        member("a", "a1", nothing, nothing, detectors=5.0),
        member("b", "b0", nothing, nothing, detectors=4.0),
    )
    assert found.rows[0].spread("survival").values == (0.5,) and found.rows[1].spread("survival") is None
    assert [each.measure for each in found.differences()] == ["detectors"]


def test_units_of_unlike_runs_are_a_range():
    one, two = member("a", "a0", [0] * 4, [0] * 4), member("a", "a1", [0] * 4, [0] * 4)
    (row,) = rows_of([one, replace(two, units=12)])
    assert row.units == "8-12"
