"""Recording inside loops that exist already: any order, interruptions, several processes."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

import streamdissect as sd
from streamdissect.options import ExtractOptions
from streamdissect.stages import arrivals
from streamdissect.stages.arrivals import IndexSet
from streamdissect.store.partials import Ledger

N = 20


class Pools(nn.Module):
    """Two layers whose activations do not depend on the batch: maxima are exact."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.MaxPool2d(4), nn.MaxPool2d(2)

    def forward(self, x):
        return self.coarse(self.fine(x))


LAYERS = ["fine", "coarse"]


class Images(torch.utils.data.Dataset):
    """What a loader of one's own yields: (index, image)."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return index, torch.from_numpy(self.data.image(index)).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def data(scenes):
    return sd.open_dataset(scenes)


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """Counters of the undisturbed loop in order."""
    out = tmp_path_factory.mktemp("whole") / "run"
    model = Pools()
    with capturing(model, data, out) as cap:
        loop(cap, model, DataLoader(Images(data), batch_size=N))
    return sd.score(out, data)


def capturing(model, data, out, **named):
    return sd.capture(model, LAYERS, out, n_images=len(data), data=data, **{"shard_images": 3, **named})


def loop(cap, model, loader, stop_after=None, skips=False):
    """Anyone's loop; it may die after some batches."""
    ran = 0
    for number, (index, batch) in enumerate(loader):
        if number == stop_after:
            raise ZeroDivisionError("the loop died")
        if skips and cap.skip(index):
            continue
        with cap.images(index), torch.inference_mode():
            model(batch)
        ran += 1
    return ran


def assert_counts(found, expected):
    """Equal but for the order of the rows."""
    assert sorted(found.image_name) == sorted(expected.image_name)
    for name, layer in expected.layers.items():
        for key, array in layer.arrays.items():
            if not key.startswith("top_"):
                np.testing.assert_array_equal(array, found.layers[name].arrays[key], err_msg=key)
        np.testing.assert_array_equal(layer.arrays["top_value"], found.layers[name].arrays["top_value"])


def test_capture_in_any_order_equals_extract(nets, scenes, tmp_path):
    data = sd.open_dataset(scenes)
    from streamdissect.models import load_model
    from streamdissect.stages.forward import iter_images

    sd.extract(f"{nets}:build", data, ["block1.act", "block2.conv"], tmp_path / "whole", batch_size=1, threads=1)
    expected = sd.score(tmp_path / "whole")
    net = load_model(f"{nets}:build").module
    mean, std = (torch.tensor(v)[:, None, None] for v in (ExtractOptions().mean, ExtractOptions().std))
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    with sd.capture(
        net, ["block1.act", "block2.conv"], tmp_path / "loop", n_images=20, data=data, shard_images=3
    ) as cap:
        for index in order:
            image = next(iter_images(data, [index], (64, 64), 0))
            with cap.images([index]), torch.inference_mode():
                net(((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)[None])
    found = sd.score(tmp_path / "loop")
    assert list(found.image_name) == [data.names[i] for i in order]
    for name, layer in expected.layers.items():
        for key, array in layer.arrays.items():
            if not key.startswith("top_"):
                np.testing.assert_array_equal(array, found.layers[name].arrays[key], err_msg=key)


def test_capture_refuses_what_it_cannot_record(nets, scenes, tmp_path):
    from streamdissect.models import load_model

    net = load_model(f"{nets}:build").module
    batch = torch.zeros(2, 3, 64, 64)
    with (
        pytest.raises(sd.IncompleteRun, match="2 of 4 images"),
        sd.capture(net, ["block1.act"], tmp_path / "a", n_images=4) as cap,
    ):
        with cap.images([0, 1]):
            net(batch)
        for index, words in (([1, 2], "image 1 again"), ([2, 2], "image 2 again"), ([2, 3, 4], "got 5 images")):
            with pytest.raises(sd.BadInput, match=words), cap.images(index):
                pass
        with pytest.raises(sd.BadInput, match="1 indices"), cap.images([2]):
            net(batch)
        for index in ([-1, 2], [2, 2**33]):
            with pytest.raises(sd.BadInput, match="index"), cap.images(index):
                pass
        for calls in (0, 2):
            with pytest.raises(sd.BadInput, match=f"{calls} calls"), cap.images([2, 3]):
                for _ in range(calls):
                    net(batch)
        with cap.images([]):
            pass
    with pytest.raises(sd.IncompleteRun, match="not finished"):
        sd.score(tmp_path / "a", scenes)
    with (
        pytest.raises(sd.BadInput, match="images: got 2, expected 4 as when it was made"),
        sd.capture(net, ["block1.act"], tmp_path / "a", n_images=2),
    ):
        pass
    with sd.capture(net, "block1.act", tmp_path / "b", n_images=20, data=scenes) as cap:
        with pytest.raises(sd.BadInput, match="0 to 19"), cap.images([3, 20]):
            net(batch)
        for start in range(0, 20, 2):
            with cap.images([start, start + 1]):
                net(batch)
    assert sd.score(tmp_path / "b").summary["images"] == 20
    with sd.capture(net, ["block1.act"], tmp_path / "a", n_images=2, overwrite=True) as cap, cap.images([5, 3]):
        net(batch)
    with pytest.raises(sd.BadInput, match="captured without one"):
        sd.score(tmp_path / "a")
    with sd.capture(net, ["block1.act"], tmp_path / "far", n_images=2) as cap, cap.images([5, 999]):
        net(batch)
    with pytest.raises(sd.BadInput, match="index 999"):
        sd.score(tmp_path / "far", scenes)
    assert list(sd.score(tmp_path / "a", scenes).image_name) == ["scene-00005.png", "scene-00003.png"]


@pytest.mark.parametrize("batch_size", [1, 6, 7, 20])
def test_shuffled_loaders_with_an_uneven_last_batch(data, expected, tmp_path, batch_size):
    model = Pools()
    images = Images(data)
    generator = torch.Generator().manual_seed(batch_size)
    loader = DataLoader(images, batch_size, sampler=RandomSampler(images, generator=generator))
    with capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, loader)
    found = sd.score(tmp_path / "run", data)
    assert list(found.image_name) != list(expected.image_name)
    assert_counts(found, expected)
    assert not list((tmp_path / "run" / "partial" / "extract" / "leftover").iterdir())


def test_an_image_repeated_by_a_sampler_is_found(data, tmp_path):
    model = Pools()
    images = Images(data)
    sampler = RandomSampler(images, replacement=True, generator=torch.Generator().manual_seed(0))
    with pytest.raises(sd.BadInput, match=r"image \d+ again"), capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(images, 4, sampler=sampler))


def test_images_that_a_loader_drops_are_named(data, tmp_path):
    model = Pools()
    message = r"18 of 20 images came; missing: 18, 19; what came is kept"
    with pytest.raises(sd.IncompleteRun, match=message), capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 6, drop_last=True))
    with pytest.raises(sd.IncompleteRun, match="not finished"):
        sd.score(tmp_path / "run", data)


def test_dropped_images_may_come_later(data, expected, tmp_path):
    model = Pools()
    loader = DataLoader(Images(data), 6, drop_last=True)
    with pytest.raises(sd.IncompleteRun), capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, loader)
    with capturing(model, data, tmp_path / "run") as cap:
        assert loop(cap, model, DataLoader(Images(data), 4), skips=True) == 1
    assert_counts(sd.score(tmp_path / "run", data), expected)


def test_a_loop_that_died_goes_on(data, expected, tmp_path):
    model = Pools()
    loader = DataLoader(Images(data), 4)
    with pytest.raises(ZeroDivisionError), capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, loader, stop_after=3)
    with pytest.raises(sd.IncompleteRun, match="not finished"):
        sd.score(tmp_path / "run", data)
    with capturing(model, data, tmp_path / "run") as cap:
        assert loop(cap, model, loader, skips=True) == 2, "12 images are recorded, those of a part of a shard too"
    assert_counts(sd.score(tmp_path / "run", data), expected)


def test_a_loop_that_ended_has_nothing_left_to_do(data, expected, tmp_path):
    model = Pools()
    for _ in range(2):
        with capturing(model, data, tmp_path / "run") as cap:
            ran = loop(cap, model, DataLoader(Images(data), 4), skips=True)
    assert ran == 0
    with capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    assert_counts(sd.score(tmp_path / "run", data), expected)


@settings(max_examples=15)
@given(draws=st.data())
def test_any_interruptions_in_any_orders(data, expected, tmp_path_factory, draws):
    model = Pools()
    out = tmp_path_factory.mktemp("run") / "run"
    images = Images(data)
    deaths = draws.draw(st.lists(st.integers(0, 6), max_size=4))
    for death in [*deaths, None]:
        size = draws.draw(st.integers(1, 7))
        order = draws.draw(st.permutations(range(N)))
        skips = draws.draw(st.booleans())
        loader = DataLoader(images, size, sampler=order)
        try:
            with capturing(model, data, out) as cap:
                loop(cap, model, loader, death, skips)
        except ZeroDivisionError:
            pass
        except sd.BadInput as error:  # it died before its first batch
            assert death == 0 and "no image" in str(error)
    assert_counts(sd.score(out, data), expected)


def test_dying_while_the_last_shards_are_filled(data, expected, tmp_path, monkeypatch):
    model = Pools()
    for start in (0, 10):  # leftovers of a first process, and of a second one
        with pytest.raises((ZeroDivisionError, sd.IncompleteRun)), capturing(model, data, tmp_path / "run") as cap:
            loop(cap, model, DataLoader(Images(data), 5, sampler=range(start, start + 10)), stop_after=2 - start // 10)
    record = arrivals.Recorder.record
    calls = []

    def dies(self, *arguments):
        calls.append(record(self, *arguments))
        self.flush()
        if len(calls) == 3:
            raise ZeroDivisionError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(arrivals.Recorder, "record", dies)
        with pytest.raises(ZeroDivisionError), capturing(model, data, tmp_path / "run") as cap:
            loop(cap, model, DataLoader(Images(data), 5))
    with capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 5), skips=True)
    assert_counts(sd.score(tmp_path / "run", data), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float32"}, "dtype: got 'float32', expected 'float16' as when it was made"),
        ({"top_images": 3}, "top images: got 3"),
    ],
)
def test_another_capture_is_not_resumed(data, tmp_path, change, message):
    model = Pools()
    with pytest.raises(ZeroDivisionError), capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 4), stop_after=1)
    with pytest.raises(sd.BadInput, match=message), capturing(model, data, tmp_path / "run", **change):
        pass
    with pytest.raises(sd.BadInput, match=r"layers: got .*fine"):
        sd.capture(model, ["fine"], tmp_path / "run", n_images=N, data=data).__enter__()


def test_a_run_of_extract_is_not_captured_into(nets, scenes, data, tmp_path):
    sd.extract(f"{nets}:build", scenes, ["block1.act"], tmp_path / "run")
    with pytest.raises(sd.BadInput, match="a run of extract"), capturing(Pools(), data, tmp_path / "run"):
        pass


def test_options_that_describe_the_loop_are_refused(data, tmp_path):
    with pytest.raises(sd.BadInput, match="batch_size: got 4, expected an option that bears on a capture"):
        capturing(Pools(), data, tmp_path / "run", batch_size=4)


def test_an_interrupted_record_is_not_saved(data, expected, tmp_path, monkeypatch):
    """Ctrl-C after a shard went into the state and before its commit was known: it is done anew, and counted once."""
    model = Pools()
    from streamdissect.stages import recording

    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    original = recording.describe_shard
    with monkeypatch.context() as patched:
        patched.setattr(recording, "describe_shard", interrupted)
        with pytest.raises(KeyboardInterrupt), capturing(model, data, tmp_path / "run") as cap:
            loop(cap, model, DataLoader(Images(data), 4))
    with capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    assert_counts(sd.score(tmp_path / "run", data), expected)


def test_a_flush_that_was_cut_after_a_commit(data, expected, tmp_path, monkeypatch):
    model = Pools()
    commit = Ledger.commit
    calls = []

    def cut(self, shard, content):
        commit(self, shard, content)
        calls.append(shard)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "commit", cut)
        with pytest.raises(KeyboardInterrupt), capturing(model, data, tmp_path / "run") as cap:
            loop(cap, model, DataLoader(Images(data), 4))
            cap._arrivals._recorder.flush()
    assert len(calls) > 2, "the rest is committed on leaving"
    with capturing(model, data, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 4), skips=True)
    assert_counts(sd.score(tmp_path / "run", data), expected)


def test_images_of_another_size_are_refused(data, tmp_path):
    """63 x 63 pixels give the same grid as 62 x 62, but other fields."""
    model = Pools()
    out = tmp_path / "run"
    with sd.capture(model, ["coarse"], out, n_images=4) as cap:
        with cap.images([0, 1]):
            model(torch.zeros(2, 3, 63, 63))
        with pytest.raises(sd.BadInput, match="a batch of 62 x 62, expected 63 x 63 as at first"), cap.images([2, 3]):
            model(torch.zeros(2, 3, 62, 62))
        with cap.images([2, 3]):
            model(torch.zeros(2, 3, 63, 63))


@pytest.mark.parametrize("part", [nn.Dropout(), nn.BatchNorm2d(3)])
def test_a_network_in_training_mode_is_refused(data, tmp_path, part):
    model = nn.Sequential(part, nn.MaxPool2d(4))
    name = type(part).__name__
    message = rf"{name} '0' in training mode, expected a network in evaluation mode; call model\.eval\(\)"
    with sd.capture(model, ["1"], tmp_path / "run", n_images=2) as cap:
        with pytest.raises(sd.BadInput, match=message), cap.images([0, 1]):
            pass
        model.eval()
        with cap.images([0, 1]):
            model(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("index", [[0.5], ["a"], 3, None, [[0, 1]], torch.tensor([0.0]), [True, False]])
def test_indices_that_are_none(data, tmp_path, index):
    with pytest.raises(sd.BadInput, match=r"index|no image"), capturing(Pools(), data, tmp_path / "run") as cap:
        cap.skip(index)
        with cap.images(index):
            pass


@pytest.mark.parametrize("n_images", [0, -1, 2.0, "4", None, True])
def test_numbers_of_images_that_are_none(data, tmp_path, n_images):
    with pytest.raises(sd.BadInput, match="n_images: got"):
        sd.capture(Pools(), LAYERS, tmp_path / "run", n_images=n_images)


def test_what_is_no_module_and_what_is_no_dataset(tmp_path):
    with pytest.raises(sd.BadInput, match=r"model: got 'x\.py:y', expected a torch\.nn\.Module"):
        sd.capture("x.py:y", LAYERS, tmp_path / "run", n_images=4)
    with pytest.raises(sd.BadInput, match=r"data: got \[1, 2\]"):
        sd.capture(Pools(), LAYERS, tmp_path / "run", n_images=4, data=[1, 2])


def test_after_a_failed_entry_the_run_is_free(data, expected, tmp_path):
    """A damaged file is named; once it is gone the same process goes on."""
    model, out = Pools(), tmp_path / "run"
    with pytest.raises(ZeroDivisionError), capturing(model, data, out) as cap:
        loop(cap, model, DataLoader(Images(data), 4), stop_after=3)
    (leftover,) = (out / "partial" / "extract" / "leftover").glob("*.npz")
    leftover.write_bytes(leftover.read_bytes()[:100])
    with pytest.raises(sd.IncompleteRun, match="damaged"), capturing(model, data, out):
        pass
    leftover.unlink()
    with capturing(model, data, out) as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    assert_counts(sd.score(out, data), expected)


def test_the_same_capture_may_be_entered_again(data, expected, tmp_path):
    model = Pools()
    cap = capturing(model, data, tmp_path / "run")
    for stop in (3, None):
        try:
            with cap:
                loop(cap, model, DataLoader(Images(data), 4), stop)
        except ZeroDivisionError:
            assert stop
    assert_counts(sd.score(tmp_path / "run", data), expected)


def test_lost_activations_need_a_new_capture(data, tmp_path):
    model, out = Pools(), tmp_path / "run"
    with capturing(model, data, out) as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    (out / "activations.zarr" / "fine" / "c" / "1" / "0" / "0" / "0").unlink()
    with pytest.raises(sd.IncompleteRun, match=r"capture again with overwrite=True"):
        sd.score(out, data)
    with pytest.raises(sd.IncompleteRun, match=r"capture again with overwrite=True"), capturing(model, data, out):
        pass
    with capturing(model, data, out, overwrite=True) as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    assert sd.score(out, data).summary["images"] == N


def test_data_parallel_is_refused(data, tmp_path):
    with pytest.raises(sd.BadInput, match=r"pass model\.module; for several GPUs start one process for each"):
        capturing(nn.DataParallel(Pools()), data, tmp_path / "run")


def test_a_loop_without_a_batch(data, tmp_path):
    with pytest.raises(sd.BadInput, match="no image"), capturing(Pools(), data, tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_labels_of_callables_are_noted(data, tmp_path):
    """A labelled dataset is recorded as its images and what labels them: score finds both by itself."""
    model = Pools()
    labelled = sd.open_dataset(data.spec, labels="colors?category=tone")
    with capturing(model, labelled, tmp_path / "run") as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    found = sd.score(tmp_path / "run")
    assert "tone" in found.category_name
    plain = sd.score(tmp_path / "run", data, labels="none", name="plain")
    assert plain.category_name == data.concepts.category_name


def test_a_run_captured_without_data_does_not_mix_datasets(data, tmp_path):
    """The run knows no dataset, so each scoring remembers its own."""
    model, out = Pools(), tmp_path / "run"
    with sd.capture(model, LAYERS, out, n_images=N, shard_images=5) as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    other = sd.open_dataset("synth:?n=20&seed=9&size=64")
    assert sd.score(out, data).concept_number.size
    with pytest.raises(sd.BadInput, match=r"labels of the data .*as this run was scored.*--name"):
        sd.score(out, other)
    assert sd.score(out, other, name="other").summary["images"] == N
    parts = [sd.score_partial(out, data, shards=[0, 1]), sd.score_partial(out, other, shards=[2, 3])]
    with pytest.raises(sd.BadInput, match="parts: got a part of"):
        sd.merge(parts)


# Several processes


class Dying:
    """A sampler whose process is killed over image 15."""

    def __iter__(self):
        yield from range(15)
        os.kill(os.getpid(), signal.SIGKILL)


WORKER = """
    import sys, time, torch
    import streamdissect as sd
    sys.path.insert(0, {here!r})
    from test_capture import Dying, Images, Pools, capturing, loop
    from torch.utils.data import DataLoader, DistributedSampler
    data = sd.open_dataset({data!r})
    images, model = Images(data), Pools()
    {setup}
    with capturing(model, data, {out!r}) as cap:
        loop(cap, model, DataLoader(images, 3, sampler=sampler))
"""


def start(data, out, setup, **environment):
    """A process that captures; `setup` makes the sampler."""
    here = os.path.dirname(__file__)
    code = textwrap.dedent(WORKER).format(here=here, data=data.spec, out=str(out), setup=setup)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
    )


def ended(*processes):
    """Exit codes and messages."""
    messages = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, message) for process, message in zip(processes, messages, strict=True)]


SAMPLER = "sampler = DistributedSampler(images, {world}, {rank}, shuffle={shuffle}, seed=1)"


@pytest.mark.parametrize(("world", "shuffle"), [(3, True), (2, False)])
def test_distributed_samplers_share_a_run_and_padding_counts_once(data, expected, tmp_path, world, shuffle):
    out = tmp_path / "run"
    seen = [i for rank in range(3) for i in DistributedSampler(range(N), 3, rank, shuffle=False)]
    assert len(seen) == 21 and len(set(seen)) == N, "three samplers repeat an image"
    processes = [
        start(data, out, SAMPLER.format(world=world, rank=rank, shuffle=shuffle), RANK=rank, WORLD_SIZE=world)
        for rank in range(world)
    ]
    for code, message in ended(*processes):
        assert code == 0, message
    assert_counts(sd.score(out, data), expected)


def test_ranks_one_after_the_other_share_a_run_too(data, expected, tmp_path):
    """Rank 0 ends before rank 1 begins: what it leaves over is kept."""
    out, model = tmp_path / "run", Pools()
    for rank in range(3):
        sampler = DistributedSampler(range(N), 3, rank, shuffle=True, seed=2)
        with capturing(model, data, out, shard=(rank, 3)) as cap:
            loop(cap, model, DataLoader(Images(data), 4, sampler=sampler))
    assert_counts(sd.score(out, data), expected)


def test_the_last_rank_names_what_is_missing(data, tmp_path):
    model = Pools()

    def run(rank):
        sampler = DistributedSampler(range(N), 2, rank, shuffle=False)
        with capturing(model, data, tmp_path / "run", shard=(rank, 2)) as cap:
            loop(cap, model, DataLoader(Images(data), 4, sampler=sampler, drop_last=True))

    run(0)
    with pytest.raises(sd.IncompleteRun, match="16 of 20 images came; missing: 16, 17, 18, 19"):
        run(1)


def test_ranks_that_announce_their_own_share_are_found(data, tmp_path):
    """`n_images=len(sampler)`: what the others bring must not be dropped."""
    out = tmp_path / "run"
    loaders = [DataLoader(Images(data), 4, sampler=range(rank, N, 2)) for rank in range(2)]
    caps = [sd.capture(Pools(), LAYERS, out, n_images=10, data=data, shard=(rank, 2)) for rank in range(2)]
    for cap, loader in zip(caps, loaders, strict=True):
        loop(cap.__enter__(), cap._model, loader)
    caps[0].__exit__(None, None, None)  # its ten images are as many as were announced
    with pytest.raises(
        sd.IncompleteRun, match=r"20 different images came, 10 were announced.*of all processes together"
    ):
        caps[1].__exit__(None, None, None)


def test_a_shard_that_a_dead_rank_left_in_its_state_is_not_taken_again(data, expected, tmp_path, monkeypatch):
    """It died between saving its state and its first commit, after another rank had begun."""
    model, out = Pools(), tmp_path / "run"

    def dies(self, shard, content):
        raise ZeroDivisionError

    first = capturing(model, data, out, shard=(0, 2))
    loader = DataLoader(Images(data), 4, sampler=range(8))
    with pytest.raises(ZeroDivisionError), first as cap:
        loop(cap, model, loader)
        second = capturing(model, data, out, shard=(1, 2)).__enter__()
        monkeypatch.setattr(Ledger, "commit", dies)
        cap._arrivals._recorder.flush()
    monkeypatch.undo()
    loop(second, model, DataLoader(Images(data), 4, sampler=range(8, N)))
    second.__exit__(None, None, None)
    with capturing(model, data, out) as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    assert_counts(sd.score(out, data), expected)


def test_a_rank_that_was_missing_something_before_does_not_speak_too_early(data, expected, tmp_path):
    model, out = Pools(), tmp_path / "run"
    with pytest.raises(sd.IncompleteRun, match="missing"):
        for rank in range(2):
            sampler = DistributedSampler(range(N), 2, rank, shuffle=False)
            with capturing(model, data, out, shard=(rank, 2)) as cap:
                loop(cap, model, DataLoader(Images(data), 4, sampler=sampler, drop_last=True))
    for rank in range(2):  # rank 0 ends before rank 1 begins, and is silent
        sampler = DistributedSampler(range(N), 2, rank, shuffle=False)
        with capturing(model, data, out, shard=(rank, 2)) as cap:
            loop(cap, model, DataLoader(Images(data), 4, sampler=sampler))
    assert_counts(sd.score(out, data), expected)


def test_ranks_may_be_of_another_number_when_they_go_on(data, expected, tmp_path):
    out, model = tmp_path / "run", Pools()
    for rank in range(2):
        sampler = DistributedSampler(range(N), 2, rank, shuffle=True, seed=3)
        with pytest.raises(ZeroDivisionError), capturing(model, data, out, shard=(rank, 2)) as cap:
            loop(cap, model, DataLoader(Images(data), 2, sampler=sampler), stop_after=3)
    with capturing(model, data, out) as cap:
        assert loop(cap, model, DataLoader(Images(data), 1), skips=True) == N - 12
    assert_counts(sd.score(out, data), expected)


def test_a_killed_process_costs_only_what_it_had_not_committed(data, expected, tmp_path):
    out, model = tmp_path / "run", Pools()
    [(code, _)] = ended(start(data, out, "sampler = Dying()"))
    assert code == -signal.SIGKILL and (out / "run.json").exists()
    with capturing(model, data, out) as cap:
        loop(cap, model, DataLoader(Images(data), 4))
    assert_counts(sd.score(out, data), expected)


def test_a_second_process_alone_is_refused(data, tmp_path):
    model = Pools()
    with pytest.raises(ZeroDivisionError), capturing(model, data, tmp_path / "run") as cap:
        for index, batch in DataLoader(Images(data), 4):
            with cap.images(index):
                model(batch)
            [(code, message)] = ended(start(data, tmp_path / "run", "sampler = range(20)"))
            assert (
                code == 1 and "into which another process captures" in message and "a directory of its own" in message
            )
            raise ZeroDivisionError


def test_processes_that_bring_the_same_images_are_found_or_counted_once(data, expected, tmp_path):
    """Both ranks run over everything; what the first has committed is dropped by the second."""
    out, model = tmp_path / "run", Pools()
    for rank in range(2):
        with capturing(model, data, out, shard=(rank, 2)) as cap:
            loop(cap, model, DataLoader(Images(data), 4))
    assert_counts(sd.score(out, data), expected)


def test_images_committed_twice_are_named(data, tmp_path, monkeypatch):
    out, model = tmp_path / "run", Pools()
    with pytest.raises(ZeroDivisionError), capturing(model, data, out, shard=(0, 2)) as cap:
        loop(cap, model, DataLoader(Images(data), 4), stop_after=2)
    monkeypatch.setattr(arrivals.Arrivals, "_look_at_commits", lambda self: None)  # as if both were at it at once
    with (
        pytest.raises(sd.IncompleteRun, match=r"image 0 stands in shards 0 and 2; give each image to one process"),
        capturing(model, data, out, shard=(1, 2)) as cap,
    ):
        loop(cap, model, DataLoader(Images(data), 4, sampler=range(7)))


def test_more_rows_than_shards(data, tmp_path, monkeypatch):
    out, model = tmp_path / "run", Pools()
    monkeypatch.setattr(arrivals.Arrivals, "_look_at_commits", lambda self: None)
    with pytest.raises(ZeroDivisionError), capturing(model, data, out, shard=(0, 2)) as cap:
        loop(cap, model, DataLoader(Images(data), 4), stop_after=4)
    with (
        pytest.raises(sd.IncompleteRun, match="more than 20 images came, in several processes"),
        capturing(model, data, out, shard=(1, 2)) as cap,
    ):
        loop(cap, model, DataLoader(Images(data), 4))


@given(st.lists(st.integers(0, 5000)))
def test_index_sets_are_sets(indices):
    found = IndexSet(indices)
    assert len(found) == len(set(indices))
    assert {index for index in range(5001) if index in found} == set(indices)
