"""The colour labeller: obvious colours, the size of its maps, the built-in scenes and photographs."""

from hashlib import blake2b

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from streamdissect import open_dataset
from streamdissect.data import colors
from streamdissect.data.colors import NAMES, ColorNames, color_table, halve, name_colors, rgb_to_lch
from streamdissect.data.labellers import open_labellers
from streamdissect.data.synthetic import TONES, SyntheticScenes

PATCHES = {
    "black": [(0, 0, 0), (12, 12, 14), (30, 28, 30), (14, 16, 30)],
    "blue": [(0, 0, 255), (20, 60, 160), (120, 180, 240), (0, 255, 255), (10, 20, 90), (70, 110, 150)],
    "brown": [(120, 72, 30), (90, 50, 20), (150, 110, 70), (60, 35, 15), (196, 160, 112)],
    "green": [(0, 255, 0), (30, 120, 40), (140, 190, 90), (20, 70, 40), (100, 110, 30), (170, 240, 190)],
    "grey": [(128, 128, 128), (90, 92, 98), (170, 172, 178), (200, 198, 194), (70, 70, 66)],
    "orange": [(255, 140, 0), (240, 120, 40), (200, 85, 10), (255, 170, 80)],
    "pink": [(255, 130, 190), (255, 190, 205), (230, 60, 140), (250, 128, 130), (240, 200, 205)],
    "purple": [(128, 0, 160), (90, 30, 110), (180, 120, 230), (150, 100, 170), (60, 10, 70)],
    "red": [(255, 0, 0), (200, 30, 40), (130, 10, 15), (220, 60, 50)],
    "white": [(255, 255, 255), (246, 246, 244), (255, 252, 240), (236, 240, 246)],
    "yellow": [(255, 255, 0), (250, 220, 60), (210, 180, 20), (255, 245, 170)],
}

DIGEST = "f45f97fc4721f0cc"


def named(image):
    """Names of the label map of one image."""
    return np.array(NAMES)[ColorNames()(image[None])["color"][0, 0] - 1]


@pytest.mark.parametrize("name", NAMES)
def test_patches_have_the_name_that_anybody_would_give(name):
    for patch in PATCHES[name]:
        assert named(np.full((2, 2, 3), patch, np.uint8)).item() == name, patch


def test_the_concepts_are_the_names():
    (labeller,) = open_labellers("colors")
    assert list(labeller.concepts) == ["color"]
    assert list(labeller.concepts["color"].values()) == list(TONES) == [f"{name}-c" for name in NAMES]
    assert set(np.unique(color_table())) == set(range(1, 12))


def test_a_pixel_of_the_map_is_the_mean_of_four():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    expected = images.reshape(3, 3, 2, 4, 2, 3).astype(int).sum((2, 4)) // 4
    assert_array_equal(halve(images), expected)
    half_white = np.zeros((2, 2, 3), np.uint8)
    half_white[0] = 255
    assert named(half_white).item() == "grey"


@pytest.mark.parametrize("rows, columns", [(1, 1), (1, 4), (5, 3), (7, 2)])
def test_odd_sizes_are_rounded_up(rows, columns):
    images = np.random.default_rng(1).integers(0, 256, (2, rows, columns, 3), np.uint8)
    found = halve(images)
    assert found.shape == (2, -(-rows // 2), -(-columns // 2), 3)
    for i, j in np.ndindex(found.shape[1:3]):
        block = images[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(2, -1, 3).astype(int)
        assert_array_equal(found[:, i, j], block.sum(1) // block.shape[1])
    assert ColorNames()(images)["color"].shape == (2, 1, *found.shape[1:3])


def test_the_largest_values_stay_in_range():
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    assert halve(white).max() == 255 and named(white[0]).item() == "white"


def test_the_table_is_the_same_on_every_machine():
    """Powers and arcs may differ in the last place: not one cell is so near a border that it would matter."""
    middle = (np.arange(32) + 0.5) * 8 - 0.5
    cells = np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), -1).reshape(-1, 3)
    lightness, chroma, hue = rgb_to_lch(cells)
    for dl, dc, dh in np.ndindex(3, 3, 3):
        moved = lightness + (dl - 1) * 1e-7, chroma + (dc - 1) * 1e-7, hue + (dh - 1) * 1e-7
        assert_array_equal(name_colors(*moved), color_table())
    greys = np.arange(32) * (1024 + 32 + 1)
    assert chroma[greys].max() < 1e-3  # what hue they have is noise
    assert set(np.array(NAMES)[color_table()[greys] - 1]) == {"black", "grey", "white"}
    digest = blake2b(color_table().astype("<u2").tobytes(), digest_size=8).hexdigest()
    assert (colors.VERSION, digest) == ("1", DIGEST), "another rule wants another VERSION"


def test_lightness_chroma_and_hue_of_known_colours():
    """Red, green, blue, white: the values that tables give for sRGB under D65."""
    lightness, chroma, hue = rgb_to_lch(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], float))
    np.testing.assert_allclose(lightness, [53.24, 87.73, 32.30, 100], atol=0.01)
    np.testing.assert_allclose(chroma, [104.55, 119.78, 133.81, 0], atol=0.02)
    np.testing.assert_allclose(hue[:3], [40.0, 136.0, 306.3], atol=0.05)


def agreement(pairs):
    """(11, 11) pixels by the other rule's name and ours."""
    counts = np.zeros((11, 11), np.int64)
    for theirs, ours in pairs:
        np.add.at(counts, (theirs, ours), 1)
    return counts


def test_most_of_the_built_in_scenes_agree():
    """Those name the nearest of a few tones, under tinted light. Clear: half as far as from any other name."""
    data = SyntheticScenes(60, seed=3)
    tones = np.array([tone for family in TONES.values() for tone in family])
    name_of = np.array([i for i, family in enumerate(TONES.values()) for _ in family])
    every, clear = [], []
    for index in range(60):
        image = data.image(index)
        distance = np.sqrt(((halve(image[None])[0][:, :, None].astype(int) - tones) ** 2).sum(-1))
        by_name = np.sort([distance[..., name_of == i].min(-1) for i in range(11)], axis=0)
        theirs = name_of[distance.argmin(-1)]
        ours = ColorNames()(image[None])["color"][0, 0].astype(int) - 1
        every.append((theirs, ours))
        is_clear = by_name[0] * 2 < by_name[1]
        clear.append((theirs[is_clear], ours[is_clear]))
    for pairs, least in ((every, 0.77), (clear, 0.92)):
        counts = agreement(pairs)
        assert counts.trace() / counts.sum() > least, counts


def test_most_of_the_photographs_agree(shared):
    """Road scenes whose colours were named by another rule, of hue, saturation and value."""
    path = shared / "data" / "camvid-broden"
    if not path.is_dir():
        pytest.skip("no photographs")
    data = open_dataset(path)
    category = data.concepts.category_name.index("color")
    number_of = {name: int(number) for number, name in zip(data.concepts.number, data.concepts.name, strict=True)}
    place = np.zeros(65536, int)
    for i, name in enumerate(NAMES):
        place[number_of[f"{name}-c"]] = i
    pairs = []
    for index in range(0, len(data), 15):
        for g, layer in data.labels(index).layers:
            if g == category:
                ours = ColorNames()(data.image(index)[None])["color"][0, 0].astype(int) - 1
                pairs.append((place[layer], ours))
    counts = agreement(pairs)
    assert counts.trace() / counts.sum() > 0.8, counts
