"""A rotation of a layer's units from the stored activations, against the pieces that it cannot do without."""

import numpy as np
import pytest
import torch

import streamdissect as sd
from streamdissect.measure.counters import Counters
from streamdissect.measure.directions import Directions
from streamdissect.measure.rotations import haar_rotation
from streamdissect.options import CommonOptions
from streamdissect.quantile import BufferedTail, tail_rank
from streamdissect.stages.control import Control
from streamdissect.stages.directed import DirectedPasses, count_directed, iter_parts
from streamdissect.stages.scored_work import open_scored_work

from .street import DATA, LAYER, MIDDLE, MODEL, SIZE, WEIGHTS, is_there

N_IMAGES, THREADS, TOGETHER = 128, 1, 2
CONTENDERS = ("rotation", "BLAS product, thresholds and scoring")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A scored run of real activations, 576 units on a grid of 15 x 20, and its layer."""
    if not is_there():
        pytest.skip("no street scenes or networks among the shared test data")
    out = tmp_path_factory.mktemp("bench") / "run"
    named = {"input_size": SIZE, "mean": MIDDLE, "std": MIDDLE, "limit": N_IMAGES, "is_first": True}
    sd.extract(f"{MODEL}:mobilenet_v2", DATA, [LAYER], out, weights=str(WEIGHTS), **named)
    sd.score(out)
    return open_scored_work(out, None, None, None, CommonOptions(threads=THREADS), "rotate", Control()).scoring


def rotate(work, sets):
    """Thresholds and counters of some rotations, as `rotate` finds them."""
    layer = work.layers[0]
    passes = DirectedPasses(work.maps, layer, N_IMAGES, work.options.memory, THREADS, Control())
    found = passes.thresholds(sets, [work.tail], keep_maps=range(len(sets)))
    cuts = [each.thresholds[work.tail].threshold for each in found]
    return cuts, count_directed(work, 0, sets, cuts, Control(), kept=[each.candidates for each in found])


class Pieces:
    """One large product, one pass for thresholds and one of scoring over its result: nothing read, nothing kept."""

    def __init__(self, work, directions):
        maps = work.maps.read(LAYER, range(N_IMAGES)).astype(np.float32)
        self.work, self.shape = work, maps.shape
        rows = np.ascontiguousarray(maps.transpose(1, 0, 2, 3)).reshape(maps.shape[1], -1)
        self.values, self.weight = torch.from_numpy(rows), torch.from_numpy(directions.weight)
        turned = torch.mm(self.weight, self.values).numpy().reshape(maps.shape[1], N_IMAGES, *maps.shape[2:])
        self.maps = np.ascontiguousarray(turned.transpose(1, 0, 2, 3))
        self.parts = list(iter_parts(work, Control()))

    def run(self):
        work, (n_images, n_units, h, w) = self.work, self.shape
        torch.mm(self.weight, self.values)
        streams = BufferedTail(n_units, tail_rank(work.tail, n_images * h * w) + 1)
        for start in range(0, n_images, 16):
            streams.update(self.maps[start : start + 16])
        thresholds = streams.tail_threshold(work.tail)
        counters = Counters(n_units, work.rules.n_concepts, work.rules.n_categories)
        for rows, images in self.parts:
            weights = {image.shape: work.weights(0, image.shape) for image in images}
            counters.add(self.maps[rows.start : rows.stop], thresholds, images, weights, threads=THREADS)
        return thresholds, counters


@pytest.mark.long
@pytest.mark.benchmark(min_rounds=3, max_time=3, warmup=False)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_rotate(benchmark, scored, contender):
    sets = [Directions(haar_rotation(scored.layers[0].n_units, seed)) for seed in range(TOGETHER)]
    pieces, before = Pieces(scored, sets[0]), torch.get_num_threads()
    cuts, counted = rotate(scored, sets)
    thresholds, expected = pieces.run()
    np.testing.assert_allclose(cuts[0], thresholds, rtol=1e-5)
    difference = np.abs(counted[0][0].rows - expected.rows)
    assert difference.sum() <= expected.rows.sum() / 1000  # products of another shape round otherwise
    torch.set_num_threads(THREADS)
    try:
        benchmark.group = f"rotation of {scored.layers[0].n_units} units, {N_IMAGES} images"
        benchmark(rotate, scored, sets) if contender == CONTENDERS[0] else benchmark(pieces.run)
    finally:
        torch.set_num_threads(before)
    n = N_IMAGES * (TOGETHER if contender == CONTENDERS[0] else 1)
    benchmark.extra_info.update(contender=contender, n=n, unit="image and rotation", note="")
