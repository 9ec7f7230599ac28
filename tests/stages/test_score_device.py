"""`score --backend torch`: the same numbers from PyTorch, on a device of one's choice."""

import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.store.results import load_dissection

LAYERS = ["block1.act", "block2.conv"]


@pytest.fixture(scope="module")
def run(nets, scenes, tmp_path_factory):
    """A run that is extracted and scored with the compiled kernels, or what serves for them."""
    out = tmp_path_factory.mktemp("device") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, batch_size=2, shard_images=7, tails=("1/10",))
    sd.score(out)
    return out


def numbers_of(folder):
    """Tables as bytes, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


@pytest.mark.parametrize("device", [[], ["--device", "cpu"], ["--device", "auto"]], ids=str)
def test_tables_of_torch_are_those_of_the_host(device, run):
    assert main(["score", str(run), "--name", "torch", "--backend", "torch", *device, "--overwrite"]) == 0
    found, expected = numbers_of(run / "scores" / "torch"), numbers_of(run)
    assert "units.csv" in found and found == expected
    result = load_dissection(run / "scores" / "torch" / "dissection.h5")
    assert {layer.attributes["backend"] for layer in result.layers.values()} == {"torch"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tables_of_a_gpu_are_those_of_the_host(run):
    sd.score(run, name="gpu", backend="torch", device="cuda")
    assert numbers_of(run / "scores" / "gpu") == numbers_of(run)


def test_results_do_not_depend_on_the_backend_that_finds_them(run):
    """A scoring that is written is the result, whoever asks."""
    assert sd.score(run, backend="torch", device="cpu").layers.keys() == {*LAYERS}
    assert load_dissection(run / "dissection.h5").layers[LAYERS[0]].attributes["backend"] != "torch"


def test_parts_of_several_backends_merge(run, tmp_path):
    ours = sd.score_partial(run, shards=[0], backend="torch", threads=1)
    theirs = sd.score_partial(run, shards=[1, 2])
    merged = sd.merge([pickle.loads(pickle.dumps(ours)), theirs], tmp_path / "merged")
    assert numbers_of(tmp_path / "merged") == numbers_of(run)
    mask = merged.mask(0, LAYERS[0], 1)
    assert (mask == sd.score(run).mask(0, LAYERS[0], 1)).all()


def test_parts_from_a_gpu_merge_where_there_is_none(run, tmp_path):
    part = sd.score_partial(run, shards=[0, 1, 2], backend="torch")
    away = replace(part, options=replace(part.options, device="cuda:99"))
    merged = sd.merge([away], tmp_path / "merged")
    assert numbers_of(tmp_path / "merged") == numbers_of(run)
    assert merged.mask(0, LAYERS[0], 1).shape == sd.score(run).mask(0, LAYERS[0], 1).shape


@pytest.mark.parametrize("backend", [[], ["--backend", "auto"], ["--backend", "numba"]], ids=str)
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_device_goes_with_torch_alone(device, backend, run, capsys):
    assert main(["score", str(run), "--device", device, *backend]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--device: got '{device}'" in line and "torch" in line


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cpu,cuda"])
def test_a_device_that_is_not_there_is_refused_before_the_work(device, run, capsys):
    assert main(["score", str(run), "--name", "nowhere", "--backend", "torch", "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--device: got '{device}'" in line
    assert not list(run.rglob("*nowhere*"))


def test_the_variable_for_extract_does_not_stop_score(run, monkeypatch, capsys):
    monkeypatch.setenv("STREAMDISSECT_DEVICE", "cuda:99")
    assert main(["score", str(run)]) == 0
    assert main(["score", str(run), "--name", "nowhere", "--backend", "torch"]) == 2
    assert "'cuda:99'" in capsys.readouterr().err


def test_other_backends_import_no_torch(run):
    script = f"import sys, streamdissect as sd\nsd.score({str(run)!r}, name='light')\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
