"""The drawn scenes: the same everywhere, labelled exactly, and what their docstring promises."""

import doctest
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect.data import synthetic
from streamdissect.data.canvas import GROUP_OF, GROUPS, PARTS, TEXTURES, THINGS
from streamdissect.data.opening import open_dataset
from streamdissect.data.scenes import SCENES
from streamdissect.data.synthetic import CATEGORIES, COLORS, SyntheticScenes
from streamdissect.errors import BadInput

OBJECT, PART, COLOR, TEXTURE, SCENE = range(5)
N = 64
"""Long enough for an image without labels, the last."""


@pytest.fixture(scope="module")
def scenes():
    return SyntheticScenes(N)


@pytest.fixture(scope="module")
def labels(scenes):
    return [scenes.labels(i) for i in range(N)]


@pytest.fixture(scope="module")
def facts(scenes):
    return scenes.planted_facts()


def content(data, index):
    """All that is stored of an image, comparable."""
    labels = data.labels(index)
    return (
        data.image(index).tobytes(),
        labels.shape,
        [(g, layer.tobytes()) for g, layer in labels.layers],
        labels.whole,
    )


def names_by_number(data):
    return dict(zip(data.concepts.number.tolist(), data.concepts.name, strict=True))


# The same everywhere


def test_an_image_depends_on_seed_and_index_alone(scenes):
    longer, other = SyntheticScenes(1000), SyntheticScenes(N, seed=1)
    for index in (5, 0, 63, 5):
        assert content(longer, index) == content(scenes, index) == content(SyntheticScenes(index + 1), index)
        assert content(other, index) != content(scenes, index)
    assert content(scenes, 1) != content(scenes, 2)


def test_another_process_draws_the_same(scenes):
    code = (
        "from hashlib import blake2b; from streamdissect.data.synthetic import SyntheticScenes as S; s = S(9);"
        "print(blake2b(s.image(7).tobytes() + s.labels(7).layers[0][1].tobytes()).hexdigest(), s.fingerprint())"
    )
    out = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                       capture_output=True, text=True).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert out[0] == out[1] and SyntheticScenes(9).fingerprint() in out[0]


def test_pickled(scenes):
    copy = pickle.loads(pickle.dumps(scenes))
    assert content(copy, 3) == content(scenes, 3) and copy.fingerprint() == scenes.fingerprint()


def test_what_is_returned_may_be_written(scenes):
    before = content(scenes, 4)
    scenes.image(4)[...] = 0
    for _, layer in scenes.labels(4).layers:
        layer[...] = 0
    assert content(scenes, 4) == before


def test_the_fingerprint_tells_seeds_sizes_and_lengths_apart():
    sets = [SyntheticScenes(4), SyntheticScenes(5), SyntheticScenes(4, 1), SyntheticScenes(4, 0, 64)]
    assert len({data.fingerprint() for data in sets}) == 4
    assert SyntheticScenes(4).fingerprint() == sets[0].fingerprint()


# Promises


def test_the_example():
    assert doctest.testmod(synthetic).failed == 0


@pytest.mark.parametrize("size", [32, 50, 112])
def test_shapes(size):
    data = SyntheticScenes(3, size=size)
    image, labels = data.image(2), data.labels(2)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert data.image_size(2) == (size, size) and labels.shape == (size // 2, size // 2)
    assert all(layer.shape == labels.shape and layer.dtype == np.uint16 for _, layer in labels.layers)
    assert image.std() > 10, "something is drawn"


def test_names_splits_and_concepts(scenes):
    assert len(scenes) == len(set(scenes.names)) == N
    assert [scenes.split(i) for i in range(8)] == ["train", "train", "train", "val"] * 2
    concepts = scenes.concepts
    assert concepts.category_name == CATEGORIES and not concepts.ignore.any()
    assert (np.diff(concepts.number) > 0).all() and concepts.number[0] == 1
    assert (np.diff(concepts.number) > 1).any(), "gaps, as in real sets"
    assert len(concepts) == len(set(concepts.name)) == len(THINGS | GROUPS | PARTS | COLORS | TEXTURES | SCENES)
    for table, g in ((THINGS, OBJECT), (GROUPS, OBJECT), (PARTS, PART), (COLORS, COLOR), (TEXTURES, TEXTURE),
                     (SCENES, SCENE)):  # fmt: skip
        for name, number in table.items():
            column = concepts.name.index(name)
            assert (concepts.number[column], concepts.category[column]) == (number, g)


def test_layers(scenes, labels):
    for i, image in enumerate(labels):
        categories = [g for g, _ in image.layers]
        if i % 64 == 63:
            assert not scenes.has_labels(i) and image.layers == image.whole == ()
            continue
        assert scenes.has_labels(i)
        assert categories == sorted(categories) and categories[:2] == [OBJECT, OBJECT]
        assert categories.count(PART) <= 1 and categories.count(TEXTURE) <= 1
        assert categories.count(COLOR) == (i % 3 != 2)
        assert all(layer.any() for g, layer in image.layers if g in (PART, TEXTURE))
        assert [g for g, _ in image.whole].count(SCENE) == (i % 7 != 3)
        assert all(n in SCENES.values() if g == SCENE else n == TEXTURES["speckled"] for g, n in image.whole)
    whole = [g for image in labels for g, _ in image.whole]
    assert TEXTURE in whole, "some texture holds at every pixel"
    assert any(TEXTURE not in [g for g, _ in image.layers] for image in labels[:-1])


def test_labels_stand_in_their_category(scenes, labels):
    number, category = scenes.concepts.number, scenes.concepts.category
    home = dict(zip(number.tolist(), category.tolist(), strict=True))
    for image in labels:
        for g, layer in image.layers:
            assert {home[n] for n in np.unique(layer[layer > 0]).tolist()} <= {g}
        assert all(home[n] == g for g, n in image.whole)


def test_every_pixel_has_a_thing_and_groups_follow_things(scenes, labels):
    name_of = names_by_number(scenes)
    for image in labels[:-1]:
        (_, thing), (_, group) = image.layers[:2]
        assert thing.all(), "nothing is left unpainted"
        for number in np.unique(thing).tolist():
            expected = GROUPS.get(GROUP_OF.get(name_of[number]), 0)
            assert set(np.unique(group[thing == number]).tolist()) == {expected}


def test_the_bird_is_the_animal(labels, facts):
    assert ["bird", "animal"] in facts["same_pixels"] or ["animal", "bird"] in facts["same_pixels"]
    seen = 0
    for image in labels[:-1]:
        (_, thing), (_, group) = image.layers[:2]
        assert_array_equal(thing == THINGS["bird"], group == GROUPS["animal"])
        seen += (thing == THINGS["bird"]).any()
    assert seen > 3


def test_parts_lie_in_the_things_that_have_them(scenes, labels):
    """A part painted over by another thing is gone."""
    wholes = {"wheel": {"car"}, "hull": {"boat"}, "sail": {"boat"}, "crown": {"tree"}, "chimney": {"house"},
              "basket": {"balloon"}, "snowcap": {"mountain"}, "stem": {"flower"}}  # fmt: skip
    name_of = names_by_number(scenes)
    seen = set()
    for image in labels[:-1]:
        thing = image.layers[0][1]
        for part in (layer for g, layer in image.layers if g == PART):
            for name in wholes:
                here = part == PARTS[name]
                if here.any():
                    seen.add(name)
                    assert {name_of[n] for n in np.unique(thing[here]).tolist()} <= wholes[name]
    assert seen == set(wholes)


def test_colors_are_named_as_they_look(scenes):
    """By the nearest tone of the mean of the four image pixels, computed here pixel by pixel."""
    layer = next(layer for g, layer in scenes.labels(0).layers if g == COLOR)
    image = scenes.image(0).astype(float)
    for y, x in np.random.default_rng(0).integers(0, 56, (60, 2)):
        mean = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, 3).mean(axis=0)
        distance = {name: min(np.linalg.norm(mean - tone) for tone in tones) for name, tones in synthetic.TONES.items()}
        name = {number: name for name, number in COLORS.items()}[int(layer[y, x])]
        assert distance[name] <= min(distance.values()) + 1e-9  # a tie may go either way


# Planted facts


def test_facts_equal_a_recount(scenes, labels, facts):
    concepts = scenes.concepts
    pixels, images = np.zeros(len(concepts), int), np.zeros(len(concepts), int)
    lacking = {name: [] for name in CATEGORIES}
    for i, image in enumerate(labels):
        stack = np.array([layer for _, layer in image.layers]).reshape(-1, *image.shape)
        area = {}
        for number, name in names_by_number(scenes).items():
            count = int((stack == number).any(axis=0).sum())
            if (CATEGORIES.index("scene"), number) in image.whole or (TEXTURE, number) in image.whole:
                count = 56 * 56
            if count:
                area[name] = count
        told = facts["images"][i]
        assert told["name"] == scenes.names[i] and told["pixels"] == area
        has = {CATEGORIES[concepts.category[concepts.name.index(name)]] for name in area}
        assert told["lacks"] == [name for name in CATEGORIES if name not in has]
        assert told["scene"] in SCENES and (told["scene"] in area) == ("scene" in has)
        for name in told["lacks"]:
            lacking[name].append(i)
        for name, count in area.items():
            pixels[concepts.name.index(name)] += count
            images[concepts.name.index(name)] += 1
    assert facts["lacking"] == lacking and facts["unlabelled"] == [63]
    assert lacking["color"] == [i for i in range(N) if i % 3 == 2 or i == 63]
    assert lacking["scene"] == [i for i in range(N) if i % 7 == 3 or i == 63]
    for j, told in enumerate(facts["concepts"]):
        judged = 56 * 56 * (N - len(lacking[told["category"]]))
        assert told == {
            "number": concepts.number[j], "name": concepts.name[j], "category": CATEGORIES[concepts.category[j]],
            "images": images[j], "pixels": pixels[j], "share": pixels[j] / judged if judged else 0,
        }  # fmt: skip


def test_contained_concepts_are_contained(labels, facts, scenes):
    number = dict(zip(scenes.concepts.name, scenes.concepts.number.tolist(), strict=True))
    assert ["wheel", "car"] in facts["contained"] and ["car", "vehicle"] in facts["contained"]
    for inner, outer in facts["contained"] + facts["same_pixels"]:
        for image in labels:
            stack = [layer for _, layer in image.layers]
            inside, around = (sum((layer == number[n] for layer in stack), np.zeros(image.shape)) > 0
                              for n in (inner, outer))  # fmt: skip
            assert (inside <= around).all() or (TEXTURE, number[outer]) in image.whole


def test_facts_are_ready_for_json(facts):
    assert json.loads(json.dumps(facts)) == facts
    assert facts["spec"] == f"synth:?n={N}&seed=0"
    assert facts["size"] == [112, 112] and facts["label_size"] == [56, 56]


def test_there_is_something_to_detect(facts):
    """Some concepts of every category are neither too rare nor too common for a mask of half a percent."""
    for category in CATEGORIES:
        shares = [told["share"] for told in facts["concepts"] if told["category"] == category]
        assert sum(0.0002 <= share <= 0.125 for share in shares) >= 1, category
    assert sum(told["images"] >= 3 for told in facts["concepts"]) > 50


# Specs and errors


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("synth", (256, 0, 112)),
        ("synth:?n=3", (3, 0, 112)),
        ("synth:?seed=18446744073709551615&n=2", (2, 2**64 - 1, 112)),
        ("synth:?size=64&n=2&seed=4", (2, 4, 64)),
    ],
)
def test_specs(spec, expected):
    data = open_dataset(spec)
    assert (len(data), data.seed, data.size) == expected
    assert content(open_dataset(data.spec), 1) == content(data, 1)
    assert open_dataset(data.spec).spec == data.spec


@pytest.mark.parametrize(
    "spec",
    ["synth:", "synth:?", "synth:n=3", "synth:?n", "synth:?n=", "synth:?n=x", "synth:?n=-1", "synth:?n=1.5",
     "synth:?n=3&n=4", "synth:?m=3", "synth:?n=3&", "synth:?n=²", "synth:?n=0", "synth:?n=10000001",
     "synth:?seed=18446744073709551616", "synth:?size=33", "synth:?size=30", "synth:?size=1026"],
)  # fmt: skip
def test_bad_specs_are_refused(spec):
    with pytest.raises(BadInput, match=r"^(data|synthetic scenes)"):
        open_dataset(spec)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"seed": -1}, {"size": 31}, {"size": 113}, {"size": 2048}])
def test_bad_numbers_are_refused(arguments):
    with pytest.raises(BadInput, match=next(iter(arguments))):
        SyntheticScenes(**arguments)


@pytest.mark.parametrize("ask", ["image", "labels", "image_size", "has_labels", "split"])
@pytest.mark.parametrize("index", [-1, 3])
def test_images_that_do_not_exist(ask, index):
    with pytest.raises(IndexError, match=f"image {index} of 3"):
        getattr(SyntheticScenes(3), ask)(index)
