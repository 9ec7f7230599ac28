"""Which codec a layer gets: by what it costs, and not by chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamdissect as sd
from streamdissect.stages import spilling
from streamdissect.store.codecs import (
    LEAST_TIMED,
    SAMPLE_BYTES,
    cheapest,
    choose_codec,
    measure,
    packed_share,
    part_of,
)

NS = 1e-9


@pytest.mark.parametrize(
    "zstd, lz4, expected",
    [
        ((2.0 * NS, 0.25), (1.0 * NS, 0.4), "zstd"),  # 3.0, 2.6 and 4 ns a byte: the smaller of those that are near
        ((4.0 * NS, 0.25), (1.0 * NS, 0.4), "lz4"),  # a slow processor: 5 against 2.6
        ((1.2 * NS, 0.9), (0.1 * NS, 0.99), "none"),  # signed data: nothing to be had
        ((9.0 * NS, 0.5), (8.0 * NS, 0.5), "none"),  # slower than the disk
        ((0.5 * NS, 0.83), (0.1 * NS, 0.9), "zstd"),
    ],
)
def test_the_smaller_file_among_those_that_take_about_as_long(zstd, lz4, expected):
    assert cheapest({"zstd": zstd, "lz4": lz4, "none": (0.0, 1.0)}) == expected


def test_without_none_some_codec_is_taken():
    assert cheapest({"zstd": (1.0 * NS, 0.97), "lz4": (0.1 * NS, 1.001)}) == "zstd"
    assert cheapest({"zstd": (30.0 * NS, 0.97), "lz4": (0.1 * NS, 1.001)}) == "lz4"


@settings(max_examples=100)
@given(noise=st.lists(st.floats(0.8, 1.25), min_size=2, max_size=2))
def test_times_that_are_off_by_a_quarter_decide_nothing_between_near_codecs(noise):
    """The real figures of ReLU layers, with either measurement wrong."""
    for zstd, lz4 in (((2.1 * NS, 0.27), (1.1 * NS, 0.4)), ((1.6 * NS, 0.26), (0.8 * NS, 0.35))):
        costs = {"zstd": (noise[0] * zstd[0], zstd[1]), "lz4": (noise[1] * lz4[0], lz4[1]), "none": (0.0, 1.0)}
        assert cheapest(costs) == "zstd"


def test_the_shortest_of_a_few_tries_counts():
    ticks = iter([0, 9, 10, 13, 20, 28])
    part = np.zeros((1, LEAST_TIMED), np.float16)
    costs = measure(part, ["zstd", "none"], lambda: next(ticks))
    assert costs["zstd"][0] == 3 / part.nbytes and costs["none"] == (0, 1)
    assert 0 < costs["zstd"][1] < 0.01


def test_of_a_few_bytes_only_their_number_counts():
    part = np.zeros((1, LEAST_TIMED // 4), np.float16)
    ticks = iter(range(0, 10**12, 10**9))
    assert measure(part, ["zstd"], lambda: next(ticks))["zstd"][0] == 0


def test_what_is_tried_spreads_over_units_and_images():
    sample = np.zeros((32, 64, 40, 40), np.float32)
    sample[:, :, 0, 0] = np.arange(32)[:, None] * 64 + np.arange(64)
    part = part_of(sample)
    assert SAMPLE_BYTES / 2 < part.nbytes < 2 * SAMPLE_BYTES and part.flags.c_contiguous
    assert set(part[:, 0, 0, 0] // 64) == set(range(32)) and len(set(part[0, :, 0, 0])) == part.shape[1] > 5
    assert part_of(sample[:, :1]).shape == (32, 1, 40, 40)
    assert part_of(np.zeros((2, 3, 4, 4), np.float16)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_codec_follows_the_data(dtype):
    signed = np.random.default_rng(0).normal(size=(32, 64, 9, 9)).astype(dtype)
    sparse = np.maximum(signed - 1, 0)
    assert choose_codec(signed) == "none" and choose_codec(sparse) in ("zstd", "lz4")
    assert choose_codec(signed, ("zstd", "lz4")) in ("zstd", "lz4")
    assert packed_share(sparse, "zstd") < 0.5 < packed_share(signed, "zstd")
    assert packed_share(signed, "none") == 1


def test_the_choice_of_whoever_makes_the_run_holds(tmp_path, monkeypatch):
    """Another worker that measures at the same time, with another outcome, takes the codec of the run."""
    data = sd.open_dataset("synth:?n=8&size=32")
    named = {"name": "x", "shard_images": 4, "batch_size": 4, "tails": "1/50"}

    def compute(images):
        return {"a": np.stack([np.random.default_rng(i).random((3, 4, 4)) for i in images])}

    def choose_late(*given):
        """While this worker measures, another one makes the run."""
        monkeypatch.setattr(spilling, "choose_codec", lambda *given: "lz4")
        sd.record(compute, data, tmp_path / "run", shard=(0, 2), **named)
        return "zstd"

    monkeypatch.setattr(spilling, "choose_codec", choose_late)
    run = sd.record(compute, data, tmp_path / "run", shard=(1, 2), **named)
    assert [layer["codec"] for layer in sd.info(run.path)["layers"]] == ["lz4"]
    assert sd.verify(run.path) > 0 and sd.score(run.path, data).image_name == tuple(data.names)
