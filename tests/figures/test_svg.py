"""Charts as SVG: well formed, readable by name, with every number where it belongs."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdissect.figures.svg import Series, bar_chart, histogram, line_chart, range_of, scatter_chart, ticks

NAN = float("nan")


def parsed(text):
    """Elements by their names."""
    found = {}
    for each in ElementTree.fromstring(text).iter():
        found.setdefault(each.tag.rpartition("}")[2], []).append(each)
    return found


def points(element):
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


LINES = [Series("conv3", [0, 1, 2], [0.9, 0.5, 0.1], [0.05, NAN, 0.02]), Series("a<b", [0, 1, 2], [0.8, NAN, 0.2])]


def every_chart():
    yield line_chart("t < u", "about & more", LINES, "x", "y", x_names=["1", "5", "10"])
    yield scatter_chart("t < u", "about & more", LINES, "x", "y", is_square=True)
    yield bar_chart("t < u", "about & more", ["a", "b"], [("one", [1, 2]), ("two", [0, 3])], "n")
    yield histogram("t < u", "about & more", [0, 1, 4], [3, 5], "x", "n")


@pytest.mark.parametrize("chart", list(every_chart()), ids=["lines", "scatter", "bars", "histogram"])
def test_every_chart_is_named_described_and_whole(chart):
    found = parsed(chart)
    (svg,) = found["svg"]
    assert svg.get("role") == "img" and found["title"][0].text == "t < u" and found["desc"][0].text == "about & more"
    assert "prefers-color-scheme:dark" in found["style"][0].text
    assert "nan" not in chart and "inf" not in chart
    width, height = float(svg.get("width")), float(svg.get("height"))
    for name in ("x", "cx", "x1", "x2"):
        assert all(0 <= float(each.get(name)) <= width for row in found.values() for each in row if each.get(name))
    for name in ("y", "cy", "y1", "y2"):
        assert all(0 <= float(each.get(name)) <= height for row in found.values() for each in row if each.get(name))


def test_lines_fall_where_numbers_do_and_gaps_are_left_out():
    chart = parsed(line_chart("t", "d", LINES, "x", "y", x_names=["1", "5", "10"], y_range=(0.0, 1.0)))
    first, second = (points(each) for each in chart["polyline"])
    assert len(first) == 3 and len(second) == 2
    low, high = first[2][1], first[0][1]
    assert math.isclose((low - high) / 0.8, (first[1][1] - high) / 0.4, rel_tol=0.01), "heights are proportional"
    assert first[0][0] == second[0][0] and first[2][0] == second[1][0]
    band = next(each for each in chart["polygon"] if each.get("class") == "band")
    assert len(points(band)) == 4, "no band where there is no deviation"
    assert [each.text for each in chart["text"] if each.text in ("conv3", "a<b")] == ["conv3", "a<b"]


def test_bars_stand_on_each_other():
    chart = parsed(bar_chart("t", "d", ["a", "b"], [("one", [1, 2]), ("two", [4, 3])], "n"))
    bars = [
        each
        for each in chart["rect"]
        if each.get("width") and each.find("{http://www.w3.org/2000/svg}title") is not None
    ]
    heights = [float(each.get("height")) for each in bars]
    tops = [float(each.get("y")) for each in bars]
    assert math.isclose(heights[1] / heights[0], 4, rel_tol=0.02) and math.isclose(
        heights[2] / heights[0], 2, rel_tol=0.02
    )
    assert math.isclose(tops[1] + heights[1], tops[0], abs_tol=0.2)


def test_long_names_are_slanted_and_stay_on_the_sheet():
    names = [f"shuffle-patch {i} deranged" for i in range(12)]
    text = bar_chart("t", "d", names, [("one", [1.0] * 12)], "n")
    assert text.count("rotate(-40)") == 12
    assert float(re.search(r'height="(\d+)"', text)[1]) > 420


def test_equal_values_and_none_at_all_make_a_chart():
    for series in ([], [Series("a", [0], [0.0])], [Series("a", [1, 2], [NAN, NAN])], [Series("a", [2, 2], [3, 3])]):
        for text in (line_chart("t", "d", series, "x", "y"), scatter_chart("t", "d", series, "x", "y")):
            assert "nan" not in text and parsed(text)["svg"]
    assert parsed(bar_chart("t", "d", [], [], "n"))["svg"]


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6))
def test_ticks_are_few_and_round(low, width):
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in found)


def test_ranges_hold_every_number():
    assert range_of([0.2, NAN, 0.4])[0] == 0 and range_of([0.2, 0.4])[1] >= 0.4
    assert range_of([-3, 5])[0] == -3 and range_of([]) == (0.0, 1.04) and range_of([7, 7], None) == (7, 8)
