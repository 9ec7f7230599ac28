"""Networks by name, weights from files, and what is said about those that do not fit."""

import os
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from streamdissect.errors import BadInput
from streamdissect.models import load_model
from streamdissect.models.loading import hash_state

NET = """\
import torch
from torch import nn
from sibling import WIDTH

class Net(nn.Sequential):
    def __init__(self, width=WIDTH, name="plain"):
        super().__init__(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.name = name

def broken(): raise RuntimeError("no luck")
def words(): return ["a", "list"]
def scripted(): return torch.jit.script(nn.ReLU())
NUMBER = 5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory, the current one, with nets.py and its sibling."""
    (tmp_path / "nets.py").write_text(NET)
    (tmp_path / "sibling.py").write_text("WIDTH = 4\n")
    (tmp_path / "faulty.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    import sys

    for name in ("nets", "sibling", "faulty"):
        sys.modules.pop(name, None)


def same(a, b):
    return hash_state(a) == hash_state(b)


def refusal(*args):
    """The line of a refused load."""
    with pytest.raises(BadInput) as caught:
        load_model(*args)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_file_and_module(folder):
    by_file = load_model("nets.py:Net?width=6&name=other")
    assert by_file.spec == f"{folder}/nets.py:Net?width=6&name=other"
    assert (by_file.module[0].out_channels, by_file.module.name) == (6, "other")
    assert not by_file.module.training
    assert by_file.weights is None
    by_name = load_model("nets:Net")
    assert by_name.spec == "nets:Net"
    assert by_name.module[0].out_channels == 4


def test_building_is_seeded_and_leaves_the_generator(folder):
    before = torch.get_rng_state()
    one, again, other = (load_model("nets:Net", None, seed) for seed in (0, 0, 1))
    assert one.state_hash == again.state_hash != other.state_hash
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_are_seeded(folder):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    kept, before = hash_state(net), torch.get_rng_state()
    one, again, other = (load_model(net, "random", seed) for seed in (0, 0, 1))
    assert one.weights == "random"
    assert one.state_hash == again.state_hash != other.state_hash
    assert hash_state(net) == kept != one.state_hash
    assert torch.equal(torch.get_rng_state(), before)


class Attending(nn.Module):
    """Initialised by both of PyTorch's names for it; a token and a scale as they are untrained, or else places."""

    def __init__(self, places=None):
        super().__init__()
        self.attend, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.token, self.scale = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.full((8,), 1e-6))
        if places is not None:
            self.places = nn.Parameter(places)


def test_random_weights_leave_nothing_trained():
    net = Attending()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in ("token", "scale"):
                parameter.copy_(torch.linspace(3, 4, parameter.numel()).reshape(parameter.shape))
    found = dict(load_model(net, "random").module.named_parameters())
    assert all(float(value.detach().abs().max()) < 3 for value in found.values())
    assert not found["token"].any() and (found["scale"] == 1e-6).all()
    torch.manual_seed(0)
    fresh = dict(nn.Sequential(nn.MultiheadAttention(8, 2)).named_parameters())
    assert torch.equal(fresh["0.out_proj.bias"], found["attend.out_proj.bias"]), "those inside go first, as when built"
    assert all(value.requires_grad for value in found.values())


@pytest.mark.parametrize("fill", [0.0, None])
def test_parameters_that_nothing_initialises_are_no_random_weights_if_they_may_be_trained(fill):
    places = torch.linspace(0, 1, 32).reshape(1, 4, 8) if fill is None else torch.full((1, 4, 8), fill)
    net = Attending(places)
    if fill is None:
        line = refusal(net, "random")
        assert "nothing initialises places anew" in line and "leave --weights out" in line
    else:
        assert torch.equal(load_model(net, "random").module.places, places)


def test_shipped():
    trained, baseline = load_model("shipped"), load_model("shipped", "random")
    assert trained.spec == "shipped"
    assert trained.state_hash != baseline.state_hash == load_model("shipped", "random").state_hash


def test_an_object():
    net = nn.ReLU().train()
    loaded = load_model(net)
    assert loaded.module is net
    assert loaded.spec == "python:torch.nn.modules.activation.ReLU"


def test_hash_sees_keys_types_shapes_and_bytes():
    def state(**tensors):
        net = nn.Module()
        for name, tensor in tensors.items():
            net.register_buffer(name, tensor)
        return hash_state(net)

    one = torch.ones(2, 3)
    others = [state(b=one), state(a=one.T), state(a=one.half()), state(a=one * 2), state(a=one, b=one), state()]
    assert state(a=one) not in others
    assert len(set(others)) == len(others)
    assert state(a=one, b=one * 2) == state(b=one * 2, a=one)
    assert state(a=torch.tensor(1)) != state(a=torch.tensor(2))
    assert state(a=one.bfloat16()) != state(a=one.half())


@pytest.mark.parametrize(
    "spec, parts",
    [
        ("nets", ["package.module:callable", "colon"]),
        ("nest.py:Net", ["nest.py", "nearest is 'nets.py'"]),
        ("nowhere/x.py:Net", ["x.py", "check the path"]),
        ("netz:Net", ["no 'netz'", "'nets'"]),
        ("torch.nnn:Net", ["no 'torch.nnn'", "'torch.nn'"]),
        ("nets:Nut", ["named 'Nut'", "'Net'"]),
        ("nets:NUMBER", ["callable", "an int"]),
        ("nets:broken", ["RuntimeError: no luck"]),
        ("nets:words", ["returned a list", "torch.nn.Module"]),
        ("nets:Net?depth=3", ["TypeError", "arguments after '?'"]),
        ("nets:Net?3", ["?key=value", "'3'"]),
        ("faulty:Net", ["not_installed_anywhere", "install"]),
        ("faulty.py:Net", ["not_installed_anywhere", "correct the file"]),
        ("nett.pt2", ["a file", "nearest is 'nets.py'"]),
        ("net.onnx?a=1", ["'net.onnx' alone", "only callables"]),
        ("shipped?width=3", ["'shipped' alone", "only callables"]),
        (":Net", ["package.module:callable", "colon"]),
    ],
)
def test_what_cannot_be_loaded(folder, spec, parts):
    line = refusal(spec)
    assert line.startswith(f"model: got {spec!r}")
    for part in parts:
        assert part in line, line


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused(folder):
    assert "TorchScript takes no hooks" in refusal("nets:scripted")


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_zoo_that_does_not_import_says_why(package, monkeypatch):
    from streamdissect.models import loading

    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(loading.importlib, "import_module", fail)
    line = refusal(f"{package}:resnet18")
    assert "RuntimeError: operator torchvision::nms does not exist" in line
    assert f"install a {package}" in line


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """`zoo(package, **files)`: a package on disk, first on Python's path and forgotten afterwards."""
    import sys

    made = []

    def make(package, **files):
        (tmp_path / package).mkdir()
        for name, text in files.items():
            (tmp_path / package / f"{name}.py").write_text(text)
        made.append(package)

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield make
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in made:
            del sys.modules[name]


@pytest.mark.parametrize("error", ["RuntimeError('no operator nms')", "ImportError('no libjpeg')", "KeyError('x')"])
@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_an_installed_zoo_that_fails_to_import_is_one_line(package, error, zoo):
    zoo(package, __init__=f"raise {error}\n")
    line = refusal(f"{package}:resnet18")
    assert error.partition("(")[0] in line and f"install a {package} that fits PyTorch {torch.__version__}" in line


def test_an_installed_zoo_is_asked_for_an_untrained_network(zoo):
    function = """\
import torch
def {name}(name, {weights}, num_classes=10):
    if name != "tiny":
        raise ValueError(f"Unknown model {{name}}")
    assert not {weights}
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, num_classes))
"""
    zoo("torchvision", __init__="", models=function.format(name="get_model", weights="weights"))
    zoo("timm", __init__=function.format(name="create_model", weights="pretrained"))
    for package in ("torchvision", "timm"):
        loaded = load_model(f"{package}:tiny?num_classes=7")
        assert loaded.spec == f"{package}:tiny?num_classes=7"
        assert loaded.module(torch.zeros(1, 3, 2, 2)).shape == (1, 7)
        assert "Unknown model huge" in refusal(f"{package}:huge")


def test_a_zoo_that_imports(monkeypatch):
    from types import SimpleNamespace

    from streamdissect.models import loading

    asked = []

    def make(name, **arguments):
        asked.append((name, arguments))
        return nn.ReLU()

    monkeypatch.setattr(
        loading.importlib, "import_module", lambda name: SimpleNamespace(get_model=make, create_model=make)
    )
    load_model("torchvision:alexnet?num_classes=5")
    load_model("timm:vit")
    assert asked == [("alexnet", {"weights": None, "num_classes": 5}), ("vit", {"pretrained": False})]


@pytest.fixture
def trained(folder):
    """A network whose weights are not those it starts with."""
    return load_model("nets:Net", "random", 7).module


@pytest.mark.parametrize("extension", ["pt", "pth", "th", "bin"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_pickled_weights(folder, trained, extension, wrapper, prefix):
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, f"w.{extension}")
    loaded = load_model("nets:Net", f"w.{extension}")
    assert loaded.weights == f"{folder}/w.{extension}"
    assert same(loaded.module, trained)


def test_half_precision_safetensors(folder, trained):
    save_file({key: value.half() for key, value in trained.state_dict().items()}, "w.safetensors")
    module = load_model("nets:Net", "w.safetensors").module
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, trained[0].weight.half().float())


def test_strict(folder, trained):
    state = trained.state_dict()
    state["head.weight"] = state.pop("0.bias")
    state["1.bias"] = torch.zeros(5)
    torch.save(state, "w.pt")
    line = refusal("nets:Net", "w.pt")
    assert "1 missing: 0.bias" in line
    assert "1 unexpected: head.weight" in line
    assert "1 of another shape: 1.bias (5,) for (4,)" in line
    torch.save({f"x{i}": torch.zeros(1) for i in range(9)}, "w.pt")
    assert "9 unexpected: x0, x1, x2, ..." in refusal("nets:Net", "w.pt")


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("stolen",)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": {}, "args": x}])
def test_a_malicious_pickle_is_refused(folder, wrap):
    torch.save(wrap(Payload()), "w.pt")
    line = refusal("nets:Net", "w.pt")
    assert "may run code and was not loaded" in line
    (folder / "w.bin").write_bytes(pickle.dumps(Payload(), 2))
    refusal("nets:Net", "w.bin")
    assert not (folder / "stolen").exists()


def test_a_whole_model_is_refused(folder):
    torch.save(nn.Sequential(nn.ReLU()), "w.pt")
    assert "save model.state_dict() alone" in refusal("nets:Net", "w.pt")


@pytest.mark.parametrize("extension", ["safetensors", "pt", "th"])
def test_damaged_weights(folder, trained, extension):
    path = folder / f"w.{extension}"
    save = save_file if extension == "safetensors" else torch.save
    save(trained.state_dict(), path)
    whole = path.read_bytes()
    noise = random.Random(0).randbytes(300)
    for content in (b"", whole[:50], whole[: len(whole) // 2], noise):
        path.write_bytes(content)
        line = refusal("nets:Net", str(path))
        assert str(path) in line


def test_other_weights(folder):
    assert "a file that exists" in refusal("nets:Net", "absent.pt")
    (folder / "w.npz").write_bytes(b"")
    assert ".safetensors or .pt" in refusal("nets:Net", "w.npz")
    torch.save([1, 2], "w.pt")
    assert "a state dict" in refusal("nets:Net", "w.pt")


def test_real_network(shared_models):
    loaded = load_model(f"{shared_models}/resnet_cifar.py:resnet56", f"{shared_models}/resnet56_cifar10.safetensors")
    assert loaded.module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert len(loaded.state_hash) == 32


def test_a_module_where_a_callable_is_wanted_and_the_other_way_round(tmp_path):
    (tmp_path / "made.py").write_text("from torch import nn\n\nnet = nn.Sequential(nn.ReLU())\n")
    with pytest.raises(BadInput, match=r"a module that exists already, expected a callable.*def build\(\): return net"):
        load_model(f"{tmp_path / 'made.py'}:net")
    with pytest.raises(BadInput, match=r"got a function, expected a torch\.nn\.Module; call it, and pass what it"):
        load_model(lambda: nn.ReLU())
