"""`--compile`: whole batches through `torch.compile`, compared with the network as it is."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import streamdissect as sd

LAYERS = ["block1.act", "block2.conv"]
NAMED = {"batch_size": 8, "threads": 1, "input_size": (48, 48)}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@needs_compiler
@pytest.mark.filterwarnings("default")  # PyTorch's own while it compiles
def test_a_compiled_run_is_the_run_up_to_rounding(nets, scenes, tmp_path):
    """20 images: two whole batches are compiled, the last four go through the network as it is."""
    plain = sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "plain", dtype="float32", **NAMED)
    compiled = sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run", dtype="float32", compile=True, **NAMED)
    for name in LAYERS:
        expected, found = (np.asarray(read(run, name)) for run in (plain, compiled))
        np.testing.assert_array_equal(expected[16:], found[16:])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        assert np.count_nonzero(found), name
    with pytest.raises(sd.BadInput, match=r"compile.*None.*True as when it was made"):
        sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run", dtype="float32", **NAMED)
    assert "compile" not in plain.manifest["identity"]
    assert sd.score(compiled, threads=1).summary["images"] == 20


def read(run, name):
    from streamdissect.stages.recording import store_of

    return store_of(run).read(name, range(20))


class Other(nn.Module):
    """What a wrong compiler would make of a network: it calls it, with other images."""

    def __init__(self, module, shift):
        super().__init__()
        self.module, self.shift = module, shift

    def forward(self, batch):
        return self.module(batch + self.shift)


@pytest.mark.parametrize("shift", [0.0, 0.5, float("nan")])
def test_what_comes_out_different_is_refused(shift, nets, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: Other(module, shift))
    named = {**NAMED, "compile": True, "allow_nonfinite": True}
    if shift == 0.0:
        assert sd.info(sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run", **named).path)["shards_done"] == 2
        return
    with pytest.raises(sd.BadInput, match=r"--compile: got activations of layer block1.act that differ by"):
        sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run", **named)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_compiled_is_refused(nets, scenes, tmp_path, monkeypatch):
    def fails(batch):
        raise RuntimeError("no C++ compiler\nand a long text")

    monkeypatch.setattr(torch, "compile", lambda module, dynamic: fails)
    with pytest.raises(sd.BadInput, match=r"--compile: got RuntimeError: no C\+\+ compiler, expected.*leave it out"):
        sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / "run", compile=True, **NAMED)
