"""What objects show in notebooks, and results as data frames."""

import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.richtext import html_table


class Cells(HTMLParser):
    """The texts of a table's cells, and that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.tags = [], [], set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag in ("td", "th", "caption"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        assert self.open[-1] in ("td", "th", "caption")
        self.cells[-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return sd.extract("shipped", "synth:?n=32", ["relu4", "relu5"], tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def result(run):
    return sd.score(run)


def test_names_from_files_are_shown_not_run():
    found = Cells(html_table("<script>alert(1)</script>", ["a&b"], [["<img src=x>", 2.5, 3, True]]))
    assert found.cells == ["<script>alert(1)</script>", "a&b", "<img src=x>", "2.500", "3", "True"]
    assert found.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_a_result_shows_its_layers_and_strongest_detectors(result):
    cells = Cells(result._repr_html_()).cells
    assert "Dissection of 32 images, 62 concepts" in cells[0]
    for name in ("relu4", "relu5"):
        assert cells[cells.index(name) + 1 : cells.index(name) + 3] == [
            str(len(result.layer(name).n)),
            str(result.layer(name).is_detector.sum()),
        ]
    best = result.detectors()[0]
    at = cells.index(f"{best['iou']:.3f}")
    assert cells[at - 4 : at] == [best["layer"], str(best["unit"]), best["concept"], best["category"]]


def test_a_result_without_detectors_is_shown_too(run):
    nothing = sd.score(run, iou=0.99, name="strict")
    assert "The strongest of 0 detectors" in Cells(nothing._repr_html_()).cells


def test_runs_layers_and_datasets_are_shown(run, result):
    cells = Cells(run._repr_html_()).cells
    assert "32 images of synth:?n=32" in cells[0] and "relu5" in cells
    assert repr(run).startswith("<RunDir ") and "32 images" in repr(run)
    assert repr(result.layer("relu5")).endswith("detectors>")
    data = sd.open_dataset("synth:?n=32")
    cells = Cells(data._repr_html_()).cells
    assert cells[cells.index("scene") + 1] == "5" and "32 images" in cells[0]
    assert repr(data) == "<SyntheticScenes 'synth:?n=32&seed=0': 32 images, 62 concepts>"


def test_a_result_as_a_data_frame(result):
    pytest.importorskip("pandas")
    frame, units = result.to_dataframe(), result.units()
    assert list(frame.columns) == list(units.dtype.names)
    assert len(frame) == len(units)
    for name in units.dtype.names:
        np.testing.assert_array_equal(frame[name].to_numpy(), units[name])
    assert frame["detector"].dtype == bool and frame["unit"].dtype == np.int64
    by_layer = frame.groupby("layer")["detector"].sum()
    assert by_layer["relu5"] == result.layer("relu5").is_detector.sum()


def test_without_pandas_the_remedy_is_named(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(sd.BadInput, match=r"expected pandas; install pandas; units\(\) gives the same rows"):
        result.to_dataframe()
