"""What is summed over images: one suite of laws for every tally."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdissect.measure.blocks import BlockTally
from streamdissect.measure.counters import Counters
from streamdissect.measure.planes import LabelRules, image_planes
from streamdissect.measure.topimages import TopImages
from streamdissect.measure.upsample import axis_weights
from streamdissect.quantile import BinnedTail, BufferedTail, Histogram, KllSketch, Moments, ReqSketch, tail_rank
from streamdissect.tally import Tally

N_UNITS, GRID, MASK = 3, (2, 3), (4, 5)
RULES = LabelRules(np.array([2, 5, 9], np.int32), np.array([0, 1, 0], np.int32), 2, np.zeros(2, np.int32))
WEIGHTS = {MASK: tuple(axis_weights("half_pixel", n, m, m) for n, m in zip(GRID, MASK, strict=True))}


def images(rows):
    """Maps (B, K, h, w) and labels of the images in these rows, the same for the same row."""
    rngs = [np.random.default_rng(row) for row in rows]
    maps = np.stack([np.round(rng.normal(size=(N_UNITS, *GRID)), 1) for rng in rngs]).astype(np.float32)
    labels = [rng.choice(np.array([0, 2, 5, 9], np.uint16), MASK) for rng in rngs]
    planes = [image_planes(MASK, [(0, layer)], [(1, 5)] if row % 2 else [], RULES)
              for row, layer in zip(rows, labels, strict=True)]  # fmt: skip
    return maps, planes


def count(tally, rows):
    maps, planes = images(rows)
    tally.add(maps, np.full(N_UNITS, 0.3, np.float32), planes, WEIGHTS)


def count_by_block(tally, rows):
    maps, planes = images(rows)
    thresholds, blocks = np.full(N_UNITS, 0.3, np.float32), np.array(rows) % 4
    tally.add(Counters(N_UNITS, 3, 2), maps, thresholds, planes, blocks, WEIGHTS)


def rank_images(tally, rows):
    maps, _ = images(rows)
    keys = BufferedTail(N_UNITS, 1).update(maps)
    tally.add(keys, np.array(rows))


CAPACITY = tail_rank(Fraction(1, 10), 60) + 1
TALLIES = {
    "counters": (Counters, lambda: Counters(N_UNITS, 3, 2), count),
    "block counters": (BlockTally, lambda: BlockTally(4, N_UNITS, 3, 2, 500), count_by_block),
    "top images": (TopImages, lambda: TopImages(N_UNITS, 4), rank_images),
    "float32 buffer": (
        BufferedTail,
        lambda: BufferedTail(N_UNITS, CAPACITY),
        lambda t, rows: t.update(images(rows)[0]),
    ),
    "float16 bins": (
        BinnedTail,
        lambda: BinnedTail(N_UNITS, CAPACITY, np.float16),
        lambda t, rows: t.update(images(rows)[0].astype(np.float16)),
    ),
    "float16 histogram": (
        Histogram,
        lambda: Histogram(N_UNITS, np.float16),
        lambda t, rows: t.update(images(rows)[0].astype(np.float16)),
    ),
    "float32 histogram": (
        Histogram,
        lambda: Histogram(N_UNITS, np.float32),
        lambda t, rows: t.update(images(rows)[0]),
    ),
    "moments": (Moments, lambda: Moments(N_UNITS), lambda t, rows: t.update(images(rows)[0])),
    "REQ sketch": (  # of values too few to be compacted; what is promised of more is tested where sketches are
        ReqSketch,
        lambda: ReqSketch(N_UNITS, 8, 1),
        lambda t, rows: t.update(images(rows)[0]),
    ),
    "KLL sketch": (
        KllSketch,
        lambda: KllSketch(N_UNITS, 8, 1, np.float16),
        lambda t, rows: t.update(images(rows)[0].astype(np.float16)),
    ),
}


@pytest.mark.parametrize("kind, make, add", TALLIES.values(), ids=TALLIES)
@given(data=st.data())
def test_parts_merge_to_the_whole_in_any_order(kind, make, add, data):
    rows = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=10, unique=True))
    whole, parts = make(), [make() for _ in range(3)]
    add(whole, rows)
    for row in data.draw(st.permutations(rows)):
        add(parts[data.draw(st.integers(0, 2))], [row])
    merged = kind.from_arrays(make().to_arrays())
    for part in data.draw(st.permutations(parts)):
        merged.merge(kind.from_arrays({name: array.copy() for name, array in part.to_arrays().items()}))
    expected, found = whole.to_arrays(), merged.to_arrays()
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)


@pytest.mark.parametrize("kind, make, add", TALLIES.values(), ids=TALLIES)
def test_a_tally_keeps_the_protocol(kind, make, add):
    assert isinstance(make(), Tally)
    with pytest.raises(ValueError):
        kind.from_arrays({})
