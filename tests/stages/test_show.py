"""What units detect in any image: equal to the masks of the run, drawn, saved, refused."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.figures.panels import DIMMED, OUTLINE, lit

LAYERS = ["block1.act", "block2.conv"]
UNITS = ["block1.act:2", "block2.conv:0", "block1.act:4"]


@pytest.fixture(scope="module")
def run(nets, scenes, tmp_path_factory):
    """A run whose batches are single images, so that a pass of one image gives the same again."""
    out = tmp_path_factory.mktemp("shown") / "run"
    sd.extract(f"{nets}:build", scenes, LAYERS, out, batch_size=1)
    sd.score(out)
    return out


def test_masks_of_an_image_of_the_dataset_are_those_of_the_run(run):
    result = sd.score(run)
    n_lit = 0
    for name in result.image_name[:6]:
        shown = sd.show(run, name, units=UNITS)
        (masks,) = shown.masks
        for text, mask in zip(UNITS, masks, strict=True):
            layer, _, unit = text.rpartition(":")
            assert_array_equal(mask, result.mask(name, layer, int(unit)))
            n_lit += int(mask.sum())
    assert n_lit > 0


def test_a_file_is_the_same_image_on_its_own_grid(run, scenes, tmp_path):
    data, name = sd.open_dataset(scenes), sd.score(run).image_name[1]
    path = tmp_path / "picture.png"
    pixels = data.image(list(data.names).index(name))
    Image.fromarray(pixels).save(path)
    (mask,) = sd.show(run, path, units=UNITS[:1]).masks
    (known,) = sd.show(run, name, units=UNITS[:1]).masks
    assert mask.shape == (1, 64, 64) and known.shape == (1, 32, 32)
    coarse = mask[0].reshape(32, 2, 32, 2).mean((1, 3))
    assert ((coarse > 0.4) == known[0]).mean() > 0.97
    Image.fromarray(pixels).resize((90, 120)).save(path)
    (resized,) = sd.show(run, path, units=UNITS[:1]).masks
    assert resized.shape == (1, 120, 90)


def test_perturbed_images_are_shown_below_the_image(run):
    names = sd.score(run).image_name[:2]
    shown = sd.show(run, names, noise=(0, 80), rotate=90)
    assert shown.units == tuple(f"{layer}:{unit}" for layer, unit in strongest(run))
    assert [label for _, label in shown.pictures] == ["Original", "noise 0", "noise 80", "rotate 90"] * 2
    assert [image for image, _ in shown.pictures] == [names[0]] * 4 + [names[1]] * 4
    for start in (0, 4):
        assert_array_equal(shown.masks[start], shown.masks[start + 1])
        assert_array_equal(shown.seen[start], shown.seen[start + 1])
        assert_array_equal(np.rot90(shown.seen[start]), shown.seen[start + 3])
        assert not np.array_equal(shown.seen[start], shown.seen[start + 2])
    assert shown.panel().width > 2 * 240 and shown.panel().height > 8 * 240


def strongest(run):
    result = sd.score(run)
    for name, layer in result.layers.items():
        chosen = np.flatnonzero(layer.is_detector) if layer.is_detector.any() else np.arange(len(layer.best_iou))
        yield name, int(chosen[layer.best_iou[chosen].argmax()])


def test_masks_are_saved(run, tmp_path):
    names = sd.score(run).image_name[:2]
    shown = sd.show(run, names, units=UNITS, rotate=10, out=tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as file:
        assert file["unit"].tolist() == UNITS and file["image"].tolist() == [names[0]] * 2 + [names[1]] * 2
        assert file["perturbation"].tolist() == ["Original", "rotate 10"] * 2
        for i in range(4):
            assert_array_equal(file[f"mask_{i}"], shown.masks[i])


def test_what_is_outside_a_mask_is_dimmed_and_what_is_inside_stays():
    image = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    found = lit(image, mask)
    assert (found[2:4, 2:4] == 200).all() and (found[6:, 6:] == 200 * DIMMED).all()
    assert (found[1, 2:4] == OUTLINE).all() and (found[1, 1] == 200 * DIMMED).all()
    assert (lit(image, np.ones((4, 4), bool)) == 200).all()


def test_the_command(run, tmp_path, capsys, monkeypatch):
    names = sd.score(run).image_name[:2]
    out = tmp_path / "panel.png"
    assert main(["show", str(run), *names, "--units", ",".join(UNITS), "--noise", "50", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in (*UNITS, *names, "noise 50", str(out)))
    with Image.open(out) as picture:
        assert picture.width > 3 * 240
    monkeypatch.setenv("STREAMDISSECT_RUN", str(run))
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(run), "--units", ",".join(UNITS), *names, "--noise", "50", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["show", names[0], "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["out"] == "show.png" and (tmp_path / "show.png").exists()
    shown = sd.show(run, names[0])
    assert list(content["pictures"][0]["pixels"].values()) == [int(mask.sum()) for mask in shown.masks[0]]


@pytest.mark.parametrize(
    "words, says",
    [
        ([], ["image", "none"]),
        (["nowhere.png"], ["'nowhere.png'", "an image of the dataset, or a file"]),
        (["NAME", "--out", "masks.txt"], ["--out", ".png or .npz"]),
        (["NAME", "--units", "block1.act:99"], ["--units", "0 to 4"]),
        (["NAME", "--units", "block9:1"], ["--units", "block1.act, block2.conv"]),
        (["NAME", "--shuffle-grid", "0"], ["--shuffle-grid", "whole number"]),
        (["NAME", "--mean", "0", "0", "0"], ["--mean", "the run knows it"]),
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_what_cannot_be_is_refused_in_one_line(run, words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [sd.score(run).image_name[0] if word == "NAME" else word for word in words]
    assert main(["show", str(run), *named]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in says) and len(said.splitlines()) == 1, said


def test_a_text_that_is_no_picture_is_refused(run, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(sd.BadInput, match=r"a\.png.*damaged"):
        sd.show(run, tmp_path / "a.png")
