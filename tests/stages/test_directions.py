"""Directions scored as if they were units, from the stored activations."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.measure.rotations import haar_rotation, permutation

from .planted import planted_maps, scenes, store_maps

LAYERS = ["block1.act", "block2.conv"]


@pytest.fixture(scope="module")
def run(nets, scenes, tmp_path_factory):
    """Two layers, of 5 and of 8 units, as float16."""
    out = tmp_path_factory.mktemp("directions") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, batch_size=2, shard_images=7, tails=("1/10", "1/20"))
    sd.score(out)
    return out


@pytest.fixture
def saved(tmp_path):
    """Saves a matrix, gives its path."""

    def save(matrix, name="w.npy"):
        np.save(tmp_path / name, matrix)
        return str(tmp_path / name)

    return save


def test_the_identity_gives_the_plain_score_bitwise(run, saved):
    plain = sd.score(run).layer("block2.conv")
    found = sd.score(run, directions=saved(np.eye(8)), name="eye").layer()
    for name, array in plain.arrays.items():
        assert_array_equal(array, found.arrays[name], err_msg=name)
    assert found.attributes["dtype"] == "float16"
    tables = (run / "tables" / "units.csv").read_text().splitlines()
    assert (run / "scores" / "eye" / "tables" / "units.csv").read_text().splitlines()[1:] == tables[6:]
    published = "tables/block2.conv-result.csv"
    assert (run / published).read_bytes() == (run / "scores" / "eye" / published).read_bytes()


def test_permuted_units_give_permuted_results_bitwise(run, saved):
    order = permutation(8, 1).argmax(axis=1)
    plain = sd.score(run).layer("block2.conv")
    found = sd.score(run, directions=saved(np.eye(8)[order]), name="permuted").layer()
    for name in ("threshold", "intersection", "unit_area", "iou", "best_concept", "flags", "top_image", "n_above"):
        assert_array_equal(getattr(plain, name)[order], getattr(found, name), err_msg=name)


def test_thresholds_and_counts_are_those_of_the_sums(run, saved):
    """Against the definition, in float64, from the store as any Zarr reads it."""
    import zarr

    weight = np.random.default_rng(0).normal(size=(3, 5))
    result = sd.score(run, directions=saved(weight), relu=True, name="sums")
    found = result.layer()
    maps = zarr.open_array(run / "activations.zarr" / "block1.act", mode="r")[:].astype(np.float64)
    sums = np.maximum(np.einsum("dk,nkhw->dnhw", weight, maps), 0).reshape(3, -1)
    m = sums.shape[1] // 10
    expected = np.sort(sums, axis=1)[:, -m - 1]
    np.testing.assert_allclose(found.threshold, expected, rtol=1e-5)
    assert (abs(found.n_above - (sums > expected[:, None]).sum(axis=1)) <= 1).all()
    assert list(result.layers) == ["block1.act"] and found.iou.shape == (3, len(result.concept_name))
    assert found.unit_area_all.min() > 0
    assert result.mask(0, "block1.act", 2).any() == (sums[2].reshape(len(maps), -1)[0] > found.threshold[2]).any()


def test_results_do_not_depend_on_memory_threads_or_workers(run, saved, monkeypatch):
    weight = saved(np.random.default_rng(1).normal(size=(30, 5)))
    plain = sd.score(run, directions=weight, name="once", threads=2).layer()
    small = sd.score(run, directions=weight, name="small", memory=200_000, threads=1).layer()
    parts = [sd.score_partial(run, shards=[shard], directions=weight) for shard in (2, 0, 1)]
    merged = sd.merge(parts).layer()
    for worker in (1, 0):
        shared = sd.score(run, directions=weight, name="shared", shard=(worker, 2))
    for other in (small, merged, shared.layer()):
        for name, array in plain.arrays.items():
            assert_array_equal(array, other.arrays[name], err_msg=name)


def test_thresholds_that_are_sketched_first_come_out_exact(tmp_path, saved):
    data = scenes()
    maps = planted_maps(data)
    store_maps(maps, data, tmp_path / "run")
    weight = saved(haar_rotation(24, 0))
    plenty = sd.score(tmp_path / "run", data, directions=weight, name="plenty").layer()
    from streamdissect.stages import directed

    taken = []
    refine = directed.DirectedPasses._refine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directed.DirectedPasses, "_refine", lambda *a: taken.append(1) or refine(*a))
        little = sd.score(tmp_path / "run", data, directions=weight, name="little", memory=150_000).layer()
    assert taken
    for name, array in plenty.arrays.items():
        assert_array_equal(array, little.arrays[name], err_msg=name)


def test_a_biased_direction_from_a_file_of_tensors(run, tmp_path):
    weight = np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)
    save_file({"weight": weight, "bias": np.full(4, 64, np.float32)}, tmp_path / "w.safetensors")
    path = str(tmp_path / "w.safetensors")
    plain = sd.score(run, directions=path, name="unbiased").layer()
    moved = sd.score(run, directions=path, bias=path, name="biased").layer()
    np.testing.assert_allclose(moved.threshold, plain.threshold + 64, rtol=1e-6)


def test_another_matrix_is_another_scoring(run, saved):
    first = saved(np.eye(8))
    sd.score(run, directions=first, name="changed")
    saved(2 * np.eye(8))
    with pytest.raises(sd.BadInput, match="--directions"):
        sd.score(run, directions=first, name="changed")
    with pytest.raises(sd.BadInput, match="--directions"):
        sd.score(run, name="changed")
    with pytest.raises(sd.BadInput, match="--directions"):
        sd.score(run, directions=first)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--directions", "{w7}"], "--directions: got directions over 7 units, expected as many as a layer has"),
        (["--directions", "{w8}", "--layer", "nothing"], "--layer: got 'nothing', expected a layer of the run"),
        (["--directions", "{w8}", "--layer", "block1.act"], "block1.act of 5"),
        (["--directions", "absent.npy"], "'absent.npy', which is not there"),
        (["--directions", "{cube}"], "shape (2, 2, 2), expected real numbers with 2 axes"),
        (["--directions", "{nan}"], "not a finite number"),
        (["--directions", "{text}"], "expected a .npy file"),
        (["--relu"], "--relu: got given without directions, expected --directions beside it"),
        (["--directions", "{w8}", "--approximate"], "--approximate"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(run, saved, tmp_path, capsys, arguments, expected):
    (tmp_path / "text.npy").write_text("words")
    files = {
        "w7": saved(np.eye(7), "w7.npy"),
        "w8": saved(np.eye(8), "w8.npy"),
        "cube": saved(np.zeros((2, 2, 2)), "cube.npy"),
        "nan": saved(np.full((2, 8), np.nan), "nan.npy"),
        "text": str(tmp_path / "text.npy"),
    }
    code = main(["score", str(run), "--name", "refused", *(text.format(**files) for text in arguments)])
    error = capsys.readouterr().err
    assert code == 2 and expected in error and error.count("\n") == 1, error


def test_two_layers_of_as_many_units_have_to_be_told_apart(nets, scenes, tmp_path, saved):
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, ["block2.conv", "block2.act"], out, tails=("1/10",))
    with pytest.raises(sd.BadInput, match="--layer NAME"):
        sd.score(out, directions=saved(np.eye(8)))
    found = sd.score(out, directions=saved(np.eye(8)), layer="block2.act", overwrite=True)
    assert list(found.layers) == ["block2.act"]


def test_directions_are_no_units_of_the_network(run, saved):
    sd.score(run, directions=saved(np.eye(8)), name="not-units")
    with pytest.raises(sd.BadInput, match="a scoring of directions"):
        sd.perturb(run, noise=1, name="not-units")


def test_an_audit_of_directions_is_not_that_of_the_units(run, saved):
    from streamdissect.stages.audit import audit

    path = saved(np.eye(8)[[1, 0]])
    rows = audit(run, directions=path, name="audited")
    assert {row.layer for row in rows} == {"block2.conv"}
    with pytest.raises(sd.BadInput, match="--directions"):
        audit(run, name="audited")


def test_kept_maps_are_all_that_reach_their_threshold():
    from streamdissect.quantile import BufferedTail
    from streamdissect.stages.candidates import Candidates

    random = np.random.default_rng(0)
    maps = (random.normal(size=(60, 5, 3, 4)) * np.linspace(2, 0.2, 60)[:, None, None, None]).astype(np.float32)
    capacity = 60 * 12 // 50 + 1
    streams, kept = BufferedTail(5, capacity), Candidates(5, (3, 4), capacity)
    for start in range(0, 60, 7):
        some = maps[start : start + 7]
        kept.add(range(start, start + len(some)), streams.update(some), some, streams)
    threshold = np.sort(maps.transpose(1, 0, 2, 3).reshape(5, -1), axis=1)[:, -capacity]
    reaches = maps.max(axis=(2, 3)) >= threshold
    for rows in (range(25), range(25, 60), range(3, 9)):
        found = kept.maps_of(rows)
        there = np.isfinite(found).all(axis=(2, 3))
        assert (there >= reaches[rows.start : rows.stop]).all()
        assert_array_equal(found[there], maps[rows.start : rows.stop][there])
        assert np.isneginf(found[~there]).all()
    assert reaches.sum() <= kept.n_maps < 200  # of 300: what came late and low is not kept


def test_directions_of_a_run_without_activations_are_the_same(nets, scenes, run, saved, tmp_path):
    out, weight = tmp_path / "none", saved(np.random.default_rng(3).normal(size=(6, 8)))
    named = {"batch_size": 2, "shard_images": 7, "tails": ("1/10", "1/20"), "spill": "none"}
    sd.extract(f"{nets}:build", scenes, LAYERS, out, **named)
    again = sd.score(out, directions=weight).layer()
    for name, array in sd.score(run, directions=weight, name="stored").layer().arrays.items():
        assert_array_equal(array, again.arrays[name], err_msg=name)
