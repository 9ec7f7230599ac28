"""Pages of experiments: there where the experiments are, with the numbers of their tables."""

import csv
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import streamdissect as sd
from streamdissect.reporting.experiments import (
    PCA_COLUMNS,
    audit_values,
    experiment_pages,
    pca_values,
    perturb_values,
    rotate_values,
)
from streamdissect.reporting.pages import Page, Site
from streamdissect.reporting.tables import make_table, with_std
from streamdissect.reporting.unit_experiments import open_experiments
from streamdissect.store.alignment import load_alignment, load_rotations
from streamdissect.store.robustness import load_robustness
from streamdissect.store.rundir import RunDir

EVIL = "<script>alert(1)</script>"
GAP = "\N{NO-BREAK SPACE}"


class Parts(HTMLParser):
    """Tags, and the rows of all tables as texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.links, self._cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with every experiment."""
    out = tmp_path_factory.mktemp("experiments") / "run"
    sd.extract("shipped", "synth:?n=24", ["relu4", "relu5"], out)
    sd.score(out)
    sd.audit(out)
    sd.rotate(out, alphas=(0, 1), seeds=2, seeds_between=1, controls=("permutation",))
    sd.pca(out, min_images=4)
    sd.perturb(out, noise=(10, 50), shuffle_grid=2, trials=2, limit=8)
    return out


@pytest.fixture(scope="module")
def result(run):
    return sd.score(run)


@pytest.fixture(scope="module")
def pages(run, result, tmp_path_factory):
    """Every page by its name, as written."""
    folder = tmp_path_factory.mktemp("site")
    found, notices = experiment_pages(RunDir(run), None, result)
    assert notices == []
    site = Site(folder, "a run", found)
    for page in found:
        site.write(page)
    return {page.path: (folder / page.path).read_text(encoding="utf-8") for page in found}


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rendered(folder, template, values):
    page = Page("page.html", "Page", template, lambda: values)
    Site(folder, "a run").write(page)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_experiments_that_were_not_made_have_no_page(tmp_path):
    out = tmp_path / "run"
    sd.extract("shipped", "synth:?n=8", ["relu5"], out)
    assert experiment_pages(RunDir(out), None, sd.score(out)) == ([], [])
    sd.audit(out)
    assert [page.path for page in experiment_pages(RunDir(out), None, sd.score(out))[0]] == ["audit.html"]
    assert experiment_pages(RunDir(out), "another", sd.score(out)) == ([], [])


def test_experiments_of_a_scoring_that_was_replaced_are_left_out(run, tmp_path):
    """They rest on its rules, and would pass for those of the one that took its place."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    fresh = sd.compare({"fresh": [run]})
    scored = sd.score(out, iou="1/10", overwrite=True)
    pages, notices = experiment_pages(RunDir(out), None, scored)
    assert pages == [] and len(notices) == 4 and all("another iou: run" in notice for notice in notices)
    experiments = open_experiments(RunDir(out), None, scored)
    assert experiments.perturbed is None and experiments.aligned is None
    stale = sd.compare({"stale": [out]})
    assert len(stale.notes) == 3 and "rotation_drop" in fresh.measures and "rotation_drop" not in stale.measures
    (out / "pca" / "pca.h5").write_bytes(b"no HDF5")
    assert "damaged" in " ".join(experiment_pages(RunDir(out), None, scored)[1])
    again = sd.score(out, iou="1/25", blocks=4, overwrite=True)
    found = [page.path for page in experiment_pages(RunDir(out), None, again)[0]]
    assert found == ["perturb.html", "rotate.html", "audit.html"]


def test_every_experiment_has_its_page_without_anything_from_elsewhere(pages):
    assert list(pages) == ["perturb.html", "rotate.html", "pca.html", "audit.html"]
    for text in pages.values():
        parts = Parts(text)
        outside = [link for link in parts.links if link.startswith(("http", "//"))]
        assert outside == [] and parts.tags.count("svg") >= 2 and parts.tags.count("h1") == 1


def test_robustness_is_that_of_the_table(run, pages):
    (row,) = [
        row
        for row in read_rows(run / "perturb" / "summary.csv")
        if (row["layer"], row["setting"]) == ("relu5", "noise 10")
    ]
    expected = with_std(float(row["survival"]), float(row["survival_std"]))
    found = [cells for cells in Parts(pages["perturb.html"]).rows if cells[0] == f"noise{GAP}10"]
    assert len(found) == 4 and expected in [cells[2] for cells in found]  # two tables of each of two layers


def test_rotations_are_those_of_the_table(run, pages):
    rows = read_rows(run / "rotate" / "summary.csv")
    (row,) = [
        row
        for row in rows
        if (row["layer"], row["kind"], float(row["value"]), row["count"])
        == ("relu5", "haar", 1.0, "unique_by_category")
    ]
    found = [cells for cells in Parts(pages["rotate.html"]).rows if cells[:2] == ["haar", "1"]]
    expected = with_std(float(row["mean"]), float(row["std"])), f"{100 * float(row['drop']):.0f} %"
    assert expected in [(cells[5], cells[8]) for cells in found]


def test_directions_are_those_of_the_table_the_most_aligned_first(run, pages):
    rows = [row for row in read_rows(run / "pca" / "pca.csv") if row["layer"] == "relu4" and row["verdict"] != "absent"]
    found = Parts(pages["pca.html"]).rows
    assert found[0] == list(PCA_COLUMNS.values())
    shown = found[1 : len(rows) + 1]
    loadings = [float(cells[5]) for cells in shown]
    assert loadings == sorted(loadings, reverse=True)
    by_name = {(row["concept"], row["verdict"], row["unit"], f"{float(row['loading']):.3g}") for row in rows}
    assert {(cells[0], cells[3], cells[4], cells[5]) for cells in shown} == by_name


def test_the_audit_marks_the_rules_of_the_scoring(pages, result):
    marked = [cells for cells in Parts(pages["audit.html"]).rows if cells[-1] == "as scored"]
    counts = [[str(layer.summary[key]) for key in ("detectors", "unique_top", "unique_by_category", "unique_any")]
              for layer in result.layers.values()]  # fmt: skip
    assert [cells[3:7] for cells in marked] == counts


def test_names_of_concepts_are_shown_and_not_run(run, result, tmp_path):
    alignment, rotations = load_alignment(run / "pca"), load_rotations(run / "rotate")
    names = tuple(f"{EVIL}{i}" for i in range(len(alignment.concept_name)))
    categories = tuple(f"{EVIL}{i}" for i in range(len(result.category_name)))
    evil = replace(result, category_name=categories)
    perturbed = replace(load_robustness(run / "perturb", result), result=evil)
    texts = [
        rendered(tmp_path, "pca.html", pca_values(replace(alignment, concept_name=names))),
        rendered(tmp_path, "rotate.html", rotate_values(replace(rotations, category_name=categories))),
        rendered(tmp_path, "perturb.html", perturb_values(perturbed)),
    ]
    for text in texts:
        assert EVIL not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_layer_without_any_known_concept_has_no_charts(run, tmp_path):
    found = load_alignment(run / "pca")
    layer = found.layers["relu4"]
    variant = layer.variants[found.chosen]
    nobody = replace(variant.statistics, unit=variant.statistics.unit * 0 - 1, verdict=variant.statistics.verdict * 0)
    layers = {"relu4": replace(layer, variants=layer.variants | {found.chosen: replace(variant, statistics=nobody)})}
    text = rendered(tmp_path, "pca.html", pca_values(replace(found, layers=layers)))
    assert "<svg" not in text and "absent" in text


def test_an_empty_audit_is_a_page_without_tables(result, tmp_path):
    assert "<table" not in rendered(tmp_path, "audit.html", audit_values([], result))


def test_columns_of_numbers_stand_to_the_right():
    table = make_table("", ("a", "b", "c", "d"), [("x", 1, 0.5, "1/200"), ("3d", 2, float("nan"), "")])
    assert [column.is_number for column in table.columns] == [False, True, True, True]
    assert table.rows == (("x", "1", "0.5", "1/200"), ("3d", "2", "-", ""))


@pytest.mark.parametrize(
    "mean, std, expected",
    [
        (0.98765, 5e-6, "0.988 ± 0.000"),
        (66.5, 0.7071, "66.5 ± 0.7"),
        (41.0, 0.0, "41 ± 0"),
        (0.0874, 0.0022, "0.0874 ± 0.0022"),
        (1234.5, 10.2, "1234 ± 10"),
        (0.0, 0.5, "0.000 ± 0.500"),
        (0.25, float("nan"), "0.25"),
        (float("nan"), 1.0, "-"),
    ],
)
def test_deviations_have_as_many_places_as_their_means(mean, std, expected):
    assert with_std(mean, std).replace(GAP, " ") == expected
