"""A folder of pictures with label maps beside it."""

import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from streamdissect import BadInput, StorageFailure, open_dataset
from streamdissect.data.folder import FolderDataset

LABELS = "number,name,category\n1,cat,object\n2,dog,object\n3,ear,part\n"
OBJECT = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
PART = np.array([[3, 3, 0], [0, 0, 3]], np.uint8)


def grey(numbers):
    numbers = np.asarray(numbers)
    return Image.fromarray(numbers.astype(np.uint8 if numbers.max() < 256 else np.uint16))


def palette(numbers):
    image = Image.fromarray(np.asarray(numbers, np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())  # which makes it one
    return image


@pytest.fixture
def folder(tmp_path, picture):
    """Write a labelled folder; a value None leaves a file out."""

    def write(changes=()):
        files = {
            "labels.csv": LABELS,
            "images/train/a.jpg": picture(4, 6),
            "images/val/b.png": picture(4, 6),
            "images/c.webp": picture(5, 7),
            "labels/object/train/a.png": grey(OBJECT),
            "labels/part/train/a.png": grey(PART),
            "labels/object/val/b.png": grey(OBJECT.T),
        } | dict(changes)
        for path, content in files.items():
            target = tmp_path / "set" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                target.write_text(content)
            elif content is not None:
                content.save(target)
        return tmp_path / "set"

    return write


def layers_of(data, index):
    return {data.concepts.category_name[g]: layer.tolist() for g, layer in data.labels(index).layers}


def test_names_splits_concepts_and_labels(folder):
    data = open_dataset(folder())
    assert isinstance(data, FolderDataset)
    assert data.names == ("c.webp", "train/a.jpg", "val/b.png")
    assert [data.split(i) for i in range(3)] == ["", "train", "val"]
    assert data.concepts.number.tolist() == [1, 2, 3]
    assert data.concepts.name == ("cat", "dog", "ear")
    assert data.concepts.category_name == ("object", "part")
    assert data.concepts.category.tolist() == [0, 0, 1]
    assert layers_of(data, 1) == {"object": OBJECT.tolist(), "part": PART.tolist()}
    assert layers_of(data, 2) == {"object": OBJECT.T.tolist()}
    assert data.labels(1).shape == (2, 3) and data.labels(2).shape == (3, 2)
    assert [data.has_labels(i) for i in range(3)] == [False, True, True]
    empty = data.labels(0)
    assert empty.shape == data.image_size(0) == (5, 7) and not empty.layers and not empty.whole


def test_pictures_are_those_of_the_files(folder):
    data = open_dataset(folder())
    for i, name in enumerate(data.names):
        path = os.path.join(data.spec, "images", name)
        with Image.open(path) as image:
            assert_array_equal(data.image(i), np.asarray(image.convert("RGB")))
        with open(path, "rb") as file:
            assert data.encoded(i) == file.read()


@pytest.mark.parametrize("values", [[[0, 1], [2, 1]], [[0, 300], [300, 0]]], ids=["8 bit", "16 bit"])
def test_numbers_of_either_width(folder, values):
    table = LABELS + "300,bird,object\n"
    data = open_dataset(folder({"labels.csv": table, "labels/object/val/b.png": grey(values)}))
    assert layers_of(data, 2) == {"object": values}


def test_a_palette_stands_for_its_indices(folder):
    data = open_dataset(folder({"labels/object/val/b.png": palette(OBJECT)}))
    assert layers_of(data, 2) == {"object": OBJECT.tolist()}


def test_categories_may_each_count_from_one(folder):
    table = "number,name,category\n1,cat,object\n2,dog,object\n1,ear,part\n7,tail,part\n"
    part = np.array([[1, 7, 0], [0, 0, 1]])
    data = open_dataset(folder({"labels.csv": table, "labels/part/train/a.png": grey(part)}))
    assert data.concepts.number.tolist() == [1, 2, 3, 4]
    assert data.concepts.name == ("cat", "dog", "ear", "tail")
    assert data.concepts.category.tolist() == [0, 0, 1, 1]
    assert layers_of(data, 1) == {"object": OBJECT.tolist(), "part": [[3, 4, 0], [0, 0, 3]]}


def test_a_concept_may_stand_in_two_categories(folder):
    table = LABELS + "2,dog,part\n"
    data = open_dataset(folder({"labels.csv": table, "labels/part/train/a.png": grey(OBJECT * 2 % 3)}))
    assert data.concepts.name == ("cat", "dog", "ear")
    assert data.concepts.category.tolist() == [0, 1, 1]  # the later line is its home


def test_ignored_pixels(folder):
    table = "number,name,category,ignore\n1,cat,object,\n2,dog,object,0\n3,ear,part,\n255,void,object,1\n"
    data = open_dataset(folder({"labels.csv": table}))
    assert data.concepts.ignore.tolist() == [255, 0]
    assert data.concepts.name == ("cat", "dog", "ear", "void")


def test_pictures_alone_are_unlabelled(tmp_path, picture):
    (tmp_path / "sub").mkdir()
    picture(4, 4).save(tmp_path / "x.png")
    picture(4, 4).save(tmp_path / "sub" / "y.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    data = open_dataset(tmp_path)
    assert data.names == ("sub/y.PNG", "x.png")
    assert len(data.concepts) == 0 and not data.has_labels(0)


def test_a_link_may_stand_for_images(tmp_path, folder):
    made = folder()
    other = tmp_path / "other"
    other.mkdir()
    for name in ("images", "labels", "labels.csv"):
        (other / name).symlink_to(made / name)
    assert open_dataset(other).fingerprint() == open_dataset(made).fingerprint()


def test_the_fingerprint_follows_tables_names_and_sizes(folder, picture):
    first = open_dataset(folder()).fingerprint()
    assert open_dataset(folder()).fingerprint() == first
    changes = [
        {"labels.csv": LABELS.replace("1,cat", "1,puma")},
        {"labels.csv": LABELS, "labels/part/val/b.png": grey(PART.T)},
        {"images/c.webp": picture(8, 9)},
        {"images/d.jpg": picture(4, 4)},
    ]
    seen = {first}
    for change in changes:
        seen.add(open_dataset(folder(change)).fingerprint())
    assert len(seen) == len(changes) + 1


def test_it_can_be_pickled(folder):
    data = open_dataset(folder())
    again = pickle.loads(pickle.dumps(data))
    assert_array_equal(again.image(1), data.image(1))
    assert layers_of(again, 1) == layers_of(data, 1)


def test_hidden_files_are_no_data(folder):
    made = folder()
    (made / "images" / ".DS_Store").write_text("x")
    (made / "labels" / "object" / "._a.png").write_text("x")
    (made / "images" / ".cache").mkdir()
    (made / "images" / ".cache" / "z.png").write_text("x")
    assert len(open_dataset(made)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels.csv": None}, r"no file labels\.csv, expected a labelled folder.*number,name,category"),
        ({"labels.csv": "number,name\n1,cat\n"}, "a column 'category'"),
        ({"labels.csv": LABELS + "1,lion,object\n"}, "line 5: got number 1 of object again"),
        ({"labels.csv": LABELS + "x,lion,object\n"}, "line 5, column number: got 'x'"),
        ({"labels.csv": LABELS + "70000,lion,object\n"}, "whole number from 0 to 65535"),
        ({"labels.csv": LABELS + "9,lion,\n"}, "line 5, column category: got ''"),
        ({"labels.csv": LABELS + "9,lion,../x\n"}, "column category: got '../x', expected a name, without slashes"),
        ({"labels.csv": "number,name,category\n1,cat,object\n"}, "category 'part', expected one of the categories"),
        ({"labels/object/val/z.png": grey(OBJECT)}, "no picture of its name.*a picture images.val.z with one of"),
        ({"labels/object/val/b.jpg": grey(OBJECT)}, r"a label map \.jpg, expected a PNG"),
        ({"images/train/a.png": grey(OBJECT)}, r"train/a\.jpg and train/a\.png"),
        (
            {"labels.csv": "number,name,category,ignore\n1,a,object,1\n2,b,object,1\n3,e,part,\n"},
            "one ignored number in a category",
        ),
    ],
)
def test_what_is_wrong_is_named_when_it_is_opened(folder, change, message):
    with pytest.raises(BadInput, match=message):
        open_dataset(folder(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels/object/train/a.png": grey([[9, 1, 1], [1, 1, 1]])}, "label number 9, expected a number.*for object"),
        ({"labels/part/train/a.png": grey([[1, 1, 1], [1, 1, 1]])}, "label number 1, expected a number.*for part"),
        (
            {"labels/part/train/a.png": grey([[3, 3]])},
            "1 rows x 2 columns, expected 2 x 3, the size of the image.s label map object",
        ),
        (
            {"labels/object/train/a.png": grey(OBJECT).convert("RGB")},
            "an RGB picture with 8 bits, expected 8-bit greyscale or",
        ),
        ({"labels/object/train/a.png": "no png"}, "damaged content"),
    ],
)
def test_what_is_wrong_is_named_when_it_is_read(folder, change, message):
    data = open_dataset(folder(change))
    with pytest.raises(BadInput, match=message):
        data.labels(1)


def test_links_that_lead_out_are_refused(folder, tmp_path, picture):
    made = folder()
    picture(4, 4).save(tmp_path / "secret.png")
    (made / "images" / "d.png").symlink_to(tmp_path / "secret.png")
    data = open_dataset(made)
    with pytest.raises(BadInput, match="a path that stays below its folder"):
        data.image(data.names.index("d.png"))
    (made / "images" / "d.png").unlink()
    (made / "images" / "more").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="a link to a folder"):
        open_dataset(made)


def test_no_picture_at_all(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInput, match=r"no picture in .*images"):
        open_dataset(tmp_path)


def test_labels_without_images(tmp_path, folder):
    made = folder()
    (made / "images").rename(made / "pictures")
    with pytest.raises(BadInput, match="no images/"):
        open_dataset(made)
    with pytest.raises(BadInput, match="the directory holds one, set"):
        (made / "pictures").rename(made / "images")
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels.csv": "number,name,category,ignore\n1,cat,object,no\n2,d,object,\n3,e,part,\n"},
            "column ignore.*'no'",
        ),
        ({"labels.csv": "number;name;category\n1;cat;object\n"}, "separate the cells by commas"),
        ({"labels.csv": LABELS + "9" * 5000 + ",lion,object\n"}, "whole number from 0 to 65535"),
        ({"labels.csv": LABELS + "9,li\0on,object\n"}, "NUL"),
        ({"labels/object/train/a.PNG": grey(OBJECT)}, "one label map for each picture"),
    ],
)
def test_tables_and_files_that_would_be_misread(folder, change, message):
    with pytest.raises(BadInput, match=message):
        open_dataset(folder(change))


def test_what_cannot_be_listed_is_not_left_out(folder, monkeypatch):
    made = folder()
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("train"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StorageFailure, match="train: Permission denied"):
        open_dataset(made)
