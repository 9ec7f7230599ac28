"""Runs that store no activations: scored by the network once more."""

import json
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.stages.control import Control

LAYERS = ["block1.act", "block2.conv"]


@pytest.fixture(scope="module")
def full(nets, scenes, tmp_path_factory):
    """A run that stored them, scored."""
    out = tmp_path_factory.mktemp("full") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, shard_images=6, batch_size=4)
    return sd.score(out)


def assert_same(found, expected):
    assert found.image_name == expected.image_name
    for name, layer in expected.layers.items():
        for key, array in layer.arrays.items():
            assert_array_equal(found.layers[name].arrays[key], array, err_msg=f"{name} {key}")
        assert found.layers[name].summary == layer.summary
        for key, array in layer.distribution.to_arrays().items():
            assert_array_equal(getattr(found.layers[name].distribution, key), array)


@pytest.mark.parametrize("method", ["exact", "histogram", "sketch"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_results_are_those_of_a_stored_run(dtype, method, nets, scenes, tmp_path):
    results = []
    for spill in ("full", "none"):
        out = tmp_path / spill
        named = {"dtype": dtype, "thresholds": method, "shard_images": 6, "batch_size": 4, "tails": (Fraction(1, 50),)}
        sd.extract(f"{nets}:build", scenes, LAYERS, out, spill=spill, **named)
        assert (out / "activations.zarr").exists() == (spill == "full")
        results.append(sd.score(out))
        assert (out / "activations.zarr").exists() == (spill == "full")
    assert_same(results[1], results[0])
    for k in range(3):
        masks = [result.mask(4, "block1.act", k) for result in results]
        assert_array_equal(*masks)


def test_each_shard_takes_one_forward_pass(full, nets, scenes, tmp_path, monkeypatch):
    import streamdissect.stages.reopening as reopening

    out, passed = tmp_path / "run", []
    sd.extract(f"{nets}:build", scenes, LAYERS, out, spill="none", shard_images=6, batch_size=4)
    real = reopening.forward_shard
    monkeypatch.setattr(
        reopening,
        "forward_shard",
        lambda work, maps, images, *rest: passed.append(images) or real(work, maps, images, *rest),
    )
    assert_same(sd.score(out), full)
    assert [image for images in passed for image in images] == list(range(20)) and len(passed) == 4
    assert sd.score(out) is not None and len(passed) == 4  # done already


def test_a_stopped_extract_and_several_workers(full, nets, scenes, tmp_path):
    class StopAfter(Control):
        """Stops the work at the n-th check."""

        def __init__(self, n):
            super().__init__()
            self.left = n

        def check(self):
            self.left -= 1
            if self.left < 0:
                self.stop()
            super().check()

    out = tmp_path / "run"
    named = {"spill": "none", "shard_images": 6, "batch_size": 4}
    with pytest.raises(sd.Stopped):
        sd.extract(f"{nets}:build", scenes, LAYERS, out, **named, control=StopAfter(5))
    with pytest.raises(sd.IncompleteRun, match="not finished"):
        sd.score(out)
    sd.extract(f"{nets}:build", scenes, LAYERS, out, **named)
    assert sd.verify(out) > 0
    parts = [sd.score_partial(out, shards=shards) for shards in ([3, 0], [1, 2])]
    assert_same(sd.merge(parts), full)
    assert sd.score(out, shard=(1, 2)) is None
    assert_same(sd.score(out, shard=(0, 2)), full)


def test_larger_tails_are_refused_with_the_remedy(nets, scenes, tmp_path, capsys):
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS[:1], out, spill="none", distributions="none")
    assert main(["score", str(out), "--tail", "1/10"]) == 2
    said = capsys.readouterr().err
    assert "--tail" in said and "1/200" in said and "--spill full" in said and len(said.splitlines()) == 1
    assert main(["score", str(out), "--tail", "1/500"]) == 0
    sd.extract(f"{nets}:build", scenes, LAYERS[:1], tmp_path / "any", spill="none", thresholds="histogram")
    assert main(["score", str(tmp_path / "any"), "--tail", "1/10"]) == 0


def test_a_network_that_was_an_object_is_asked_for(full, nets, scenes, tmp_path, capsys):
    from streamdissect.models import load_model

    module = load_model(f"{nets}:build").module
    out = tmp_path / "run"
    sd.extract(module, scenes, LAYERS, out, spill="none", shard_images=6, batch_size=4)
    with pytest.raises(sd.BadInput, match="model=") as refused:
        sd.score(out)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(sd.BadInput, match="weights"):
        sd.score(out, model=f"{nets}:build?width=7", overwrite=True)
    assert_same(sd.score(out, model=module, overwrite=True), full)
    assert main(["score", str(out), "--name", "again", "--model", f"{nets}:build"]) == 0


def test_a_network_for_a_stored_run_is_refused(nets, scenes, tmp_path):
    sd.extract(f"{nets}:build", scenes, LAYERS[:1], tmp_path / "run")
    with pytest.raises(sd.BadInput, match=r"--model.*stored its activations"):
        sd.score(tmp_path / "run", model=f"{nets}:build")


def test_what_info_dry_run_and_clean_say(nets, scenes, tmp_path, capsys):
    out = tmp_path / "run"
    command = [
        "extract",
        "--model",
        f"{nets}:build",
        "--data",
        str(scenes),
        "--layers",
        "block1.act",
        "--spill",
        "none",
    ]
    assert main([*map(str, command), "--out", str(out), "--dry-run", "--max-disk", "1kB"]) == 0
    assert "none stored" in capsys.readouterr().out
    assert main([*map(str, command), "--out", str(out), "--max-disk", "1kB"]) == 0
    assert "no activations stored" in capsys.readouterr().out
    assert main(["score", str(out)]) == 0 and main(["clean", str(out)]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    assert "dropped" not in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["identity"]["spill"] == "none"
    assert np.isfinite(sd.score(out, name="after").layer().threshold).all()


def test_weights_that_moved_are_named_alone(nets, scenes, tmp_path, capsys):
    import torch

    from streamdissect.models import load_model

    torch.save(load_model(f"{nets}:build", "random", 3).module.state_dict(), tmp_path / "one.pt")
    torch.save(load_model(f"{nets}:build", "random", 4).module.state_dict(), tmp_path / "other.pt")
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, weights=str(tmp_path / "one.pt"), spill="none")
    (tmp_path / "one.pt").rename(tmp_path / "moved.pt")
    assert main(["score", str(out), "--weights", str(tmp_path / "other.pt"), "--name", "x"]) == 2
    assert "extract again" in capsys.readouterr().err
    assert main(["score", str(out), "--weights", str(tmp_path / "nothing.pt"), "--name", "y"]) == 2
    assert main(["score", str(out), "--weights", str(tmp_path / "moved.pt")]) == 0


def test_other_activations_than_those_of_the_thresholds_are_refused(nets, scenes, tmp_path, monkeypatch, capsys):
    import streamdissect.stages.reopening as reopening

    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, spill="none", shard_images=6, batch_size=4)
    real = reopening.forward_shard

    def other(work, maps, *rest):
        seconds = real(work, maps, *rest)
        maps[LAYERS[1]][0, 0, 0, 0] += 1
        return seconds

    monkeypatch.setattr(reopening, "forward_shard", other)
    assert main(["score", str(out)]) == 3
    said = capsys.readouterr().err
    assert "shard 0, layer block2.conv" in said and "extract again" in said


def test_variables_that_are_meant_for_extract(nets, scenes, tmp_path, monkeypatch):
    sd.extract(f"{nets}:build", scenes, LAYERS[:1], tmp_path / "run")
    monkeypatch.setenv("STREAMDISSECT_MODEL", f"{nets}:build")
    monkeypatch.setenv("STREAMDISSECT_TRUST_MODEL", "1")
    assert main(["score", str(tmp_path / "run")]) == 0
    assert main(["score", str(tmp_path / "run"), "--model", "other.py:build"]) == 2


def test_several_layers_are_made_exact_in_one_pass(nets, scenes, tmp_path, monkeypatch):
    import streamdissect.stages.reopening as reopening

    out, passed = tmp_path / "run", []
    sd.extract(f"{nets}:build", scenes, LAYERS, out, spill="none", shard_images=6, batch_size=4, thresholds="sketch")
    real = reopening.forward_shard
    monkeypatch.setattr(reopening, "forward_shard", lambda *given: passed.append(0) or real(*given))
    sd.score(out)
    assert len(passed) == 2 * 4  # shards: once for the thresholds, once to count
