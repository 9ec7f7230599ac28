"""Runs that store only the maps that may exceed a threshold: every number is that of a run that stored all."""

import errno
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.quantile import BinnedTail, BufferedTail, Histogram
from streamdissect.stages.keeping import Floors, describe_kept, describe_stored, floors_in, reaching
from streamdissect.stages.recording import read_recorded, store_of
from streamdissect.store.activations import ActivationStore

from . import killing
from .test_record import Killer, content_of, kill_often

LAYERS = ["block1.act", "block2.conv"]
TAILS = (Fraction(1, 100), Fraction(1, 25))
NAMED = {"shard_images": 4, "batch_size": 2, "tails": TAILS}


def assert_same(found, expected):
    assert found.image_name == expected.image_name
    for name, layer in expected.layers.items():
        for key, array in layer.arrays.items():
            assert_array_equal(found.layers[name].arrays[key], array, err_msg=f"{name} {key}")


def maps_of(run):
    """Everything in the store, by layer, as plain zarr reads it."""
    return {name: array[:] for name, array in zarr.open_group(run.activations_path, mode="r").arrays()}


def recorded(out, spill, **named):
    """The generated activations of killing.py: one layer sparse, one signed."""
    return sd.record(killing.compute, killing.data(), out, **(killing.NAMED | {"spill": spill} | named))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run of generated activations that stored all."""
    return recorded(tmp_path_factory.mktemp("full") / "run", "full")


@pytest.mark.parametrize("method", [("exact", "full"), ("exact", "none"), ("histogram", "none")], ids="-".join)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_results_are_those_of_a_run_that_stored_all(dtype, method, nets, scenes, tmp_path):
    named = NAMED | {"dtype": dtype, "thresholds": method[0], "distributions": method[1]}
    runs = [
        sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / spill, spill=spill, **named)
        for spill in ("full", "candidates")
    ]
    for i, rules in enumerate(
        [
            {},
            {"tail": TAILS[1]},
            {"tail": Fraction(1, 300), "upsample": "corners"},
            {"union": "all-images", "mask_test": "ge", "upsample": "half_pixel"},
            {"union": "mask-touch", "tail": TAILS[1], "blocks": 3},
        ]
    ):
        results = [sd.score(run.path, name=f"rules{i}", **rules) for run in runs]
        assert_same(results[1], results[0])
        for layer in LAYERS:
            masks = [[result.mask(image, layer, 2) for image in range(20)] for result in results]
            assert_array_equal(masks[1], masks[0])
    assert sd.audit(runs[1].path) == sd.audit(runs[0].path)
    maps, others = (maps_of(run) for run in runs)
    for name in LAYERS:
        is_kept = (others[name] == maps[name]).all(axis=(2, 3))
        assert 0 < is_kept.sum() < is_kept.size and np.isneginf(others[name][~is_kept]).all()


def test_memory_that_does_not_do_for_one_pass(nets, scenes, tmp_path):
    """Thresholds in float32 are made exact by a second pass, over the maps that were kept."""
    named = {"dtype": "float32", "memory": 6 * 10**4, "distributions": "none", "tails": (Fraction(1, 50),)}
    named |= {"shard_images": 1, "batch_size": 1}
    results = []
    for spill in ("full", "candidates"):
        run = sd.extract(f"{nets}:build", scenes, LAYERS, tmp_path / spill, spill=spill, **named)
        assert {layer["streams"]["kind"] for layer in run.manifest["layers"]} == {"binned", "buffered"}
        results.append(sd.score(run.path))
    assert_same(results[1], results[0])
    assert sd.info(tmp_path / "candidates")["kept_share"] < 1


def test_the_first_shard_is_judged_by_its_own_values_and_later_ones_more_strictly(full, tmp_path):
    run = recorded(tmp_path / "run", "candidates")
    commits = [run.ledger("extract").read(shard) for shard in range(run.n_shards)]
    kept = [commit["kept"]["a"]["maps"] for commit in commits]
    assert kept[0] < 8 * killing.UNITS and kept[-1] < kept[0]
    floors = [floors_in(commit["kept"]["a"]) for commit in commits]
    assert all((one <= other).all() for one, other in pairwise(floors))
    shares = sum(each["maps"] for commit in commits for each in commit["kept"].values())
    assert sd.info(run.path)["kept_share"] == shares / (40 * 9)
    assert sd.info(full.path)["kept_share"] is None
    assert_same(sd.score(run.path), sd.score(full.path))


def test_values_that_are_no_numbers(tmp_path):
    """NaN, infinities, a unit without any number, one of which -inf is the threshold."""

    def compute(images):
        found = killing.compute(images)
        for row, image in enumerate(images):
            maps = found["a"][row]
            maps[0, 0, image % 4] = np.nan
            maps[1, 1, image % 4] = np.inf if image % 9 == 0 else -np.inf
            maps[2] = np.nan
            maps[3] = -np.inf
            if image % 2:
                maps[3:5] = np.nan
        return found

    results = []
    for spill in ("full", "candidates"):
        named = killing.NAMED | {"spill": spill, "allow_nonfinite": True}
        run = sd.record(compute, killing.data(), tmp_path / spill, **named)
        results.append([sd.score(run.path), sd.score(run.path, name="ge", mask_test="ge")])
    assert sd.info(tmp_path / "candidates")["kept_share"] < 1
    for found, expected in zip(results[1], results[0], strict=True):
        assert_same(found, expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_map_that_exceeds_a_threshold_is_left_out(data):
    """Whatever the order, in parts of any size, by one worker or by two that know nothing of each other."""
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    n_images, rank = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 40))
    levels = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 0.5000001, 1.0, 7.0, np.nan, np.inf, -np.inf])
    values = data.draw(st.lists(levels, min_size=4 * n_images, max_size=4 * n_images))
    maps = np.array(values, dtype).reshape(n_images, 1, 2, 2)
    kinds = [BinnedTail, BufferedTail, Histogram] if dtype == "float32" else [BinnedTail, Histogram]
    kind = data.draw(st.sampled_from(kinds))

    def fresh():
        return kind(1, dtype) if kind is Histogram else kind(1, rank + 1, dtype)

    workers = [(fresh(), Floors(rank, 1)) for _ in range(2)]
    kept, at = np.zeros(n_images, bool), 0
    while at < n_images:
        part = slice(at, at + data.draw(st.integers(1, 8)))
        streams, floors = workers[data.draw(st.integers(0, 1))]
        kept[part] = reaching(streams.update(maps[part]), floors.rise(streams))[:, 0]
        at = part.stop
    numbers = np.sort(maps[~np.isnan(maps)])[::-1]
    if len(numbers):
        threshold = numbers[min(rank, len(numbers) - 1)]
        reaches = (maps >= threshold).any(axis=(1, 2, 3))  # a mask of `>=` needs those that tie, too
        assert not (reaches & ~kept).any()


@settings(max_examples=60, deadline=None)
@given(
    highest=st.lists(
        st.lists(st.sampled_from([-(2**31), -31745, -5, 0, 7, 31744]), min_size=3, max_size=3), min_size=1
    ),
    floors=st.lists(st.sampled_from([-(2**31), -5, 1, 7, 31744, 2**31 - 1]), min_size=3, max_size=3),
)
def test_floors_told_from_a_file_keep_the_same_maps(highest, floors):
    """Of maps of -inf it does not matter whether they were kept: they are stored as what is left out."""
    highest = np.array(highest, np.int32)
    kept = reaching(highest, np.array(floors, np.int32))
    in_file = np.where(kept, highest, -31745).astype(np.int32)
    told = describe_stored(in_file, "float16")
    again = reaching(highest, floors_in(told))
    matters = highest != -31745
    assert_array_equal(again[matters], kept[matters])
    assert told["maps"] == (kept & matters).sum()
    assert_array_equal(floors_in(describe_kept(kept, np.array(floors, np.int32))), np.array(floors))


@pytest.mark.parametrize("streams", [BinnedTail(1, 3, "float16"), BufferedTail(1, 3)], ids=["binned", "buffered"])
def test_no_floor_is_told_for_ranks_beyond_what_is_kept(streams):
    with pytest.raises(ValueError, match="only the 3 largest"):
        streams.tail_floor(3)
    assert streams.tail_floor(2).tolist() == [-(2**31)]


def test_workers_that_know_nothing_of_each_other(full, tmp_path):
    out = tmp_path / "run"
    for worker in (1, 2, 0):
        recorded(out, "candidates", shard=(worker, 3))
    assert sd.verify(out) > 0
    assert_same(sd.score(out), sd.score(full.path))


def test_kills_change_what_is_kept_and_nothing_else(full, tmp_path):
    _, numbers = content_of(full.path)
    n_killed = 0
    with Killer() as killer:
        for n in (2, 5, 13, 34):
            out = tmp_path / str(n)
            n_killed += kill_often(
                killer, out, [{"at": n * (i + 1), "named": {"spill": "candidates"}} for i in range(6)]
            )
            recorded(out, "candidates")
            assert content_of(out)[1] == numbers, n
            assert sd.verify(out) >= 10
            assert sd.info(out)["spill"] == "candidates"
    assert n_killed >= 12


@pytest.mark.parametrize("loses_commit", [False, True])
def test_a_lost_file_is_made_again_byte_for_byte(full, tmp_path, loses_commit):
    run = recorded(tmp_path / "run", "candidates")
    before, numbers = content_of(run.path)
    if loses_commit:  # made good from the file, which tells the floors well enough
        commit = run.ledger("extract").commit_path(3)
        n_kept = run.ledger("extract").read(3)["kept"]
        commit.unlink()
        recorded(run.path, "candidates")
        told = run.ledger("extract").read(3)["kept"]
        assert [told[name]["maps"] for name in "ab"] == [n_kept[name]["maps"] for name in "ab"]
    store_of(run).file("a", 3).unlink()
    with pytest.raises(sd.IncompleteRun, match="missing"):
        sd.score(run.path, name="other")
    recorded(run.path, "candidates")
    assert content_of(run.path) == (before, numbers) and sd.verify(run.path) > 0
    sd.clean(run.path)
    recorded(run.path, "candidates")
    assert content_of(run.path) == (before, numbers)
    assert content_of(full.path)[1] == numbers


def test_a_write_that_fails_loses_nothing(full, tmp_path, monkeypatch):
    """The state has seen the shard already, so it is not saved; the next process begins that shard anew."""
    real, calls = ActivationStore.write, []

    def write(self, layer, shard, maps, kept):
        calls.append(shard)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, layer, shard, maps, kept)

    monkeypatch.setattr(ActivationStore, "write", write)
    with pytest.raises(OSError, match="No space"):
        recorded(tmp_path / "run", "candidates")
    run = recorded(tmp_path / "run", "candidates")
    assert_same(sd.score(run.path), sd.score(full.path))


def test_nothing_is_recorded_after_half_a_shard(tmp_path, monkeypatch):
    """A loop of one's own that goes on after a full disk would count a shard twice."""
    import torch

    model = torch.nn.Sequential(torch.nn.MaxPool2d(4))
    images = torch.rand(12, 3, 16, 16)
    real, fails = ActivationStore.write, []

    def write(self, *given):
        if fails:
            raise OSError(fails.pop(), "No space left on device")
        return real(self, *given)

    monkeypatch.setattr(ActivationStore, "write", write)
    named = {"n_images": 12, "shard_images": 3, "spill": "candidates", "tails": "1/50"}

    def capture_all(cap):
        for at in range(0, 12, 3):
            index = range(at, at + 3)
            if not cap.skip(index):
                with cap.images(index):
                    model(images[at : at + 3])

    with (
        pytest.raises(sd.IncompleteRun, match="interrupted"),
        sd.capture(model, ["0"], tmp_path / "run", **named) as cap,
    ):
        fails.append(errno.ENOSPC)
        for _ in range(3):
            with pytest.raises((sd.StorageFailure, sd.BadInput)):
                capture_all(cap)
        capture_all(cap)
    with sd.capture(model, ["0"], tmp_path / "run", **named) as cap:
        capture_all(cap)
    run = sd.RunDir(tmp_path / "run")
    recorded = read_recorded(run)
    (maps,), (tally,) = maps_of(run).values(), recorded.tallies
    given = model(images).numpy().astype(np.float16)[recorded.images]
    is_kept = ~np.isneginf(maps).all(axis=(2, 3))
    assert_array_equal(maps[is_kept], given[is_kept])
    threshold = np.sort(given.transpose(1, 0, 2, 3).reshape(3, -1))[:, -1 - 12 * 16 // 50]
    assert_array_equal(tally.streams.tail_threshold(Fraction(1, 50)), threshold)


def test_a_captured_loop(nets, scenes, tmp_path):
    import torch

    from streamdissect.models import load_model

    data = sd.open_dataset(scenes)
    model = load_model(f"{nets}:build").module.eval()
    results = []
    for spill in ("full", "candidates"):
        named = {"n_images": 20, "data": data, "shard_images": 3, "tails": TAILS, "spill": spill}
        with torch.inference_mode(), sd.capture(model, LAYERS, tmp_path / spill, **named) as cap:
            for image in range(20):
                with cap.images([image]):
                    model(torch.from_numpy(data.image(image)).permute(2, 0, 1)[None] / 255)
        results.append(sd.score(tmp_path / spill, data))
    assert_same(results[1], results[0])
    assert sd.info(tmp_path / "candidates")["kept_share"] < 1


def test_what_needs_all_activations_is_refused_in_one_line(tmp_path, capsys):
    run = recorded(tmp_path / "run", "candidates")
    sd.score(run.path)
    np.save(tmp_path / "directions.npy", np.eye(6, dtype=np.float32))
    for words in (
        ["score", "--tail", "1/10", "--name", "x"],
        ["score", "--directions", tmp_path / "directions.npy", "--layer", "a", "--name", "y"],
        ["pca"],
        ["rotate"],
    ):
        command, *options = map(str, words)
        assert main([command, str(run.path), *options]) == 2
        said = capsys.readouterr().err
        assert "--spill full" in said and len(said.splitlines()) == 1, said
    assert main(["score", str(run.path), "--tail", "1/60", "--name", "z"]) == 0


@pytest.mark.parametrize("named", [{"thresholds": "sketch"}, {"codec": "none"}])
def test_options_that_do_not_go_with_candidates(tmp_path, named):
    with pytest.raises(sd.BadInput, match="--spill candidates"):
        recorded(tmp_path / "run", "candidates", **named)
    assert not (tmp_path / "run").exists()


def test_activations_that_are_brought_have_to_be_stored(tmp_path):
    with pytest.raises(sd.BadInput, match="full or candidates"):
        recorded(tmp_path / "run", "none")


def test_the_disk_decides_what_is_stored(nets, scenes, tmp_path, capsys):
    """All, else candidates, else nothing; who joins without a word takes what was chosen."""
    extract = ["extract", "--model", f"{nets}:build", "--data", str(scenes), "--layers", ",".join(LAYERS)]
    extract += ["--tail", "1/100", "--shard-images", "4", "--batch-size", "4"]
    assert main([*extract, "--out", str(tmp_path / "all"), "--spill", "full"]) == 0
    whole = sum(file.stat().st_size for file in (tmp_path / "all" / "activations.zarr").rglob("0"))
    found = {}
    for limit in range(int(2 * whole), 0, -whole // 20):
        capsys.readouterr()
        assert main([*extract, "--out", str(tmp_path / "planned"), "--max-disk", str(limit), "--dry-run"]) == 0
        said = capsys.readouterr()
        chosen = [key for key, words in (("full", "all activations"), ("candidates", "only the maps"),
                                         ("none", "no activations")) if words in said.err]  # fmt: skip
        found.setdefault(*chosen, limit)
        assert ("candidates" in chosen) == ("only the maps" in said.out)
        assert ("none" in chosen) == ("none stored" in said.out)
    assert list(found) == ["full", "candidates", "none"]
    for spill, limit in found.items():
        out = tmp_path / spill
        assert main([*extract, "--out", str(out), "--max-disk", str(limit)]) == 0
        assert sd.RunDir(out).spill == spill and sd.info(out)["activation_bytes"] <= limit + 10_000
        assert main([*extract, "--out", str(out)]) == 0 and main([*extract, "--out", str(out), "--spill", spill]) == 0
    capsys.readouterr()
    assert main([*extract, "--out", str(tmp_path / "none"), "--spill", "full"]) == 2
    assert "spill: got 'full', expected 'none'" in capsys.readouterr().err
    assert main([*extract, "--out", str(tmp_path / "x"), "--spill", "candidates", "--max-disk", "1kB"]) == 2
    assert "--max-disk" in capsys.readouterr().err
    with pytest.raises(sd.BadInput, match="--max-disk"):
        recorded(tmp_path / "brought", "auto", max_disk=100)
