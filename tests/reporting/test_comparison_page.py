"""The page of a comparison: whole in itself, its numbers those of the tables, names shown and not run."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.measure.comparison import Comparison, Member, rows_of
from streamdissect.reporting.comparison import compare, write_page

EVIL = "<script>alert(1)</script>"


class Parts(HTMLParser):
    """Tags, links, and the texts of table cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.cells, self.texts, self._cell = [], [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag in ("td", "th"):
            self._cell = ""
        elif tag == "br" and self._cell is not None:
            self._cell += " | "

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cells.append(self._cell)
            self._cell = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._cell is not None:
            self._cell += data.replace("\N{NO-BREAK SPACE}", " ")


def member(group, run, detectors, best, layer="act"):
    measures = {"detectors": detectors, "unique_by_category": detectors, "unique_object": detectors}
    best = np.array(best)
    return Member(group, run, layer, 8, measures, best > 0.04, best)


@pytest.fixture
def comparison():
    """Two runs of a group with a wicked name, three of another."""
    members = [
        *(member(EVIL, f"r{i}", value, [0.2, 0.0]) for i, value in enumerate((2.0, 3.0))),
        *(member("late", f"s{i}", value, [0.0, 0.3]) for i, value in enumerate((5.0, 6.0, 7.0))),
    ]
    run = {"run": "r", "layers": ["act"], "model": "m", "weights": None, "directions": None}
    about = {
        "rule": {"labels": [["colors", "ab"]], "tail": "1/200", "iou": "1/25", "union": "paper", "data": "d"},
        "upsample": "rf",
        "data": "synth",
        "images": 1234,
        "concepts": 2,
        "groups": {EVIL: [run], "late": [run]},
    }
    return Comparison(rows_of(members), (EVIL, "sky"), ("object",) * 2, ("object",),
                      ("detectors", "unique_by_category", "unique_object"), (), about)  # fmt: skip


def page_of(comparison, folder):
    write_page(folder, comparison)
    return (folder / "index.html").read_text(encoding="utf-8")


def test_names_are_shown_and_not_run(comparison, tmp_path):
    text = page_of(comparison, tmp_path)
    parts = Parts(text)
    assert EVIL not in text and EVIL in parts.cells
    assert parts.tags.count("script") == 2  # the head's own


def test_nothing_is_asked_of_the_network(comparison, tmp_path):
    links = Parts(page_of(comparison, tmp_path)).links
    tables = {"compare.csv", "runs.csv", "differences.csv", "concepts.csv", "compare.json"}
    local = {link for link in links if not link.startswith(("#", "data:"))}
    assert local == {"index.html", "style.css", "report.js", *tables}
    assert (tmp_path / "style.css").exists() and (tmp_path / "report.js").exists()


def test_means_differences_and_single_values_are_there(comparison, tmp_path):
    cells = Parts(page_of(comparison, tmp_path)).cells
    at = cells.index("detectors", cells.index("measure"))
    assert cells[at : at + 5] == ["detectors", "2.5 ± 0.71 | 2, 3", "6 ± 1 | 5, 6, 7", "+3.5 ± 0.76", "0.214 to 6.79"]


def test_every_run_is_a_point(comparison, tmp_path):
    text = page_of(comparison, tmp_path)
    charts = [part for part in text.split("<svg")[1:] if "Detectors</title>" in part]
    (chart,) = charts
    assert chart.count("one run:") == 5 and chart.count("mean:") == 2


def test_gained_and_lost_concepts_are_listed(comparison, tmp_path):
    parts = Parts(page_of(comparison, tmp_path))
    at = parts.cells.index("sky")
    assert parts.cells[at : at + 6] == ["sky", "object", "0 of 2", "3 of 3", "0", "0.3"]
    assert {"gained: 1", "lost: 1", "shared: 0", "varies: 0"} <= set(parts.texts)


def test_a_single_group_has_no_differences(comparison, tmp_path):
    alone = replace(comparison, rows=comparison.rows[:1])
    text = page_of(alone, tmp_path)
    assert "Differences" not in text and "gained" not in text


def test_what_was_left_out_is_said(comparison, tmp_path):
    assert "pca is left out" in page_of(replace(comparison, notes=("pca is left out: no",)), tmp_path)


def test_a_comparison_is_replaced_and_anything_else_is_not(tmp_path):
    run = sd.extract("shipped", "synth:?n=16", ["relu5"], tmp_path / "run")
    sd.score(run)
    out = tmp_path / "out"
    compare({"a": run.path}, out=out)
    found = compare([str(run.path)], out=out)
    assert found.groups == (str(run.path),)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(sd.BadInput, match="nothing in it but what compare wrote"):
        compare({"a": run.path}, out=out)
    assert (out / "thesis.txt").read_text() == "mine"
