"""Folders that are replaced: never one with anything in it that was not written here."""

import os

import numpy as np
import pytest

import streamdissect as sd
from streamdissect.reporting.folders import MARKER, check_folder, replacing_folder


def make(place, text):
    with replacing_folder(check_folder(place, "report", False), "report") as folder:
        (folder / "index.html").write_text(text)
        (folder / "units").mkdir()


def test_what_was_made_before_is_replaced_and_nothing_else_is(tmp_path):
    place = tmp_path / "deep" / "report"
    make(place, "first")
    make(place, "second")
    assert (place / "index.html").read_text() == "second"
    assert sorted(os.listdir(tmp_path / "deep")) == ["report"]
    with pytest.raises(sd.BadInput, match="nothing in it but what compare wrote"):
        check_folder(place, "compare", False)
    (place / "thesis.txt").write_text("mine")
    with pytest.raises(sd.BadInput, match="--overwrite replaces it"):
        check_folder(place, "report", False)
    assert check_folder(place, "report", True) == place


@pytest.mark.parametrize(
    "marker", ["{}", "[]", "no JSON", '{"made_by": "report"}', '{"made_by": "compare", "names": []}']
)
def test_a_marker_of_another_is_none(tmp_path, marker):
    (tmp_path / MARKER).write_text(marker)
    with pytest.raises(sd.BadInput, match="a new or empty folder"):
        check_folder(tmp_path, "report", False)


def test_a_run_and_the_place_of_work_are_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "mine" / "run").mkdir(parents=True)
    (tmp_path / "mine" / "run" / "run.json").write_text("{}")
    for place in (tmp_path, tmp_path / "mine", tmp_path / "mine" / "run"):
        with pytest.raises(sd.BadInput, match="which holds the run"):
            check_folder(place, "report", True)
    work = tmp_path / "work" / "here"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    (work / "x").write_text("x")
    for place in (".", "..", work.parent):
        with pytest.raises(sd.BadInput, match="where this runs"):
            check_folder(place, "report", True)


def test_links_are_followed_and_files_refused(tmp_path):
    real, link, file = tmp_path / "real", tmp_path / "link", tmp_path / "file"
    real.mkdir()
    link.symlink_to(real)
    file.write_text("x")
    make(link, "through")
    assert (real / "index.html").read_text() == "through" and link.is_symlink()
    for overwrite in (False, True):
        with pytest.raises(sd.BadInput, match="a file, expected a folder"):
            check_folder(file, "report", overwrite)
    assert file.read_text() == "x"


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    place = tmp_path / "report"
    make(place, "first")
    with pytest.raises(RuntimeError), replacing_folder(place, "report"):
        raise RuntimeError
    rename = os.rename

    def fail(source, target):
        if str(target) == str(place) and not str(source).endswith("-before"):
            raise OSError(5, "no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no"):
        make(place, "second")
    assert (place / "index.html").read_text() == "first" and os.listdir(tmp_path) == ["report"]


def test_a_run_from_arrays_has_a_report(tmp_path):
    def compute(images):
        return {"layer": np.stack([np.random.default_rng(i).random((5, 4, 4)) for i in images])}

    run = sd.record(compute, "synth:?n=12&size=32", tmp_path / "run", name="a/b:c</script>", tails="1/20")
    sd.score(run)
    page = sd.report(run).path.read_text(encoding="utf-8")
    assert "computed by another program" in page and "a/b:c&lt;/script&gt;" in page
    assert "streamdissect score" in page and "streamdissect extract" not in page
