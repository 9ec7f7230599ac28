"""Every form in which a model may come, from the command line to the stored arrays; and those that are refused."""

import importlib.util
import json
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from torch import nn

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.models import load_model
from streamdissect.options import IMAGENET_MEAN, IMAGENET_STD, ExtractOptions

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
SCENES = "synth:?n=16&size=64"
ANY_BATCH = ({0: torch.export.Dim("batch")},)
FORMS = {
    "tiny_resnet": (["stage1.act", "stage2.act"], []),
    "tiny_vit": (["patches", "blocks.0.mlp", "blocks.1.mlp"], ["--prefix-tokens", "5"]),
    "tiny_convnext": (["stage1.depthwise", "stage1.gelu", "stage2.gelu"], []),
}
"""Layers of the examples that are recorded, and what has to be said about them."""


def built(name):
    """The untrained network that `extract` builds with its default seed."""
    return load_model(f"{EXAMPLES / name}.py:build").module


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`exported(name)`: an example as an exported program for any batch."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(name):
        if name not in made:
            made[name] = write_program(built(name), folder / f"{name}.pt2")
        return made[name]

    return export


def write_program(module, path, size=64, dynamic_shapes=ANY_BATCH, n=2):
    program = torch.export.export(module, (torch.zeros(n, 3, size, size),), dynamic_shapes=dynamic_shapes)
    torch.export.save(program, path)
    return path


def stored(run, layer):
    return zarr.open_array(Path(run) / "activations.zarr" / layer, mode="r")[:]


def batches(data, size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    mean, std = (torch.tensor(three)[:, None, None] for three in (mean, std))
    images = torch.stack([torch.from_numpy(data.image(i)).permute(2, 0, 1) for i in range(len(data))])
    return ((images / 255 - mean) / std).split(size)


def by_hand(module, layers, data):
    """(N, K, h, w) float16 by layer, with hooks of our own and a word on each form of tensor."""
    found = {name: [] for name in layers}

    def keep(name):
        def hook(part, inputs, output):
            if output.ndim == 3:  # five tokens, then 8 x 8 of them
                output = output[:, 5:].reshape(-1, 8, 8, output.shape[2]).permute(0, 3, 1, 2)
            elif "gelu" in name:
                output = output.permute(0, 3, 1, 2)
            found[name].append(output.half().numpy().copy())

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    with torch.inference_mode():
        for batch in batches(data):
            module(batch)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.fixture
def said(capsys):
    """`said("word", ..., arguments=[...])`: refused with exit code 2, in one line that holds the words."""

    def call(*words, arguments):
        assert main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("extract: no --weights")]
        assert out == "" and len(lines) == 1, (out, lines)
        assert all(word in lines[0] for word in words), lines[0]
        assert "Traceback" not in err
        return lines[0]

    return call


def extracting(model, layers, out, *more, data=SCENES):
    return ["extract", "--model", model, "--data", data, "--layers", layers, "--out", out, *more]


@pytest.mark.parametrize("name", FORMS)
def test_the_examples_are_listed_extracted_and_scored_as_a_hook_of_ones_own_sees_them(name, tmp_path, capsys):
    layers, more = FORMS[name]
    model, out = f"{EXAMPLES / name}.py:build", tmp_path / "run"
    assert main(["layers", "--model", model, "--input-size", "64", "64", "--json"]) == 0
    rows = {row["layer"]: row for row in json.loads(capsys.readouterr().out)["layers"]}
    assert rows.keys() >= set(layers)
    arguments = extracting(model, ",".join(layers), out, "--batch-size", "16", *more)
    assert main([str(a) for a in arguments]) == 0
    expected = by_hand(built(name), layers, sd.open_dataset(SCENES))
    for layer in layers:
        np.testing.assert_array_equal(stored(out, layer), expected[layer] + np.float16(0))
    fields = {layer["array"]["name"]: layer["field"] for layer in json.loads((out / "run.json").read_text())["layers"]}
    assert {layer: field["text"] if field else None for layer, field in fields.items()} == {
        layer: rows[layer]["field"] for layer in layers
    }
    assert main(["score", str(out)]) == 0
    result = sd.score(out)
    assert list(result.layers) == layers
    for layer in layers:
        assert len(result.layer(layer).threshold) == expected[layer].shape[1]


def test_the_field_maps_of_units_that_come_last(tmp_path):
    """By hand: the stem has (0, 4, 4), a depthwise kernel of 7 adds 6 steps."""
    rows = {row["layer"]: row for row in sd.layers(f"{EXAMPLES / 'tiny_convnext.py'}:build", input_size=(64, 64))}
    assert rows["stage1.gelu"]["shape"] == [16, 16, 32]
    assert rows["stage1.gelu"]["field"] == rows["stage1.depthwise"]["field"] == "(-12,28,4)"
    assert rows["stage2.gelu"]["field"] == "(-36,80,8)"


def test_class_and_register_tokens_are_not_guessed(said, tmp_path):
    arguments = extracting(f"{EXAMPLES / 'tiny_vit.py'}:build", "blocks.0.mlp", tmp_path / "run")
    said("blocks.0.mlp", "69 tokens", "--prefix-tokens 5 (then 8 x 8 are left)", arguments=arguments)


def test_a_perceptron_has_units_of_the_whole_image(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 7), nn.ReLU(), nn.Unflatten(1, (7, 1, 1)))
    sd.extract(net, SCENES, ["1", "2", "3"], tmp_path / "run", batch_size=16)
    data = sd.open_dataset(SCENES)
    with torch.inference_mode():
        expected = net[1](batches(data)[0].flatten(1)).half().numpy()
    assert stored(tmp_path / "run", "1").shape == (16, 7, 1, 1)
    np.testing.assert_array_equal(stored(tmp_path / "run", "1")[..., 0, 0], expected)
    np.testing.assert_array_equal(stored(tmp_path / "run", "2"), stored(tmp_path / "run", "3"))
    result = sd.score(tmp_path / "run", data)
    assert (result.layer("1").unit_area_all % (32 * 32) == 0).all(), "whole images or nothing"


@pytest.mark.parametrize("name", FORMS)
def test_an_exported_program_is_its_network(name, exported, tmp_path, capsys):
    layers, more = FORMS[name]
    path, out, plain = exported(name), tmp_path / "run", tmp_path / "plain"
    arguments = extracting(path, ",".join(layers), out, "--trust-model", "--dtype", "float32", *more)
    assert main([str(a) for a in arguments]) == 0
    assert "no --weights" not in capsys.readouterr().err
    options = ExtractOptions(prefix_tokens=int(more[1]) if more else None, dtype="float32")
    sd.extract(f"{EXAMPLES / name}.py:build", SCENES, layers, plain, options=options)
    one, other = (json.loads((run / "run.json").read_text()) for run in (out, plain))
    assert one["identity"]["model"] == str(path)
    assert one["identity"]["state"] == other["identity"]["state"]
    assert one["identity"]["code"] == blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert [layer["field"] for layer in one["layers"]] == [layer["field"] for layer in other["layers"]]
    for layer in layers:
        np.testing.assert_allclose(stored(out, layer), stored(plain, layer), rtol=1e-4, atol=1e-5)
    assert main([str(a) for a in arguments]) == 0, "the same again is done"
    assert main(["score", str(out)]) == 0


def test_an_exported_program_lists_its_layers_and_takes_weights(exported, tmp_path, said, capsys):
    path = exported("tiny_resnet")
    with pytest.raises(sd.BadInput, match="trust_model=True"):
        sd.layers(str(path), input_size=(64, 64))
    assert main(["layers", "--model", str(path), "--trust-model", "--input-size", "64", "64"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["stage1.conv1", "Conv2d", "16", "x", "16", "x", "16", "(-3,7,4)"] in table
    other = load_model(f"{EXAMPLES / 'tiny_resnet.py'}:build", seed=7)
    torch.save({"state_dict": {"module." + k: v for k, v in other.module.state_dict().items()}}, tmp_path / "w.pt")
    loaded = load_model(str(path), str(tmp_path / "w.pt"), trust=True)
    assert loaded.state_hash == other.state_hash != load_model(str(path), trust=True).state_hash
    x = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(loaded.module(x), other.module(x))
    arguments = extracting(path, "stage1.act", tmp_path / "run", "--trust-model", "--weights")
    said("'random'", "cannot be initialised anew", "callable", arguments=[*arguments, "random"])
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "bad.pt")
    said("29 missing", "another shape: stem.weight", arguments=[*arguments, tmp_path / "bad.pt"])


def test_an_exported_program_says_what_it_cannot_take(exported, said, tmp_path):
    path = exported("tiny_resnet")
    arguments = extracting(path, "stage1.act", tmp_path / "run")
    said("can run code", "--trust-model", arguments=arguments)
    said("32x32", "64x64", "--input-size 64 64", arguments=[*arguments, "--trust-model", "--input-size", 32, 32])
    arguments = extracting(path, "stage1.akt", tmp_path / "run", "--trust-model")
    said("'stage1.akt'", "nearest", "'stage1.act'", arguments=arguments)
    arguments = extracting(f"{path}?depth=3", "stage1.act", tmp_path / "run", "--trust-model")
    said("tiny_resnet.pt2' alone", "only callables take arguments", arguments=arguments)
    assert not (tmp_path / "run").exists()


def test_a_program_exported_for_one_batch_says_so_before_any_work(said, tmp_path):
    path = write_program(built("tiny_resnet"), tmp_path / "six.pt2", dynamic_shapes=None, n=6)
    arguments = extracting(path, "stage1.act", tmp_path / "run", "--trust-model")
    line = said("--batch-size: got 32, expected 6", "give --batch-size 6", arguments=arguments)
    assert "dynamic_shapes=({0: torch.export.Dim('batch')},)" in line
    arguments += ["--batch-size", 6]
    said("images: got 16", "a multiple of 6", "--limit 12", "Dim('batch')", arguments=arguments)
    arguments += ["--limit", 12]
    said("--shard-images", "got 9", "a multiple of 6", arguments=[*arguments, "--shard-images", 9])
    assert not (tmp_path / "run").exists()
    assert main([str(a) for a in arguments]) == 0
    field = json.loads((tmp_path / "run" / "run.json").read_text())["layers"][0]["field"]
    assert field["text"] == "(-7,15,4)"
    assert main(["layers", "--model", str(path), "--trust-model", "--input-size", "64", "64"]) == 0


def test_a_program_exported_for_any_size_takes_any(tmp_path):
    auto = torch.export.Dim.AUTO
    shapes = ({0: torch.export.Dim("batch"), 2: auto, 3: auto},)
    path = write_program(built("tiny_convnext"), tmp_path / "any.pt2", dynamic_shapes=shapes)
    sd.extract(str(path), SCENES, ["stage2.gelu"], tmp_path / "run", trust_model=True, input_size=(32, 48))
    assert stored(tmp_path / "run", "stage2.gelu").shape == (16, 64, 4, 6)


@pytest.mark.parametrize("part", [nn.BatchNorm2d(4), nn.Dropout(0.3)])
def test_a_program_exported_in_training_mode_is_refused(part, said, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), part, nn.ReLU()).train()
    path = write_program(net, tmp_path / "train.pt2")
    arguments = extracting(path, "2", tmp_path / "run", "--trust-model")
    said("exported in training mode", "model.eval()", arguments=arguments)
    write_program(net.eval(), path)
    assert main([str(a) for a in arguments]) == 0


def test_a_program_of_two_inputs_is_refused(mistakes, said, tmp_path):
    two = load_model(f"{mistakes}:Two").module
    program = torch.export.export(two, (torch.zeros(2, 3, 64, 64), torch.zeros(2, 4, 62, 62)))
    torch.export.save(program, tmp_path / "two.pt2")
    arguments = extracting(tmp_path / "two.pt2", "conv", tmp_path / "run", "--trust-model")
    said("a program with 2 inputs", "just the images", arguments=arguments)


@pytest.mark.parametrize("ending", [".pt2", ".pt", ".ts"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused_with_the_way_out(ending, said, tmp_path):
    path = tmp_path / f"net{ending}"
    torch.jit.save(torch.jit.script(built("tiny_resnet").stem), path)
    arguments = extracting(path, "0", tmp_path / "run", "--trust-model")
    line = said("a TorchScript program", "take no hooks", "name the callable", arguments=arguments)
    assert "torch.export.save(torch.export.export(model.eval(), (example,), dynamic_shapes=" in line


def test_files_that_are_no_programs_are_refused_with_the_way_out(exported, said, tmp_path):
    whole, weights, damaged, state = (tmp_path / name for name in ("whole.pt", "weights.pth", "cut.pt2", "state.pt2"))
    net = built("tiny_resnet")
    torch.save(net, whole)
    torch.save(net.state_dict(), weights)
    torch.save(net.state_dict(), state)
    damaged.write_bytes(exported("tiny_resnet").read_bytes()[:5000])
    for path, *words in (
        (whole, "no plain state dict", "state_dict() as --weights", "torch.export.save("),
        (weights, "holds weights only", f"--weights {weights}"),
        (damaged, "an exported program that PyTorch", "torch.export.save("),
        (state, "an exported program that PyTorch", "torch.export.save("),
        (tmp_path / "cut.pt", "a file", "nearest is 'cut.pt2'"),
        (tmp_path / "state.pt3", "put a colon"),
    ):
        said(str(path), *words, arguments=extracting(path, "stem", tmp_path / "run", "--trust-model"))


def test_objects_without_hooks_are_refused(tmp_path):
    program = torch.export.export(built("tiny_resnet"), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=ANY_BATCH)
    for given, words in (
        (program, "ExportedProgram.*torch.export.unflatten"),
        (program.module(), "no hook ever fires.*torch.export.unflatten"),
        (nn.DataParallel(built("tiny_resnet")), "DataParallel.*model.module"),
        (["no", "model"], "a list"),
    ):
        with pytest.raises(sd.BadInput, match=words):
            sd.extract(given, SCENES, ["stem"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


MISTAKES = """\
import torch
from torch import nn

def net(): return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
def lazy(): return nn.Sequential(nn.LazyConv2d(4, 3))
def meta(): return net().to("meta")
def double(): return net().double()
def half(): return net().half()
def grey(): return nn.Sequential(nn.Conv2d(1, 4, 3))
def leaf(): return nn.Conv2d(3, 4, 3)
def parallel(): return nn.DataParallel(net())
def nothing(): pass
def scripted(): return torch.jit.script(net())
def partly(): return nn.Sequential(torch.jit.script(nn.ReLU()), nn.ReLU())

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.idle = nn.Conv2d(3, 4, 3), nn.ReLU()
    def forward(self, x, y): return self.conv(x) + y

class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pair, self.named, self.words = nn.Conv2d(3, 4, 3), Pair(), Named(), Words()
        self.idle = nn.ReLU()
    def forward(self, x):
        x = self.named(self.pair(self.conv(x))[0])["map"]
        return {"logits": x.mean((2, 3)), "more": (self.words(x), None)}

class Pair(nn.Module):
    def forward(self, x): return x, x + 1
class Named(nn.Module):
    def forward(self, x): return {"map": x, "more": 3}
class Words(nn.Module):
    def forward(self, x): return "text"
"""


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    path = tmp_path_factory.mktemp("mistakes") / "mistakes.py"
    path.write_text(MISTAKES)
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Lazy modules")
@pytest.mark.parametrize(
    "name, layers, words",
    [
        ("lazy", "0", ["0.weight has no shape yet (a lazy layer)", "example batch"]),
        ("meta", "0", ["device meta"]),
        ("double", "0", ["weights are float64", "model.float()"]),
        ("half", "0", ["weights are float16", "model.float()", "--amp"]),
        ("grey", "0", ["1 channels", "(B, 3, H, W)"]),
        ("leaf", "0", ["modules inside", "torch.nn.Sequential(model)"]),
        ("parallel", "0", ["DataParallel", "model.module"]),
        ("nothing", "0", ["returned a NoneType"]),
        ("scripted", "0", ["TorchScript", "torch.export.save("]),
        ("partly", "0", ["'0', which is TorchScript"]),
        ("Two", "conv", ["'y'", "wrap it in a module"]),
        ("Kinds", "words", ["layer words", "a str"]),
        ("Kinds", "conv,idle", ["'idle'", "never called"]),
        ("Kinds", "pear", ["'pear'", "'pair'"]),
        ("Kinds?depth=2", "pair", ["TypeError", "arguments after '?'"]),
        ("net", "0:gelu", ["'0:gelu'"]),
        ("net", "0#1", ["called 1 times", "at most #0"]),
    ],
)
def test_a_users_mistake_is_one_line(name, layers, words, mistakes, said, tmp_path):
    said(*words, arguments=extracting(f"{mistakes}:{name}", layers, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_tuples_and_dicts_give_their_first_tensor(mistakes, tmp_path, capsys):
    sd.extract(f"{mistakes}:Kinds", SCENES, ["conv", "pair", "named"], tmp_path / "run")
    for layer in ("pair", "named"):
        np.testing.assert_array_equal(stored(tmp_path / "run", layer), stored(tmp_path / "run", "conv"))
    names = [row["layer"] for row in sd.layers(f"{mistakes}:Kinds", input_size=(64, 64))]
    assert names == ["conv", "pair", "named"]
    with pytest.raises(sd.BadInput, match="no module runs"):
        sd.layers(f"{mistakes}:leaf", input_size=(64, 64))


def test_a_run_of_a_wrapped_network_is_that_of_the_network(tmp_path, assert_same_runs):
    wrapped, out, plain = torch.compile(built("tiny_resnet"), backend="eager"), tmp_path / "run", tmp_path / "plain"
    sd.extract(wrapped, SCENES, ["module._orig_mod.stage1.act", "_orig_mod.stem"], out)
    sd.extract(built("tiny_resnet"), SCENES, ["stage1.act", "stem"], plain)
    assert_same_runs(out, plain)
    assert sorted(p.name for p in (out / "activations.zarr").iterdir() if p.is_dir()) == ["stage1.act", "stem"]
    one, other = (json.loads((run / "run.json").read_text())["identity"] for run in (out, plain))
    assert one == other


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_autocast_on_the_cpu(dtype, tmp_path, said):
    model = f"{EXAMPLES / 'tiny_resnet.py'}:build"
    options = {"layers": ["stem", "stage2.act"], "dtype": dtype}
    plain = sd.extract(model, SCENES, out=tmp_path / "off", **options)
    run = sd.extract(model, SCENES, out=tmp_path / "bf16", amp="bf16", **options)
    assert (plain.manifest["identity"]["amp"], run.manifest["identity"]["amp"]) == ("off", "bf16")
    for layer in options["layers"]:
        exact, found = stored(tmp_path / "off", layer), stored(tmp_path / "bf16", layer)
        assert found.dtype == dtype and np.isfinite(found).all()
        assert not np.array_equal(exact, found)
        np.testing.assert_allclose(found.astype("f8"), exact.astype("f8"), rtol=0.05, atol=0.05)
    # bfloat16 has 8 significant bits: what came out of a convolution still shows it
    bits = np.frombuffer(stored(tmp_path / "bf16", "stem").astype(np.float32).tobytes(), np.uint32)
    assert not (bits & 0xFFFF).any()
    arguments = extracting(model, "stem,stage2.act", tmp_path / "bf16", "--dtype", dtype)
    said("amp", "'bf16' as when it was made", arguments=arguments)


def test_overflow_is_seen_behind_autocast(nets, said, tmp_path):
    arguments = extracting(f"{nets}:loud", "block1.act", tmp_path / "run", "--amp")
    said("unit", "65504", "--dtype float32", arguments=[*arguments, "bf16"])
    said("unit", "nan", "give --amp bf16 or off", arguments=[*arguments, "fp16", "--dtype", "float32"])
    assert main([str(a) for a in [*arguments, "bf16", "--dtype", "float32"]]) == 0
    assert np.abs(stored(tmp_path / "run", "block1.act")).max() > 65504


class Orders(nn.Module):
    """Remembers in which memory format its input came."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()
        self.conv2, self.seen = nn.Conv2d(8, 6, 3, 2, 1), []

    def forward(self, x):
        self.seen.append((x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)))
        return self.conv2(self.relu(self.conv1(x)))


def test_a_network_in_channels_last_is_fed_so_and_stored_like_any(tmp_path, monkeypatch):
    from streamdissect.stages import forward

    kept = []
    real = forward.to_stored
    monkeypatch.setattr(forward, "to_stored", lambda *given: kept.append(real(*given)) or kept[-1])
    torch.manual_seed(0)
    net = Orders()
    sd.extract(net, SCENES, ["relu", "conv2"], tmp_path / "first", dtype="float32")
    assert all(order == (True, False) for order in net.seen)
    net.seen.clear()
    sd.extract(net.to(memory_format=torch.channels_last), SCENES, ["relu", "conv2"], tmp_path / "last", dtype="float32")
    assert (False, True) in net.seen and (True, False) not in net.seen[:1]
    assert all(maps.flags.c_contiguous for maps in kept)
    for layer in ("relu", "conv2"):
        first, last = stored(tmp_path / "first", layer), stored(tmp_path / "last", layer)
        assert first.shape == last.shape
        np.testing.assert_allclose(last, first, rtol=1e-4, atol=1e-5)


class Recorder(nn.Module):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.out, self.seen = nn.Identity(), []

    def forward(self, x):
        self.seen.append(x.clone())
        return self.out(x)


@pytest.mark.parametrize("size", [None, (40, 56)])
@pytest.mark.parametrize("mean, std", [(IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.25, 0.0), (1.0, 0.5, 2.0))])
def test_the_network_sees_the_documented_numbers(size, mean, std, tmp_path):
    """Pillow's bilinear resize of the bytes, then (x / 255 - mean) / std, all in float32."""
    data, net = sd.open_dataset(SCENES), Recorder()
    options = {"mean": mean, "std": std, "input_size": size, "batch_size": 16, "dtype": "float32", "limit": 16}
    sd.extract(net, data, ["out"], tmp_path / "run", **options)
    images = [data.image(i) for i in range(len(data))]
    if size is not None:
        images = [np.asarray(Image.fromarray(i).resize((size[1], size[0]), Image.Resampling.BILINEAR)) for i in images]
    given = np.stack(images).transpose(0, 3, 1, 2)
    assert given.dtype == np.uint8
    centre, scale = (np.array(three, np.float32)[:, None, None] for three in (mean, std))
    expected = (given.astype(np.float32) / np.float32(255) - centre) / scale
    seen = [x for x in net.seen if len(x) == 16]
    assert seen and all(x.dtype == torch.float32 for x in seen)
    for x in seen:
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(stored(tmp_path / "run", "out"), seen[-1].numpy() + 0.0)


def test_a_shared_module_of_several_sizes_in_an_exported_program(tmp_path):
    """Export gives each call graph of a shared module a name of its own, with an @."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.down, self.act = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), Doubling()

        def forward(self, x):
            return self.act(self.down(self.act(self.conv(x))))

    class Doubling(nn.Module):
        def forward(self, x):
            return x * x.shape[-1]

    torch.manual_seed(0)
    net = Shared().eval()
    path = write_program(net, tmp_path / "shared.pt2")
    names = [row["layer"] for row in sd.layers(str(path), input_size=(64, 64), trust_model=True)]
    second = next(name for name in names if name.startswith("act@"))
    sd.extract(str(path), SCENES, [second, "conv"], tmp_path / "run", trust_model=True)
    sd.extract(net, SCENES, ["act#1", "conv"], tmp_path / "plain")
    np.testing.assert_array_equal(stored(tmp_path / "run", second), stored(tmp_path / "plain", "act#1"))
    assert sd.score(tmp_path / "run").layer(second).iou.shape[0] == 4


def test_the_examples_are_short_and_alone():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == FORMS.keys()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40
        found = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        assert isinstance(module.build(), nn.Module)
