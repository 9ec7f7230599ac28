"""What extraction stores, and for which images; capture; memory that does not grow."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import zarr

import streamdissect as sd
from streamdissect.options import ExtractOptions
from streamdissect.stages.forward import to_stored
from streamdissect.stages.selection import choose_images


def stored(run, layer):
    return zarr.open_array(run / "activations.zarr" / layer, mode="r")[:]


def test_the_store_holds_what_the_network_says(nets, scenes, tmp_path):
    sd.extract(
        f"{nets}:build", scenes, ["block1.conv", "block2.act:relu"], tmp_path / "run", batch_size=4, dtype="float32"
    )
    data = sd.open_dataset(scenes)
    from streamdissect.models import load_model

    net = load_model(f"{nets}:build").module
    mean, std = (torch.tensor(v)[:, None, None] for v in (ExtractOptions().mean, ExtractOptions().std))
    for start in (0, 16):
        batch = torch.stack([torch.from_numpy(data.image(i)).permute(2, 0, 1) for i in range(start, start + 4)])
        with torch.inference_mode():
            first = net.block1.conv((batch / 255 - mean) / std)
            second = net.block2(net.pool(first.relu()))
        np.testing.assert_array_equal(stored(tmp_path / "run", "block1.conv")[start : start + 4], first.numpy())
        np.testing.assert_array_equal(stored(tmp_path / "run", "block2.act:relu")[start : start + 4], second.numpy())
    assert stored(tmp_path / "run", "block1.conv").min() < 0, "the convolution's output before the in-place ReLU"


def test_images_are_resized_as_pillow_does(nets, scenes, tmp_path):
    sd.extract(f"{nets}:build", scenes, ["block1.conv"], tmp_path / "run", input_size=(48, 40), limit=3, is_first=True)
    assert stored(tmp_path / "run", "block1.conv").shape == (3, 5, 24, 20)


def test_negative_zero_is_stored_as_zero():
    maps = torch.tensor([[[[-0.0, 0.0, -1e-9, 1.0]]]])
    found = to_stored(maps, "x", "float16", False)
    assert found.dtype == np.float16 and not np.signbit(found[..., :3]).any()
    assert to_stored(maps, "x", "float32", False).view(np.uint32)[0, 0, 0, 0] == 0


def test_a_limit_is_a_sample_that_grows(scenes):
    data = sd.open_dataset(scenes)
    samples = [set(choose_images(data, ExtractOptions(limit=n, seed=1)).tolist()) for n in (3, 8, 20, 99)]
    assert [len(sample) for sample in samples] == [3, 8, 20, 20]
    assert samples[0] < samples[1] < samples[2] == samples[3]
    assert samples[0] != {0, 1, 2}
    assert samples[1] != set(choose_images(data, ExtractOptions(limit=8, seed=2)).tolist())
    assert choose_images(data, ExtractOptions(limit=4, is_first=True)).tolist() == [0, 1, 2, 3]
    assert choose_images(data, ExtractOptions(split="val")).tolist() == [3, 7, 11, 15, 19]
    with pytest.raises(sd.BadInput, match=r"--split.*'test'.*train"):
        choose_images(data, ExtractOptions(split="test"))


def test_a_limited_run_scores_its_images(nets, scenes, tmp_path):
    sd.extract(f"{nets}:build", scenes, ["block1.act"], tmp_path / "run", limit=6, seed=4)
    result = sd.score(tmp_path / "run")
    data = sd.open_dataset(scenes)
    chosen = choose_images(data, ExtractOptions(limit=6, seed=4))
    assert list(result.image_name) == [data.names[i] for i in chosen]
    assert len(result.concept_name) == len(data.concepts)


def test_float32_beyond_the_memory_switches_and_says_so(nets, scenes, tmp_path, capsys):
    from streamdissect.cli import main

    limits = ["--dtype", "float32", "--memory", "400kB", "--shard-images", "2", "--batch-size", "2", "--tail", "1/4"]
    arguments = ["extract", "--model", f"{nets}:build", "--data", scenes, "--layers", "block1.act", *limits]
    assert main([*map(str, arguments), "--out", str(tmp_path / "small")]) == 0
    assert "found exactly in two" in capsys.readouterr().err
    named = {"dtype": "float32", "shard_images": 2, "batch_size": 2, "tails": (Fraction(1, 4),)}
    sd.extract(f"{nets}:build", scenes, ["block1.act"], tmp_path / "large", **named)
    small, large = sd.score(tmp_path / "small", memory=10**6), sd.score(tmp_path / "large")
    for key, array in small.layers["block1.act"].arrays.items():
        np.testing.assert_array_equal(array, large.layers["block1.act"].arrays[key], err_msg=key)


def test_float16_and_float32_stores_agree(nets, scenes, tmp_path):
    """Methods 9.3 (11)."""
    results = []
    for dtype in ("float16", "float32"):
        sd.extract(f"{nets}:build", scenes, ["block1.conv", "block2.conv"], tmp_path / dtype, dtype=dtype)
        results.append(sd.score(tmp_path / dtype))
    for name in results[0].layers:
        assert np.abs(results[0].iou[name] - results[1].iou[name]).max() < 0.01


def test_shards_of_small_maps_are_not_the_whole_dataset(nets, tmp_path):
    from streamdissect.stages.planning import fit_shard

    assert fit_shard(100, 10**6, ExtractOptions()) == 512
    assert fit_shard(10**6, 10**6, ExtractOptions()) == 64
    assert fit_shard(10**6, 10, ExtractOptions()) == 10
    assert fit_shard(10**9, 10, ExtractOptions()) == 1


PEAK = """
import resource, sys
import streamdissect as sd
model, n, out, stage = sys.argv[1:]
if stage == "extract":
    named = {"shard_images": 16, "batch_size": 16, "threads": 1, "memory": 2**28}
    sd.extract(model, f"synth:?n={n}&size=64", ["block1.act"], out, **named)
else:
    sd.score(out, threads=1, memory=2**28)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_does_not_grow_with_the_images(nets, tmp_path):
    peaks = {}
    for n in (48, 384):
        for stage in ("extract", "score"):
            call = [sys.executable, "-c", PEAK, f"{nets}:build?width=24", str(n), str(tmp_path / str(n)), stage]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            peaks[stage, n] = int(done.stdout)
    for stage in ("extract", "score"):
        # 384 images hold 19 MB of activations; an eighth of them fits into a shard
        assert peaks[stage, 384] < peaks[stage, 48] + 8e6, peaks


def test_clean_keeps_the_results_and_extract_restores_the_rest(nets, scenes, tmp_path, command):
    out = tmp_path / "run"
    arguments = ["extract", "--model", f"{nets}:build", "--data", scenes, "--layers", "block1.act", "--out", out]
    command(*arguments, check=0)
    assert "not scored" in command("clean", out, check=2).stderr
    first = command("score", out, check=0).stdout
    freed = command("clean", out, check=0)
    assert "removing" in freed.stderr and "activations.zarr" in freed.stderr
    assert not (out / "activations.zarr").exists()
    assert command("score", out, check=0).stdout == first
    assert command("score", out, "--name", "x").returncode == 3
    command(*arguments, check=0)
    command("score", out, "--name", "x", check=0)
    assert (out / "tables/units.csv").read_text() == (out / "scores/x/tables/units.csv").read_text()
