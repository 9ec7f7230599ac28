"""Parts of the report that are simpler to test alone: what fits, charts, names, distributions."""

import re
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

import streamdissect as sd
from streamdissect.figures.svg import bar_chart
from streamdissect.reporting.charts import by_category, by_concept, threshold_curves
from streamdissect.reporting.gathering import url_stems
from streamdissect.reporting.pages import environment, number, share
from streamdissect.reporting.repeating import command
from streamdissect.reporting.sizes import LEAST_IMAGES, SIDES, plan_pictures
from streamdissect.reporting.spreads import LEAST, bars_of, small_spread

from .reported import LAYERS


def test_few_images_are_large_and_many_small():
    rng = np.random.default_rng(0)
    street = plan_pictures([rng.integers(0, 367, (576, 20))], 10, 29)
    assert (street.n_images, street.side) == (10, SIDES[0]) and len(street.rows) == 367
    broad = plan_pictures([rng.integers(0, 63_000, (2048, 20))], 10, 1197)
    assert (broad.n_images, broad.side) == (LEAST_IMAGES, SIDES[-1])
    between = plan_pictures([rng.integers(0, 9000, (1024, 20))], 10, 200)
    assert between.n_images == 10 and SIDES[-1] < between.side < SIDES[0]
    assert plan_pictures([rng.integers(0, 63_000, (2048, 20))], 2, 1197).n_images == 2


@given(st.integers(1, 12), st.integers(1, 6), st.data())
def test_rows_are_those_of_the_images_that_are_shown(n_units, most, data):
    tops = data.draw(hnp.arrays(np.int64, (n_units, 6), elements=st.integers(-1, 30)))
    plan = plan_pictures([tops], most, 5)
    assert plan.n_images == most
    assert plan.rows == sorted({row for row in tops[:, :most].ravel().tolist() if row >= 0})


def test_charts_hold_the_counts_of_the_result(run):
    result = sd.score(run)
    stacks = dict(by_category(result).stacks)
    for position, layer in enumerate(result.layers.values()):
        for name, n in layer.summary["unique_by_each_category"].items():
            assert stacks[name][position] == n
    for name in result.layers:
        chart = by_concept(result, name, "stem")
        counts = {c: sum(parts[i] for _, parts in chart.stacks) for i, c in enumerate(chart.names)}
        units = result.units()
        mine = units[(units["layer"] == name) & units["detector"]]
        assert counts == {c: int((mine["concept"] == c).sum()) for c in set(mine["concept"])}
    shares, uniques = threshold_curves(result)
    for series, unique, layer in zip(shares.series, uniques.series, result.layers.values(), strict=True):
        at = series.x.index(float(Fraction(layer.attributes["tau"])))
        assert series.y[at] == layer.summary["detectors"] / layer.summary["units"]
        assert unique.y[at] == layer.summary["unique_top"]
        assert list(series.y) == sorted(series.y, reverse=True)


def bars(n, **named):
    """Width of a chart of n bars, and the widths of the bars."""
    text = bar_chart("t", "d", [f"c{i}" for i in range(n)], [("a", [1.0] * n)], "y", **named)
    drawn = re.findall(r'<rect x="[^"]*" y="[^"]*" width="([^"]*)" height="[^"]*" fill="#0072B2"><title>', text)
    assert len(drawn) == n
    return int(re.search(r' width="(\d+)"', text)[1]), set(drawn)


def test_a_chart_may_grow_with_its_bars():
    assert bars(40)[0] == bars(80)[0] and bars(40)[1] != bars(80)[1]
    (width, of_bars), (wider, of_more) = bars(40, bar_width=17), bars(80, bar_width=17)
    assert wider - width == 40 * 17 and of_bars == of_more == {f"{0.76 * 17:.1f}"}


def test_bars_change_colour_at_the_threshold_and_hold_all_values(run):
    layer = sd.score(run).layers[LAYERS[0]]
    found, n_cut = layer.distribution, 0
    for unit in range(len(layer.n)):
        threshold = float(layer.threshold[unit])
        below, above = bars_of(found, unit, threshold)
        assert max([bar[1] for bar in below], default=threshold) <= threshold
        assert min([bar[0] for bar in above], default=threshold) >= threshold
        n_cut += bool(below and above)
        bins = [each for each in found.bins(unit, 40) if each[2] > LEAST]
        ends = {end for low, high, _ in [*below, *above] for end in (low, high)} - {threshold}
        assert ends == {end for low, high, _ in bins for end in (low, high)} - {threshold}
        for low, high, height in [*below, *above]:
            (one,) = [each[2] for each in bins if each[0] <= low and high <= each[1]]
            assert height == pytest.approx(1 - np.log(one) / np.log(LEAST)) and 0 < height <= 1
        drawn = small_spread(found, unit, threshold)
        assert drawn.count("M") == len(below) + len(above) + 2 * bool(bins)
        assert "inf" not in small_spread(found, unit, np.inf) and not bars_of(found, unit, np.inf)[1]
    assert n_cut > 5


def test_layers_have_names_for_links_no_two_alike():
    stems = url_stems(["a:relu", "a_relu", "A#relu", "..", "größe", "features.14.act"])
    assert len({stem.casefold() for stem in stems.values()}) == 6
    assert all(stem.isascii() and not set(stem) & set(":/#?% ") and stem[0] != "." for stem in stems.values())
    assert stems["features.14.act"] == "features.14.act"


def test_templates_escape_what_they_are_given_and_miss_nothing():
    template = environment().from_string('<p title="{{ a }}">{{ a }}</p>')
    assert template.render(a='"><script>') == '<p title="&#34;&gt;&lt;script&gt;">&#34;&gt;&lt;script&gt;</p>'
    with pytest.raises(UndefinedError):
        template.render()


def test_numbers_as_they_are_read():
    assert [number(1234567), number(0.0416666), number(float("nan"))] == ["1,234,567", "0.04167", "none"]
    assert [share(0.12345), share(float("nan"))] == ["12.3 %", "none"]


def test_commands_are_quoted():
    assert command("score", ["my run", "--name", "a"]) == "streamdissect score 'my run' --name a"
