"""The results of experiments as `info` and `verify` ask for them."""

import pytest

import streamdissect as sd
from streamdissect.stages.experiments import experiments_of, verify_experiments
from streamdissect.store.rundir import RunDir

from .planted import planted_maps, scenes, store_maps


def test_results_are_found_and_what_is_damaged_is_named(tmp_path):
    data = scenes()
    store_maps(planted_maps(data), data, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert experiments_of(run, None) == [] and verify_experiments(run, None) == (0, [])
    sd.score(run, data, tail="1/20", name="other")
    sd.rotate(run, data, alphas=(0, 1), seeds=1, seeds_between=1)
    sd.pca(run, data, concepts=("cloud",), name="other")
    assert (experiments_of(run, None), experiments_of(run, "other")) == (["rotate"], ["pca"])
    assert verify_experiments(run, None) == verify_experiments(run, "other") == (1, [])
    n_files = sd.verify(run.path)
    facts = sd.info(run.path)
    assert {name: found["experiments"] for name, found in facts["scorings"].items()} == {
        "(main)": ["rotate"],
        "other": ["pca"],
    }
    assert facts["audits"] == []
    path = run.results_path("other") / "pca" / "pca.h5"
    path.write_bytes(path.read_bytes()[:1000])
    n_whole, (wrong,) = verify_experiments(run, "other")
    assert n_whole == 0 and str(path) in wrong and "damaged" in wrong
    with pytest.raises(sd.IncompleteRun, match=r"pca\.h5.*make it again with --overwrite"):
        sd.verify(run.path)
    sd.pca(run, data, concepts=("cloud",), name="other", overwrite=True)
    assert sd.verify(run.path) == n_files
