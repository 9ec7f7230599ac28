"""Labels from callables: what they may be and return, how their maps join a dataset's own, and what is refused."""

import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from streamdissect import open_dataset
from streamdissect.data.dataset import Dataset, ImageLabels
from streamdissect.data.labellers import open_labellers, split_commas
from streamdissect.data.labelling import LabelledDataset, base_of, join_concepts, label_dataset, labellers_of
from streamdissect.data.synthetic import SyntheticScenes
from streamdissect.errors import BadInput, StorageFailure

CODE = """\
import numpy as np
from sibling import SHIFT


class Halves:
    concepts = {"side": ["left", "right"], "bright": {3: "dim", 7: "lit"}}
    batch = 3

    def __init__(self, rows=4, columns=4):
        self.size = rows, columns

    def __call__(self, images):
        n = len(images)
        side = np.full((n, *self.size), 2, np.uint16)
        side[:, :, : self.size[1] // 2] = 1
        lit = np.where(images.mean((1, 2, 3)) > 127, 7, 3).astype(np.int64)
        return {"bright": np.broadcast_to(lit[:, None, None, None], (n, 2, 2, 2)), "side": side}


def build(rows=2):
    return Halves(rows, 2)


def whole(images):
    return {"all": np.ones((len(images), 1, 3, 5), np.uint16)}


whole.concepts = {"all": ["everything"]}
instance = Halves()
NUMBER = 5


def broken():
    raise RuntimeError("no luck")


def forgot(images):
    return {}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory, the current one, with halves.py and its sibling."""
    (tmp_path / "halves.py").write_text(CODE)
    (tmp_path / "sibling.py").write_text("SHIFT = 0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("halves", "sibling"):
        sys.modules.pop(name, None)


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of two sizes, one size not after the other, of the given brightness."""
    path = tmp_path / "photos"
    path.mkdir()
    for i, (rows, columns) in enumerate([(6, 8), (10, 4), (6, 8), (6, 8), (10, 4), (6, 8), (6, 8)]):
        Image.fromarray(np.full((rows, columns, 3), 30 * i, np.uint8)).save(path / f"{i}.png")
    return path


class Made:
    """A labeller that returns what it is told to; `calls` are the shapes it saw."""

    version = "1"

    def __init__(self, answer, concepts=None, batch=8):
        self.answer, self.concepts, self.batch = answer, concepts or {"a": ["x", "y"]}, batch
        self.calls = []

    def __call__(self, images):
        self.calls.append(images.shape)
        return self.answer(images) if callable(self.answer) else self.answer


def refusal(function, *words):
    with pytest.raises(BadInput) as caught:
        function()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_numbers_move_above_the_datasets_and_maps_take_its_size(folder):
    base = SyntheticScenes(5, size=32)
    data = open_dataset(base.spec, "halves.py:Halves")
    top = int(base.concepts.number.max())
    assert data.concepts.category_name == (*base.concepts.category_name, "side", "bright")
    assert data.concepts.name == (*base.concepts.name, "left", "right", "dim", "lit")
    assert data.concepts.number.tolist() == [*base.concepts.number.tolist(), *(top + i for i in (1, 2, 5, 9))]
    assert data.concepts.category.tolist()[-4:] == [5, 5, 6, 6] and len(data.concepts.ignore) == 7
    for index in range(5):
        own, found = base.labels(index), data.labels(index)
        assert found.shape == own.shape == (16, 16) and found.whole == own.whole
        for (g, layer), (h, other) in zip(own.layers, found.layers[: len(own.layers)], strict=True):
            assert g == h
            assert_array_equal(layer, other)
        added = found.layers[len(own.layers) :]
        assert [g for g, _ in added] == [5, 6, 6], "in the order of the concepts, not of what was returned"
        side = np.repeat([[top + 1, top + 2]], 8, axis=1).repeat(16, axis=0)
        assert_array_equal(added[0][1], side)
        number = top + 2 + (7 if base.image(index).mean() > 127 else 3)
        assert all((layer == number).all() and layer.dtype == np.uint16 for _, layer in added[1:])
    assert data.has_labels(0) and len(data) == 5 and data.spec == base.spec and data.image_size(0) == (32, 32)
    assert_array_equal(data.image(3), base.image(3))
    assert data.encoded(3) == base.encoded(3) and data.split(3) == base.split(3) == "val"
    assert base_of(data).fingerprint() == base.fingerprint() != data.fingerprint()


def test_without_labels_of_its_own_the_first_map_gives_the_size(photos):
    def answer(images):
        n, rows, columns, _ = images.shape
        return {"b": np.full((n, rows, columns), 1), "a": np.full((n, 1, 3, 2), 2)}

    data = label_dataset(open_dataset(photos), Made(answer, {"a": ["x", "y"], "b": ["z"]}))
    for index in range(len(data)):
        labels = data.labels(index)
        assert labels.shape == (3, 2) and [g for g, _ in labels.layers] == [0, 1]
        assert (labels.layers[0][1] == 2).all() and (labels.layers[1][1] == 3).all()


def test_an_image_without_layers_of_a_labelled_set_keeps_the_sets_size(folder):
    base = SyntheticScenes(64, size=32)
    assert not base.labels(63).layers
    assert open_dataset(base.spec, "halves.py:Halves").labels(63).shape == (16, 16)


@given(st.tuples(*[st.integers(1, 12)] * 4))
def test_maps_are_resampled_at_pixel_centres(sizes):
    rows, columns, wide_rows, wide_columns = sizes
    numbers = np.arange(1, rows * columns + 1, dtype=np.uint16).reshape(rows, columns)

    class Base(SyntheticScenes):
        def labels(self, index):
            return ImageLabels((wide_rows, wide_columns), (), ())

    answer = {"n": numbers[None]}
    data = LabelledDataset(Base(1, size=32), open_labellers(Made(answer, {"n": dict.fromkeys(range(1, 145), "x")})))
    ((_, found),) = data.labels(0).layers
    above = int(Base(1).concepts.number.max())
    for i in range(wide_rows):
        for j in range(wide_columns):
            centre = int((i + 0.5) / wide_rows * rows + 1e-9), int((j + 0.5) / wide_columns * columns + 1e-9)
            assert found[i, j] == numbers[centre] + above


def test_images_of_one_size_go_together_and_answers_find_their_images(photos):
    def answer(images):
        return {"a": images[:, :2, :3, 0] // 30 + 1}

    labeller = Made(answer, {"a": [f"level {i}" for i in range(7)]}, batch=2)
    data = label_dataset(open_dataset(photos), labeller)
    assert data.label_batch == 2
    order = [6, 1, 0, 3, 4, 2, 5]
    found = data.labels_of(order)
    assert [int(labels.layers[0][1][0, 0]) for labels in found] == [i + 1 for i in order]
    assert labeller.calls == [(2, 6, 8, 3), (2, 6, 8, 3), (1, 6, 8, 3), (2, 10, 4, 3)]


def test_a_labeller_that_scribbles_on_its_images_spoils_no_other(photos):
    def scribble(images):
        images[:] = 255
        return {"a": np.ones((len(images), 2, 2), np.uint8)}

    reader = Made(lambda images: {"b": images[:, :1, :1, 0] // 30 + 1}, {"b": [str(i) for i in range(9)]})
    data = label_dataset(open_dataset(photos), [Made(scribble), reader])
    assert [int(data.labels(i).layers[1][1][0, 0]) - 2 for i in range(7)] == [1, 2, 3, 4, 5, 6, 7]


def test_left_out_categories_and_no_layers_are_no_labels(photos):
    for answer in ({}, {"a": np.zeros((1, 0, 4, 4), np.uint16)}):
        labels = label_dataset(open_dataset(photos), Made(answer)).labels(0)
        assert labels.layers == () and labels.shape == (6, 8)


@pytest.mark.parametrize(
    "answer, words",
    [
        ([], ["returned a list", "{category: array}"]),
        ({"c": np.ones((1, 1, 2, 2))}, ["category 'c'", "those of its concepts: a"]),
        ({"a": np.ones((1, 1, 2, 2))}, ["category 'a'", "float64", "uint16"]),
        ({"a": np.ones((1, 1, 2, 2), bool)}, ["bool"]),
        ({"a": np.ones((2, 1, 2, 2), int)}, ["array (2, 1, 2, 2)", "(1, layers, rows, columns)"]),
        ({"a": np.ones((2, 2), int)}, ["array (2, 2)"]),
        ({"a": np.ones((1, 1, 1, 2, 2), int)}, ["array (1, 1, 1, 2, 2)"]),
        ({"a": np.ones((1, 1, 0, 2), int)}, ["array (1, 1, 0, 2)"]),
        ({"a": np.full((1, 2, 2), 3)}, ["label number 3 on 0.png", "up to 2"]),
        ({"a": np.full((1, 2, 2), -1)}, ["label number -1"]),
        ({"a": np.full((1, 2, 2), 65537)}, ["label number 65537"]),
        ({"a": np.full((1, 2, 2), 2**64 - 1, np.uint64)}, ["label number 18446744073709551615"]),
        ({"a": "text"}, ["<U4"]),
        ({"a": [[1], [1, 2]]}, ["a list that is no array", "ValueError"]),
        (lambda images: {}[images.shape], ["raised KeyError", "on 0.png", "a callable that succeeds"]),
    ],
)
def test_wrong_answers_name_the_labeller_and_what_was_expected(answer, words, photos):
    data = label_dataset(open_dataset(photos), Made(answer))
    refusal(lambda: data.labels(0), "labels: got 'python:", "Made'", *words)


@pytest.mark.parametrize("error", [StorageFailure("disk"), MemoryError(), KeyboardInterrupt()])
def test_errors_that_are_not_the_labellers_pass(error, photos):
    def answer(images):
        raise error

    with pytest.raises(type(error)):
        label_dataset(open_dataset(photos), Made(answer)).labels(0)


def test_arrays_of_torch_serve(photos):
    import torch

    data = label_dataset(open_dataset(photos), Made(lambda images: {"a": torch.ones(len(images), 1, 2, 2).long()}))
    assert (data.labels(0).layers[0][1] == 1).all()
    needs_grad = {"a": torch.ones(1, 2, 2, requires_grad=True)}
    refusal(lambda: label_dataset(open_dataset(photos), Made(needs_grad)).labels(0), "a Tensor that is no array")


@pytest.mark.parametrize(
    "concepts, words",
    [
        (["x"], ["concepts = {category:"]),
        ({"a": []}, ["category 'a'", "names, at least one"]),
        ({"a": "red"}, ["names, at least one"]),
        ({"a": [""]}, ["names, at least one"]),
        ({"a": {"1": "x"}}, ["names, at least one"]),
        ({"a": {0: "x"}}, ["numbers from 1 to 65535"]),
        ({"a": {True: "x"}}, ["numbers from 1"]),
        ({"a": {70000: "x"}}, ["number 70000"]),
        ({"a/b": ["x"]}, ["'a/b'", "without slashes"]),
        ({3: ["x"]}, ["category 3"]),
    ],
)
def test_wrong_concepts(concepts, words):
    refusal(lambda: open_labellers(Made({}, concepts)), *words)


@pytest.mark.parametrize("batch", [0, -1, 2.5, "8", True])
def test_wrong_batch(batch):
    refusal(lambda: open_labellers(Made({}, batch=batch)), "`batch`", "a whole number from 1")


def test_every_way_to_name_one(folder):
    for text in ("halves.py:Halves", "halves:Halves", "halves.py:instance", "halves:build?rows=3", "halves:whole"):
        (labeller,) = open_labellers(text)
        expected = f"{folder}/{text}" if text.startswith("halves.py") else text
        assert labeller.spec == expected
        assert labeller.batch == (3 if "whole" not in text else 8)
    two = open_labellers("halves.py:Halves?rows=2&columns=6, colors?category=tone")
    assert [list(labeller.concepts) for labeller in two] == [["side", "bright"], ["tone"]]
    image = np.zeros((1, 8, 8, 3), np.uint8)
    assert two[0].label(image, ["x"])["side"].shape == (1, 1, 2, 6)
    assert two[1].label(image, ["x"])["tone"].shape == (1, 1, 4, 4)
    assert open_labellers("none") == () == open_labellers([])
    assert [labeller.spec for labeller in open_labellers(["colors"])] == ["colors"]


def test_commas_within_arguments_separate_nothing():
    assert split_commas("a:b?x=(1,2),c.py:d?y='p,q'&z=[3,4], colors,") == [
        "a:b?x=(1,2)",
        "c.py:d?y='p,q'&z=[3,4]",
        "colors",
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("color", ["'color'", "nearest is 'colors'"]),
        ("halves", ["module:callable", "put a colon"]),
        ("nope", ["module:callable", "or none; put a colon"]),
        ("halvs:Halves", ["nearest", "'halves'"]),
        ("halvs.py:Halves", ["halvs.py", "'halves.py'"]),
        ("halves:Halvs", ["'Halvs'", "'Halves'"]),
        ("halves:NUMBER", ["`concepts`", "'NUMBER' is an int"]),
        ("halves:broken", ["RuntimeError: no luck"]),
        ("halves:forgot", ["no attribute `concepts`", "set concepts ="]),
        ("halves:instance?rows=2", ["leave out what follows '?'"]),
        ("halves:Halves?height=2", ["height", "check the arguments"]),
        ("halves:Halves?rows", ["?key=value"]),
        ("colors?kind=2", ["kind"]),
        ("colors?category=a/b", ["'a/b'"]),
        ("colors,none", ["none alone"]),
        ("python:halves.Halves", ["given as an object", "labels="]),
        ("collections:OrderedDict", ["returned an OrderedDict", "concepts"]),
    ],
)
def test_what_names_none(text, words, folder):
    refusal(lambda: open_labellers(text), "labels: got", *words)


def test_objects_that_nothing_tells_apart_are_refused():
    class Nameless:
        concepts = property(lambda self: {"a": ["x"]})

        def __call__(self, images):
            return {}

    refusal(lambda: open_labellers(Nameless()), "without an attribute `version`")
    refusal(lambda: open_labellers(Nameless), "without an attribute `version`")
    refusal(lambda: open_labellers(partial(Nameless)), "without an attribute `version`")
    refusal(lambda: open_labellers(3), "an int")
    refusal(lambda: open_labellers([3]), "an int")
    labeller = Nameless()
    labeller.version = ["a list"]
    refusal(lambda: open_labellers(labeller), "`version` is a list")
    digests = []
    for labeller.version in ("1", "2", 3):
        digests += [each.digest for each in open_labellers(labeller)]
    assert len(set(digests)) == 3


def test_a_category_twice_and_how_to_rename_it(folder):
    refusal(lambda: open_dataset("synth", "colors"), "category 'color' is there already", "colors?category=NAME")
    refusal(lambda: open_dataset("synth", "halves.py:Halves,halves.py:build"), "category 'side'", "rename it")
    assert open_dataset("synth", "colors?category=tone").concepts.category_name[-1] == "tone"


def test_too_many_numbers():
    base = SyntheticScenes(1)
    (labeller,) = open_labellers(Made({}, {"a": {65535: "x"}}))
    refusal(lambda: join_concepts(base.concepts, [labeller]), "at most 65535")
    room = 65535 - int(base.concepts.number.max())
    (labeller,) = open_labellers(Made({"a": np.full((1, 2, 2), room)}, {"a": {room: "x"}}))
    data = LabelledDataset(base, [labeller])
    assert (data.labels(0).layers[-1][1] == 65535).all()


def test_other_labels_replace_those_of_labellers_alone(folder):
    data = open_dataset("synth:?n=2", "halves.py:Halves")
    other = label_dataset(data, "colors?category=tone")
    assert [labeller.spec for labeller in labellers_of(other)] == ["colors?category=tone"]
    assert other.concepts.category_name[-1] == "tone" and "side" not in other.concepts.category_name
    assert label_dataset(data, "none") is base_of(data) and label_dataset(data, None) is data
    both = LabelledDataset(data, open_labellers("colors?category=tone"))
    assert both.concepts.category_name[-3:] == ("side", "bright", "tone") and not isinstance(both.base, LabelledDataset)


def test_the_fingerprint_changes_with_code_version_arguments_and_images(folder):
    def fingerprint(labels="halves.py:Halves", spec="synth:?n=2"):
        return open_dataset(spec, labels).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    others = [fingerprint("halves.py:Halves?rows=2"), fingerprint(spec="synth:?n=3"), fingerprint("halves.py:build")]
    (folder / "halves.py").write_text(CODE + "# another\n")
    others.append(fingerprint())
    (folder / "halves.py").write_text(CODE.replace("    batch = 3", "    batch = 3\n    version = 7"))
    others.append(fingerprint())
    assert len({first, *others}) == 6


SCRIPT = """
import pickle, sys, threading
with open(sys.argv[1], "rb") as file:
    data = pickle.load(file)
assert "halves" not in str(list(sys.modules))
labels = data.labels_of([0, 1])
print([int(layer.sum()) for each in labels for _, layer in each.layers], data.fingerprint())
"""


def run_elsewhere(path, cwd):
    return subprocess.run([sys.executable, "-c", SCRIPT, str(path)], cwd=cwd, capture_output=True, text=True)


def test_another_process_loads_it_anew_and_refuses_another_code(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    data = open_dataset("synth:?n=2&size=32", "halves.py:Halves?columns=8,colors?category=tone")
    expected = [int(layer.sum()) for each in data.labels_of([0, 1]) for _, layer in each.layers]
    (elsewhere / "data.pickle").write_bytes(pickle.dumps(data))
    done = run_elsewhere("data.pickle", elsewhere)
    assert done.stdout.strip() == f"{expected} {data.fingerprint()}", done.stderr
    (folder / "halves.py").write_text(CODE.replace("> 127", "> 0"))
    done = run_elsewhere("data.pickle", elsewhere)
    assert done.returncode and "which is not what it was" in done.stderr


def test_a_labeller_hears_of_one_batch_at_a_time(photos):
    busy, most = [0], []
    guard = threading.Lock()

    def answer(images):
        with guard:
            busy[0] += 1
            most.append(busy[0])
        time.sleep(0.002)
        with guard:
            busy[0] -= 1
        return {"a": np.ones((len(images), 2, 2), np.uint8)}

    data: Dataset = label_dataset(open_dataset(photos), Made(answer))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(data.labels, [i % 7 for i in range(40)]))
    assert len(most) == 40 and max(most) == 1


def test_a_file_that_changes_twice_in_a_second_is_read_twice(folder):
    """And leaves no bytecode beside itself."""
    path = folder / "quick.py"
    for name in ("one", "two", "six"):
        path.write_text(f"def label(images): return {{}}\nlabel.concepts = {{'a': ['{name}']}}\n")
        assert open_labellers("quick.py:label")[0].concepts == {"a": {1: name}}
    assert not (folder / "__pycache__").exists()


LATE = """\
import numpy as np
from sibling import SHIFT
class Columns:
    def __init__(self, category="c"): self.concepts = {category: ["left"]}
    def __call__(self, images):
        import late
        maps = np.zeros((len(images), 16, 16), np.uint16)
        maps[:, :, : SHIFT * late.FACTOR] = 1
        return {category: maps for category in self.concepts}
"""


def test_labellers_have_files_of_one_name_beside_them_and_import_late(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, shift in (("one", 2), ("two", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text(LATE)
        (tmp_path / name / "sibling.py").write_text(f"SHIFT = {shift}\n")
    (tmp_path / "one" / "late.py").write_text("FACTOR = 2\n")
    one, two = open_labellers([f"{tmp_path}/one/code.py:Columns", f"{tmp_path}/two/code.py:Columns?category=d"])
    image = np.zeros((1, 8, 8, 3), np.uint8)
    assert int(one.label(image, ["x"])["c"].sum()) == 16 * 4
    assert int(two.label(image, ["x"])["d"].sum()) == 16 * 6
    for name in ("sibling", "late"):
        sys.modules.pop(name, None)


def test_a_labellers_module_that_was_edited_is_refused(folder):
    assert open_labellers("halves:Halves")
    (folder / "halves.py").write_text(CODE.replace("> 127", "> 0"))
    refusal(lambda: open_labellers("halves:Halves"), "labels: got 'halves:Halves'", "was edited", "start Python anew")
    refusal(lambda: open_labellers("halves:instance"), "was edited")
    assert open_labellers("halves.py:Halves"), "a file is read anew"
