"""A dataset of one's own, with nothing but what docs/data.md asks for."""

import numpy as np
import pytest

import streamdissect as sd


class Stripes(sd.Dataset):
    """Pictures of two halves, one of them labelled."""

    names = tuple(f"{i}.png" for i in range(6))
    concepts = sd.Concepts(
        number=np.array([1, 2], np.int32),
        name=("left", "right"),
        category=np.zeros(2, np.int32),
        category_name=("side",),
        ignore=np.zeros(1, np.int32),
    )

    def split(self, index):
        return ""

    def image(self, index):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:, 8 * (index % 2) :][:, :8] = 40 * index
        return pixels

    def image_size(self, index):
        return 16, 16

    def labels(self, index):
        layer = np.zeros((16, 16), np.uint16)
        layer[:, 8 * (index % 2) :][:, :8] = 1 + index % 2
        return sd.ImageLabels((16, 16), ((0, layer),), ())

    def has_labels(self, index):
        return True

    def fingerprint(self):
        return "stripes 1"


def test_it_is_extracted_scored_and_packed(tmp_path):
    data = Stripes()
    sd.extract("shipped", data, ["relu3"], tmp_path / "run")
    with pytest.raises(sd.BadInput, match="made from an object: name it, or pass it"):
        sd.score(tmp_path / "run")
    result = sd.score(tmp_path / "run", data)
    assert set(result.concept_name) == {"left", "right"}
    packed = sd.open_dataset(sd.pack(data, tmp_path / "x.h5"))
    for i in range(len(data)):
        np.testing.assert_array_equal(packed.image(i), data.image(i))
        np.testing.assert_array_equal(packed.labels(i).layers[0][1], data.labels(i).layers[0][1])
    again = sd.score(tmp_path / "run", packed, name="packed")
    np.testing.assert_array_equal(again.iou["relu3"], result.iou["relu3"])
    assert "6 images" in repr(data) and "side" in data._repr_html_()
