"""Any dataset written as a Broden directory comes back equal."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.data.broden import BrodenDataset
from streamdissect.data.broden_writer import write_broden
from streamdissect.data.dataset import Concepts, Dataset, ImageLabels
from streamdissect.data.opening import open_dataset
from streamdissect.data.synthetic import SyntheticScenes
from streamdissect.errors import BadInput, StorageFailure


class Small(Dataset):
    """Three images of different sizes: several layers, image-level labels, an ignore code, large numbers, gaps."""

    spec = "small"

    def __init__(self, names=("a.png", "sub/b", "c.PNG"), categories=("object", "scene", "part")):
        self.names = names
        self.concepts = Concepts(
            number=np.array([1, 2, 255, 256, 300, 65535], np.int32),
            name=("cat", 'a "quoted", name', "door", "never", "night", "Größe"),
            category=np.array([1, 0, 2, 0, 1, 2], np.int32),  # `cat` covers more as a scene
            category_name=categories,
            ignore=np.array([2, 0, 0], np.int32),
        )
        first, second = np.zeros((2, 4, 6), np.uint16)
        first[:, :2], first[0, 3], second[:2] = 1, 255, 1  # `cat` twice on four pixels
        door = np.zeros((4, 6), np.uint16)
        door[1:, 4:], door[0, 0] = 255, 65535
        self._labels = [
            ImageLabels((4, 6), ((0, first), (0, second), (2, door)), ((1, 300),)),
            ImageLabels((3, 3), ((0, np.full((3, 3), 2, np.uint16)),), ((1, 300), (1, 1))),
            ImageLabels((5, 2), (), ()),
        ]

    def split(self, index):
        return ("train", "val", "")[index]

    def image(self, index):
        rows, columns = self.image_size(index)
        return np.random.default_rng(index).integers(0, 256, (rows, columns, 3), np.uint8)

    def image_size(self, index):
        rows, columns = self._labels[index].shape
        return 2 * rows, 2 * columns + index

    def labels(self, index):
        return self._labels[index]

    def has_labels(self, index):
        return index != 2

    def fingerprint(self):
        return "0"


def written(data, path):
    write_broden(data, path)
    return BrodenDataset(path)


def assert_equal(found, data):
    """Images, labels, concepts, categories and splits."""
    assert len(found) == len(data)
    concepts, expected = found.concepts, data.concepts
    assert (concepts.name, concepts.category_name) == (expected.name, expected.category_name)
    for name in ("number", "category", "ignore"):
        assert_array_equal(getattr(concepts, name), getattr(expected, name), err_msg=name)
    for i in range(len(data)):
        assert_array_equal(found.image(i), data.image(i))
        assert found.image_size(i) == data.image_size(i) and found.split(i) == data.split(i)
        assert found.has_labels(i) == data.has_labels(i)
        first, second = found.labels(i), data.labels(i)
        assert first.shape == second.shape and first.whole == second.whole
        assert [g for g, _ in first.layers] == [g for g, _ in second.layers]
        for (_, layer), (_, other) in zip(first.layers, second.layers, strict=True):
            assert_array_equal(layer, other)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_small_set_comes_back(tmp_path):
    found = written(Small(), tmp_path / "new" / "folder")
    assert_equal(found, Small())
    assert tuple(found.names) == ("a.png", "sub/b.png", "c.PNG")
    assert not (tmp_path / "new" / "folder" / "facts.json").exists()


def test_a_name_of_any_other_kind_is_kept(tmp_path):
    names = ("Größe, 1", "deep/er/..png", 'quo"te.PNG')
    found = written(Small(names), tmp_path)
    assert tuple(found.names) == ("Größe, 1.png", "deep/er/..png", 'quo"te.PNG')
    assert_equal(found, Small(names))


@pytest.mark.parametrize("names, categories", [(("a.png", "a.PNG", "d"), ("object", "scene", "part")),
                                               (("a", "a_b", "d"), ("b_object", "scene", "object"))])  # fmt: skip
def test_label_maps_of_alike_names_are_kept_apart(tmp_path, names, categories):
    data = Small(names, categories)
    if categories[0] == "b_object":  # a_b_object_0.png: `b_object` of image `a`, `object` of image `a_b`
        second = data.labels(1)
        data._labels[1] = replace(second, layers=((2, np.full((3, 3), 255, np.uint16)),))
    assert_equal(written(data, tmp_path), data)


def test_the_scenes_come_back_with_their_facts(tmp_path):
    data = SyntheticScenes(64, size=32)  # the last has no labels
    found = written(data, tmp_path)
    assert_equal(found, data)
    assert tuple(found.names) == data.names
    facts = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    assert facts == data.planted_facts()
    listed = {row["name"]: row for row in rows_of(tmp_path / "label.csv")}
    for told in facts["concepts"]:
        row = listed[told["name"]]
        assert int(row["frequency"]) == told["images"]
        assert float(row["coverage"]) == pytest.approx(told["pixels"] / 256, rel=1e-9)  # sums of up to 64 shares


def test_twice_gives_the_same_bytes_and_fingerprint(tmp_path):
    for name in ("first", "second"):
        write_broden(SyntheticScenes(3, size=32), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(files) > 15
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file
    assert BrodenDataset(tmp_path / "first").fingerprint() == BrodenDataset(tmp_path / "second").fingerprint()


def test_written_again_from_what_was_read(tmp_path):
    write_broden(written(Small(), tmp_path / "first"), tmp_path / "second")
    assert_equal(BrodenDataset(tmp_path / "second"), Small())
    for name in ("label.csv", "category.csv", "index.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_tables_count_a_pixel_once(tmp_path):
    write_broden(Small(), tmp_path)
    labels = {int(row["number"]): row for row in rows_of(tmp_path / "label.csv")}
    cat = labels[1]  # 4 + 4 columns of two layers: 8 + 12 - 4 of 24 pixels; and at every pixel of the second image
    assert float(cat["coverage"]) == pytest.approx(16 / 24 + 1) and cat["frequency"] == "2"
    assert cat["category"] == "object(1);scene(1)"
    assert float(labels[2]["coverage"]) == 1.0 and labels[2]["name"] == 'a "quoted", name'
    assert float(labels[255]["coverage"]) == pytest.approx((6 + 1) / 24)
    assert labels[256]["frequency"] == "0" and float(labels[256]["coverage"]) == 0
    objects = {int(row["number"]): row for row in rows_of(tmp_path / "c_object.csv")}
    assert set(objects) == {1, 2, 255, 256}
    assert float(objects[1]["coverage"]) == pytest.approx(16 / 24) and objects[1]["frequency"] == "1"
    assert float(objects[255]["coverage"]) == pytest.approx(1 / 24)
    categories = {row["name"]: row for row in rows_of(tmp_path / "category.csv")}
    assert [categories[name]["frequency"] for name in ("object", "scene", "part")] == ["2", "2", "1"]
    assert categories["object"]["ignore"] == "2"


# Refusals


@pytest.mark.parametrize(
    "name", ["b;c", "../b", "x/../b", "x//b", "/b", " b.png", "b\n", "b\0", "a", "a.png", "labels/b", "../"]
)
def test_names_that_cannot_be_written_are_refused(tmp_path, name):
    """`a` becomes `a.png`, which is taken."""
    with pytest.raises(BadInput, match="image: got '"):
        write_broden(Small(("a", name, "d")), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()), "refused before anything is written"


@pytest.mark.parametrize("category", ["", "a/b", "a\\b", "a;b", "a\0", " a"])
def test_categories_that_cannot_be_written_are_refused(tmp_path, category):
    with pytest.raises(BadInput, match="category"):
        write_broden(Small(categories=(category, "scene", "part")), tmp_path)


def test_a_directory_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(BadInput, match="new or empty directory"):
        write_broden(Small(), tmp_path)
    with pytest.raises(BadInput, match="a file has this name"):
        write_broden(Small(), tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine").read_text() == "kept"


def test_a_directory_that_cannot_be_made_is_a_storage_failure(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailure, match="file"):
        write_broden(Small(), tmp_path / "file" / "out")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_an_interrupted_write_is_no_dataset(tmp_path):
    class Breaking(Small):
        def image(self, index):
            if index == 2:
                raise OSError(28, "No space left on device", "c.png")
            return super().image(index)

    with pytest.raises(StorageFailure, match=r"c\.png: No space left"):
        write_broden(Breaking(), tmp_path)
    assert not (tmp_path / "images").exists()
    with pytest.raises(BadInput, match=r"index\.csv"):
        open_dataset(tmp_path)
    whole = tmp_path / "whole"
    write_broden(Small(), whole)
    (whole / "index.csv").unlink()  # and not a folder of pictures, among them the label maps
    with pytest.raises(BadInput, match=r"no index\.csv: it is cut short"):
        open_dataset(whole)


def test_a_set_without_labels(tmp_path):
    class Bare(Small):
        def labels(self, index):
            return replace(super().labels(index), layers=(), whole=())

        def has_labels(self, index):
            return False

    found = written(Bare(), tmp_path)
    assert found.concepts.name == Bare().concepts.name
    assert [found.labels(i) for i in range(3)] == [ImageLabels(shape, (), ()) for shape in ((4, 6), (3, 3), (5, 2))]
