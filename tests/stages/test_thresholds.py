"""Thresholds by every method, at any tail, and what the results say of each unit's activations."""

import json
from fractions import Fraction

import h5py
import numpy as np
import pytest
import torch
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.quantile import ReqSketch
from streamdissect.stages.thresholds import groups_of
from streamdissect.store.results import load_dissection

METHODS = ("exact", "histogram", "sketch")
TAILS = (Fraction(1, 100), Fraction(1, 20))
LAYERS = ["block1.act", "block2.conv"]


@pytest.fixture(scope="module")
def runs(nets, scenes, tmp_path_factory):
    """A run for each method and dtype, of two layers and tails, and its scoring."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for method in METHODS:
        for dtype in ("float16", "float32"):
            out = folder / f"{method}-{dtype}"
            named = {"dtype": dtype, "tails": TAILS, "thresholds": method, "shard_images": 6}
            sd.extract(f"{nets}:build", scenes, LAYERS, out, **named)
            made[method, dtype] = out, sd.score(out)
    return made


def by_unit(run, layer):
    """(K, n) ascending, as stored."""
    maps = zarr.open_group(run / "activations.zarr", mode="r")[layer][:]
    return np.sort(np.moveaxis(maps, 1, 0).reshape(maps.shape[1], -1))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_thresholds_are_those_of_the_stored_values_at_any_tail(method, dtype, runs):
    out, _ = runs[method, dtype]
    for tail in (*TAILS, Fraction(1, 500), Fraction(1, 2)):  # smaller, and larger than those extracted
        result = sd.score(out, tail=tail, name=f"t{tail.denominator}")
        for name, layer in result.layers.items():
            values = by_unit(out, name)
            n = values.shape[1]
            wanted = [*TAILS, tail] if tail not in TAILS else TAILS
            assert layer.tails.tolist() == [float(p) for p in wanted]
            assert_array_equal(layer.thresholds, [values[:, n - 1 - int(p * n)] for p in wanted])
            assert_array_equal(layer.threshold, values[:, n - 1 - int(tail * n)])
            assert_array_equal(layer.n_above, (values > layer.threshold[:, None]).sum(axis=1))
            assert layer.attributes["threshold_source"] == "exact"


def test_streams_are_those_that_the_method_and_the_dtype_ask_for(runs):
    kinds = {}
    for (method, dtype), (out, _) in runs.items():
        layers = json.loads((out / "run.json").read_text())["layers"]
        kinds[method, dtype] = {(layer["streams"]["kind"], (layer["sketch"] or {}).get("kind")) for layer in layers}
    assert kinds == {
        ("exact", "float16"): {("histogram", None)},
        ("exact", "float32"): {("buffered", "kll")},
        ("histogram", "float16"): {("histogram", None)},
        ("histogram", "float32"): {("histogram", "kll")},
        ("sketch", "float16"): {("req", "kll")},
        ("sketch", "float32"): {("req", "kll")},
    }


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_all_methods_give_the_same_results(dtype, runs):
    _, expected = runs["exact", dtype]
    for method in METHODS[1:]:
        _, found = runs[method, dtype]
        for name, layer in expected.layers.items():
            for key, array in layer.arrays.items():
                assert_array_equal(found.layers[name].arrays[key], array, err_msg=f"{method} {name} {key}")


def test_several_tails_are_made_exact_in_one_pass_which_is_kept(runs, nets, scenes, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, thresholds="sketch", tails=TAILS)
    reads = []
    from streamdissect.store.activations import ActivationStore

    real = ActivationStore.iter_chunks
    monkeypatch.setattr(
        ActivationStore, "iter_chunks", lambda self, name, *rest: reads.append(name) or real(self, name, *rest)
    )
    assert main(["score", str(out)]) == 0
    assert "makes the thresholds exact" in capsys.readouterr().err
    assert sorted(reads) == sorted(2 * LAYERS)  # one pass for the thresholds, one to count
    reads.clear()
    assert main(["score", str(out), "--name", "again", "--tail", "1/20"]) == 0
    assert sorted(reads) == sorted(LAYERS)


def test_a_sketch_may_be_left_as_it_is(runs, nets, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("streamdissect.stages.planning.REQ_K", 8)
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, thresholds="sketch", tails=TAILS)
    found = sd.score(out, approximate=True, tail=Fraction(1, 3))
    sketch = ReqSketch(8, 8)
    for name, layer in found.layers.items():
        values = by_unit(out, name)
        n = values.shape[1]
        sketch.n_seen = n
        bound = sketch.error_bound(1 / 3) * n
        for k, t in enumerate(layer.threshold):
            above, reached = (n - np.searchsorted(values[k], t, side) for side in ("right", "left"))
            assert above - bound <= n // 3 <= reached + bound
        assert layer.attributes["threshold_source"] == "req sketch, k = 8"
    assert any(
        np.any(layer.threshold != by_unit(out, name)[:, -1 - by_unit(out, name).shape[1] // 3])
        for name, layer in found.layers.items()
    ), "the sketch was not tried"
    with pytest.raises(sd.BadInput, match="--approximate"):
        sd.score(out, tail=Fraction(1, 3))
    exact = sd.score(out, name="exact", tail=Fraction(1, 3))
    for name, layer in exact.layers.items():
        assert_array_equal(layer.threshold, by_unit(out, name)[:, -1 - by_unit(out, name).shape[1] // 3])


def test_exact_thresholds_cannot_be_approximate(runs, nets, scenes, tmp_path):
    sd.extract(f"{nets}:build", scenes, LAYERS[:1], tmp_path / "run")
    with pytest.raises(sd.BadInput, match=r"--approximate.*exact already"):
        sd.score(tmp_path / "run", approximate=True)
    sd.score(tmp_path / "run")  # nothing was kept of the refused one


def test_a_missed_bracket_is_counted_anew(nets, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("streamdissect.stages.planning.REQ_K", 8)
    monkeypatch.setattr("streamdissect.quantile.sketch.BRACKET", 0)
    for dtype in ("float16", "float32"):
        out = tmp_path / dtype
        sd.extract(f"{nets}:build", scenes, LAYERS, out, thresholds="sketch", dtype=dtype, tails=(Fraction(1, 3),))
        for name, layer in sd.score(out).layers.items():
            values = by_unit(out, name)
            assert_array_equal(layer.threshold, values[:, -1 - values.shape[1] // 3])


def test_units_are_refined_in_groups_where_the_memory_is_small(runs):
    assert list(groups_of(np.array([3, 3, 3, 9, 1, 1]), 6)) == [range(2), range(2, 3), range(3, 4), range(4, 6)]
    out, whole = runs["histogram", "float32"]
    for path in (out / "partial" / "extract").glob("thresholds-*.npz"):
        path.unlink()
    parts = sd.score(out, name="groups", memory=4000)
    for name, layer in whole.layers.items():
        assert_array_equal(parts.layers[name].thresholds, layer.thresholds)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_distributions_in_the_results(method, dtype, runs):
    out, result = runs[method, dtype]
    again = load_dissection(out / "dissection.h5")
    with h5py.File(out / "dissection.h5") as file:
        for name, layer in result.layers.items():
            values, found = by_unit(out, name).astype(np.float64), layer.distribution
            n = values.shape[1]
            for key, array in found.to_arrays().items():
                assert_array_equal(file[f"layers/{name}/distribution/{key}"][()], array)
                assert_array_equal(getattr(again.layers[name].distribution, key), array)
            assert_allclose(found.mean, values.mean(axis=1), rtol=1e-9, atol=1e-12)
            assert_allclose(found.std, values.std(axis=1), rtol=1e-9, atol=1e-12)
            assert_array_equal(found.zero_share, (values == 0).mean(axis=1))
            for k in range(len(values)):
                for share, value in zip((np.arange(256) + 0.5) / 256, found.quantile[k], strict=True):
                    low, high = (np.searchsorted(values[k], value, side) / n for side in ("left", "right"))
                    assert low - found.quantile_error - 1 / n <= share <= high + found.quantile_error + 1 / n
            is_exact = found.tail_error == 0
            if method != "sketch":
                assert is_exact.all() == (dtype == "float16") and is_exact.any()
            for p, value, error in zip(found.tail.tolist(), found.tail_value.T, found.tail_error, strict=True):
                above, reached = ((values > value[:, None]).mean(axis=1), (values >= value[:, None]).mean(axis=1))
                assert np.all(above - error <= p) and np.all(p <= reached + error + 1 / n)
            ranks = [n - 1 - int(Fraction(str(p)) * n) for p in found.tail[is_exact].tolist()]
            assert_array_equal(found.tail_value[:, is_exact], values[:, ranks])


def test_distributions_may_be_left_out(nets, scenes, tmp_path, capsys):
    kinds = {}
    for dtype in ("float16", "float32"):
        sd.extract(f"{nets}:build", scenes, LAYERS[:1], tmp_path / f"h{dtype}", distributions="none", dtype=dtype,
                   thresholds="histogram")  # fmt: skip
        assert sd.score(tmp_path / f"h{dtype}").layer().distribution is None
        out = tmp_path / dtype
        sd.extract(f"{nets}:build", scenes, LAYERS[:1], out, distributions="none", dtype=dtype)
        (layer,) = json.loads((out / "run.json").read_text())["layers"]
        kinds[dtype] = layer["streams"]["kind"], layer["sketch"]
        assert sd.score(out).layer().distribution is None
        assert load_dissection(out / "dissection.h5").layer().distribution is None
    assert kinds == {"float16": ("binned", None), "float32": ("buffered", None)}
    assert main(["info", str(out), "--unit", "block1.act:0"]) == 0
    assert "--distributions none" in capsys.readouterr().out


def test_histograms_beyond_the_memory_give_way_to_sketches(nets, scenes, tmp_path, capsys):
    command = ["extract", "--model", f"{nets}:build", "--data", scenes, "--layers", "block1.act", "--shard-images", "2"]
    assert main([*map(str, command), "--batch-size", "2", "--memory", "1MB", "--out", str(tmp_path / "run")]) == 0
    assert "the distributions are sketched" in capsys.readouterr().err
    (layer,) = json.loads((tmp_path / "run" / "run.json").read_text())["layers"]
    assert (layer["streams"]["kind"], layer["sketch"]["kind"]) == ("binned", "kll")
    result = sd.score(tmp_path / "run")
    values = by_unit(tmp_path / "run", "block1.act")
    assert_array_equal(result.layer().threshold, values[:, -1 - values.shape[1] // 200])
    assert result.layer().distribution.quantile_error > 0


def test_a_unit_in_the_terminal(runs, capsys):
    out, result = runs["exact", "float16"]
    assert main(["info", str(out), "--unit", "block1.act:3"]) == 0
    shown = capsys.readouterr().out
    layer = result.layers["block1.act"]
    assert f"threshold {layer.threshold[3]:.5g} at tail 1/100: {layer.n_above[3]:,} of {layer.n[3]:,}" in shown
    assert f"{100 * layer.distribution.zero_share[3]:.3g} %" in shown and "above the threshold" in shown
    assert result.image_name[layer.top_image[3, 0]] in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert main(["info", str(out), "--unit", "block1.act:3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["distribution"]["quantile"] == [float(v) for v in layer.distribution.quantile[3]]
    assert facts["thresholds"] == [[0.01, float(layer.thresholds[0, 3])], [0.05, float(layer.thresholds[1, 3])]]
    assert sd.info(out, unit="block1.act:3")["threshold"] == facts["threshold"]
    for wrong in ("block1.act", "block1.act:8", "block1.act:-1", "block1.act:x", "nothing:3", ":3", "3"):
        assert main(["info", str(out), "--unit", wrong]) == 2
        assert "--unit" in capsys.readouterr().err


def test_a_unit_of_a_run_that_is_not_scored(nets, scenes, tmp_path, capsys):
    sd.extract(f"{nets}:build", scenes, LAYERS[:1], tmp_path / "run")
    assert main(["info", str(tmp_path / "run"), "--unit", "block1.act:3"]) == 2
    assert "score" in capsys.readouterr().err
    sd.score(tmp_path / "run", name="only")
    assert sd.info(tmp_path / "run", unit="3")["scoring"] == "only"


def test_capture_gathers_the_same(nets, scenes, tmp_path):
    data = sd.open_dataset(scenes)
    made = []
    for method in METHODS:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 2), torch.nn.ReLU()).eval()
        out = tmp_path / method
        with sd.capture(model, ["1"], out, n_images=len(data), data=scenes, thresholds=method) as cap:
            for i in range(0, len(data), 5):
                with cap.images(range(i, i + 5)), torch.inference_mode():
                    model(torch.stack([torch.from_numpy(data.image(j) / 255.0).permute(2, 0, 1).float()
                                       for j in range(i, i + 5)]))  # fmt: skip
        made.append(sd.score(out).layer())
    for other in made[1:]:
        assert_array_equal(other.iou, made[0].iou)
        assert_array_equal(other.threshold, made[0].threshold)
        assert other.distribution is not None


def test_a_unit_without_numbers_or_with_infinities(nets, scenes, tmp_path, capsys):
    odd = tmp_path / "odd.py"
    odd.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Odd(nn.Module):\n    def forward(self, x):\n"
        "        y = torch.nn.functional.avg_pool2d(x, 8)[:, [0, 0, 0, 0]].clone()\n"
        "        y[:, 0] = float('nan')\n        y[:, 1] = 2.5\n        y[:, 2, 0] = float('inf')\n"
        "        return y\n\n\n"
        "def build():\n    return nn.Sequential(Odd())\n"
    )
    out = tmp_path / "run"
    sd.extract(f"{odd}:build", scenes, ["0"], out, allow_nonfinite=True)
    sd.score(out)
    for unit in range(4):
        assert main(["info", str(out), "--unit", f"0:{unit}", "--json"]) == 0
        json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        assert main(["info", str(out), "--unit", f"0:{unit}"]) == 0
        shown = capsys.readouterr().out
        assert ("above the threshold" in shown) == (unit >= 2) and "top images: \n" not in shown


def test_a_terminal_without_blocks(runs, command, monkeypatch):
    out, _ = runs["exact", "float16"]
    done = command("info", "--unit", "block1.act:3", check=0, PYTHONIOENCODING="ascii", STREAMDISSECT_RUN=str(out))
    assert "#####" in done.stdout and "above the threshold" in done.stdout


@pytest.mark.parametrize("name", ["thresholds-0-1-100", "distribution-0"])
def test_what_was_worked_out_before_is_checked(name, nets, scenes, tmp_path, capsys):
    out = tmp_path / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, thresholds="sketch", dtype="float32", tails=TAILS)
    sd.score(out)
    path = out / "partial" / "extract" / f"{name}.npz"
    whole, other = path.read_bytes(), (path.parent / f"{name.replace('-0', '-1', 1)}.npz").read_bytes()
    for content in (whole[:-90], b"PK nothing", other):
        path.write_bytes(content)
        assert main(["score", str(out), "--name", "again"]) == 3
        said = capsys.readouterr().err
        assert name in said and "delete it" in said and len(said) < 400 and "allow_pickle" not in said
        if content is not other:
            assert main(["verify", str(out)]) == 3
            assert name in capsys.readouterr().err
    path.unlink()
    assert main(["score", str(out), "--name", "again"]) == 0


def test_a_seed_that_sketches_cannot_take(nets, scenes, tmp_path, capsys):
    command = ["extract", "--model", f"{nets}:build", "--data", scenes, "--layers", "block1.act", "--dtype", "float32"]
    assert main([*map(str, command), "--out", str(tmp_path / "run"), "--seed", str(2**63)]) == 2
    assert "seed" in capsys.readouterr().err
