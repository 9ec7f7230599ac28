"""A run knows its network by more than the weights; and what a network is given may be packed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import streamdissect as sd

SCENES = "synth:?n=4&size=32"
REFUSED = r"network \(digest of its parts, their settings and their code\): got .* as when it was made"


def stored(out, layer):
    return zarr.open_array(out / "activations.zarr" / layer, mode="r")[:]


def filters(**settings):
    """The same weights each time."""
    made = nn.Conv2d(3, 4, 3, padding=1, **settings)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return made


def nets():
    """Networks of one class and the same weights."""
    yield nn.Sequential(filters(), nn.ReLU())
    yield nn.Sequential(filters(), nn.Tanh())
    yield nn.Sequential(filters(padding_mode="circular"), nn.ReLU())


def test_another_network_of_the_same_weights_is_another_run(tmp_path):
    first, *others = nets()
    sd.extract(first, SCENES, ["1"], tmp_path / "run")
    for other in others:
        with pytest.raises(sd.BadInput, match=REFUSED):
            sd.extract(other, SCENES, ["1"], tmp_path / "run")
    run = sd.extract(next(nets()), SCENES, ["1"], tmp_path / "run")
    assert run.path == tmp_path / "run", "the same again is done"


def capture(net, out, images):
    with sd.capture(net, ["1"], out, n_images=4) as cap, cap.images(images), torch.inference_mode():
        net(torch.zeros(len(images), 3, 8, 8))


def test_another_network_of_the_same_weights_is_another_capture(tmp_path):
    first, *others = nets()
    with pytest.raises(sd.IncompleteRun):
        capture(first, tmp_path / "run", [0, 1])
    for other in others:
        with pytest.raises(sd.BadInput, match=REFUSED):
            capture(other, tmp_path / "run", [2, 3])
    capture(torch.compile(next(nets()), backend="eager"), tmp_path / "run", [2, 3])


NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Identity()

    def forward(self, x):
        return self.out(torch.{function}(self.conv(x)))
"""
RUN = "import sys, streamdissect as sd; sd.extract('build.py:make', 'synth:?n=4&size=32', ['out'], 'run')"


def test_a_file_that_the_models_file_imports_belongs_to_the_run(tmp_path):
    (tmp_path / "build.py").write_text("from inside import Net\ndef make(): return Net()\n")
    codes = []
    for function in ("relu", "relu", "tanh"):
        (tmp_path / "inside.py").write_text(NET.format(function=function))
        done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True)
        codes.append((done.returncode, "digest of its parts" in done.stderr))
    assert codes == [(0, False), (0, False), (1, True)], done.stderr


class Packed(nn.Module):
    """Takes its images out of whatever they come in; units last, or tokens of cells."""

    def __init__(self, unpack, has_tokens=False):
        super().__init__()
        self.unpack, self.has_tokens = unpack, has_tokens
        self.conv, self.out = nn.Conv2d(3, 5, 4, 4), nn.Identity()

    def forward(self, *given, **named):
        x = self.conv(self.unpack(*given, **named))
        return self.out(x.flatten(2).transpose(1, 2) if self.has_tokens else x.permute(0, 2, 3, 1))


PACKS = {
    "dict": (lambda batch: batch["image"], lambda net, x: net({"mask": x[:, :1, :2, :2], "image": x})),
    "list in a dict": (lambda batch: batch["views"][0], lambda net, x: net({"ids": [1, 2], "views": [x, x]})),
    "tuple": (lambda pair: pair[1], lambda net, x: net((None, x))),
    "keyword": (lambda pixels: pixels, lambda net, x: net(pixels=x)),
}


@pytest.mark.parametrize("has_tokens", [False, True])
@pytest.mark.parametrize(("unpack", "run"), PACKS.values(), ids=PACKS)
def test_capture_finds_the_images_in_what_the_network_is_given(unpack, run, has_tokens, tmp_path):
    x = torch.rand(4, 3, 16, 64)
    net = Packed(unpack, has_tokens).eval()
    recording = sd.capture(net, ["out"], tmp_path / "run", n_images=4, dtype="float32")
    with recording as cap, cap.images(range(4)), torch.inference_mode():
        run(net, x)
    np.testing.assert_array_equal(stored(tmp_path / "run", "out"), net.conv(x).detach().numpy())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["input_size"] == [16, 64]


class Opaque:
    """Images that nobody finds."""

    def __init__(self, images):
        self.images = images


@pytest.mark.parametrize(
    ("has_tokens", "words", "named"),
    [
        (False, "--layout nchw or --layout nhwc", {"layout": "nhwc"}),
        (True, "--grid H W", {"grid": (4, 16)}),
    ],
)
def test_without_images_to_compare_with_nothing_is_guessed(has_tokens, words, named, tmp_path):
    x = torch.rand(4, 3, 16, 64)
    net = Packed(lambda batch: batch.images, has_tokens).eval()
    with (
        pytest.raises(sd.BadInput, match=words),
        sd.capture(net, ["out"], tmp_path / "run", n_images=4) as cap,
        cap.images(range(4)),
    ):
        net(Opaque(x))
    recording = sd.capture(net, ["out"], tmp_path / "run", n_images=4, dtype="float32", **named)
    with recording as cap, cap.images(range(4)), torch.inference_mode():
        net(Opaque(x))
    np.testing.assert_array_equal(stored(tmp_path / "run", "out"), net.conv(x).detach().numpy())


class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.spectrum = nn.Conv2d(3, 4, 3), nn.Identity()

    def forward(self, x):
        return self.spectrum(torch.fft.fft2(self.conv(x)))


def test_complex_activations_are_refused(tmp_path):
    with pytest.raises(sd.BadInput, match=r"layer spectrum: got complex activations, expected real numbers"):
        sd.extract(Spectrum(), SCENES, ["spectrum"], tmp_path / "run")


class Twice(nn.Module):
    """Runs one part on two grids, and one that yields no tensor at first."""

    def __init__(self):
        super().__init__()
        self.act, self.down, self.pick = nn.ReLU(), nn.Conv2d(3, 3, 3, 2, 1), Pick()

    def forward(self, x):
        self.pick(None)
        return self.pick(self.act(self.down(self.act(x))))


class Pick(nn.Module):
    def forward(self, x):
        return x


def test_each_call_of_a_part_is_listed_with_its_own_grid_and_field():
    rows = {row["layer"]: (row["shape"], row["field"]) for row in sd.layers(Twice(), input_size=(32, 32))}
    assert rows == {
        "act#0": ([3, 32, 32], "(0,1,1)"),
        "act#1": ([3, 16, 16], "(-1,3,2)"),
        "down": ([3, 16, 16], "(-1,3,2)"),
        "pick#1": ([3, 16, 16], "(-1,3,2)"),
    }


def test_what_is_listed_can_be_extracted(tmp_path):
    layers = [row["layer"] for row in sd.layers(Twice(), input_size=(32, 32))]
    sd.extract(Twice(), SCENES, layers, tmp_path / "run")
    assert stored(tmp_path / "run", "act#1").shape == (4, 3, 16, 16)


class Tokens(nn.Module):
    """8 tokens of 4 x 2 patches."""

    def __init__(self):
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, 6, 8, 8), nn.Linear(6, 6)

    def forward(self, x):
        return self.mix(self.patch(x).flatten(2).transpose(1, 2))


def test_a_program_of_as_many_images_as_tokens_names_the_one_way_out(tmp_path):
    path = tmp_path / "eight.pt2"
    torch.export.save(torch.export.export(Tokens().eval(), (torch.zeros(8, 3, 32, 16),)), path)
    named = {"trust_model": True, "input_size": (32, 16), "batch_size": 8}
    with pytest.raises(sd.BadInput, match="either axis may be the images") as caught:
        sd.extract(str(path), "synth:?n=8&size=32", ["mix"], tmp_path / "run", **named)
    line = str(caught.value)
    assert "export it for any batch" in line and "Dim('batch')" in line and "--batch-size" not in line
