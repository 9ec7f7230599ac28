"""A network from what the user named: a callable in a module or file, and a file of weights."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import default_generator

from ..errors import BadInput
from .weights import RANDOM, load_weights

ARCHIVES = (".pt2", ".pt", ".pth", ".ts", ".torchscript")
"""Endings of whole programs: exported or TorchScript."""
SHIPPED = "shipped"
FORMS = "package.module:callable, path/file.py:callable or torchvision:NAME"


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to run, and what it was made from."""

    module: nn.Module
    """In evaluation mode; on the CPU, unless it came as an object and lives elsewhere."""
    spec: str
    """What was named, with an absolute path; `python:` and the class for an object."""
    weights: str | None
    """Absolute path, `random`, or None: as the callable returns it."""
    state_hash: str
    """blake2b of the state dict."""
    code_hash: str | None
    """blake2b of the source file that defines the callable, or the class of an object; None where there is none."""


def load_model(spec: str | nn.Module, weights: str | None = None, seed: int = 0) -> LoadedModel:
    """The network that `spec` names.

    Parameters
    ----------
    spec : str or nn.Module
        `package.module:callable` (the current directory is on the path), `path/file.py:callable` (its directory is),
        both with `?key=value&key=value`: Python literals, else strings; `torchvision:NAME`, `timm:NAME`; `shipped`,
        the network that comes with the package; or a module. The callable returns a `torch.nn.Module`.
    weights : str, optional
        `.safetensors`, or `.pt`, `.pth`, `.th`, `.bin` of plain tensors, strictly matching; `random` initialises every
        layer anew. A module given as an object is copied first, so it keeps its own weights.
    seed : int
        Of every random number drawn while the network is built or initialised; global generators stay as they are.

    Returns
    -------
    LoadedModel

    Raises
    ------
    BadInput
        Nothing has that name, it fails, it is no module, or the weights are not those of this network.

    Notes
    -----
    Building is seeded even without `random`: a network that starts untrained is the same one when a run is resumed.

    >>> load_model("shipped").module(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 45])
    """
    with torch.random.fork_rng(devices=[]):
        default_generator.manual_seed(seed)
        if isinstance(spec, nn.Module):
            module = spec if weights is None else copy.deepcopy(spec)
            name, code = name_object(spec), hash_code(type(spec))
        else:
            module, name, code = build(spec, weights)
        path = None if weights is None else load_weights(module, weights, seed)
    module.eval()
    return LoadedModel(module, name, path, hash_state(module), code)


def name_object(module: nn.Module) -> str:
    """What stands for a network that came as an object: its class."""
    return f"python:{type(module).__module__}.{type(module).__qualname__}"


def hash_state(module: nn.Module) -> str:
    """blake2b over keys, dtypes, shapes and bytes of the state dict, in the order of the keys; 32 hex digits."""
    digest = blake2b(digest_size=16)
    state = module.state_dict()
    for key in sorted(state):
        value = state[key]
        if not isinstance(value, Tensor):  # a module's extra state
            digest.update(repr((key, value)).encode())
            continue
        digest.update(repr((key, str(value.dtype), tuple(value.shape))).encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hash_code(definition: Any) -> str | None:
    """blake2b of the source file of a function or class, 32 hex digits; None for what has none or comes installed."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(definition))
        if path is None or "site-packages" in path:
            return None
        with open(path, "rb") as file:
            return blake2b(file.read(), digest_size=16).hexdigest()
    except (TypeError, OSError):
        return None


def build(spec: str, weights: str | None) -> tuple[nn.Module, str, str | None]:
    """The module that a text names, the text with an absolute path, and the digest of the code."""
    target, _, query = spec.partition("?")
    arguments = parse_arguments(spec, query)
    if target == SHIPPED:
        from .shipped import scenes_net

        return scenes_net(trained=weights is None), SHIPPED, None
    if target.endswith(ARCHIVES):
        kind = "exported programs (.pt2)" if target.endswith(".pt2") else "TorchScript and whole-model files"
        remedy = f"{kind} are not supported in this version: name the callable that builds it, its file as --weights"
        raise BadInput("model", repr(spec), FORMS, remedy)
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise BadInput("model", repr(spec), FORMS, "put a colon and the name of a function or class behind it")
    if place in ("torchvision", "timm"):
        return call(spec, zoo(spec, place), [name], arguments), spec, None
    if place.endswith(".py"):
        path = os.path.abspath(os.path.expanduser(place))
        with on_path(os.path.dirname(path)):
            found = attribute(spec, import_file(spec, path), name)
            module = call(spec, found, [], arguments)
        return module, path + spec[len(place) :], hash_code(found)
    with on_path(os.getcwd()):
        found = attribute(spec, import_named(spec, place), name)
        return call(spec, found, [], arguments), spec, hash_code(found)


def parse_arguments(spec: str, query: str) -> dict[str, Any]:
    """`a=1&b=x` -> {"a": 1, "b": "x"}."""
    arguments: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput("model", repr(spec), "arguments as ?key=value&key=value", f"correct {part!r}")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[key] = text
    return arguments


@contextmanager
def on_path(directory: str) -> Iterator[None]:
    """A directory first among those that Python imports from."""
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)


def import_file(spec: str, path: str) -> ModuleType:
    """The module in a file, under a name of its own, executed anew each time."""
    if not os.path.isfile(path):
        folder = Path(path).parent
        near = get_close_matches(Path(path).name, [p.name for p in folder.glob("*.py")], 3) if folder.is_dir() else []
        raise BadInput("model", repr(spec), f"a file {path}", nearest(near) or "check the path")
    name = f"streamdissect_model_{blake2b(path.encode(), digest_size=8).hexdigest()}"
    loader = importlib.util.spec_from_file_location(name, path)
    assert loader is not None and loader.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        loader.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput("model", repr(spec), f"a file that imports ({reason(error)})", "correct the file") from error
    return module


def import_named(spec: str, place: str) -> ModuleType:
    """The module of a dotted name."""
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if place != missing and not place.startswith(missing + "."):
            remedy = f"install {missing}, or run where it can be imported"
            raise BadInput("model", repr(spec), f"a module that imports ({reason(error)})", remedy) from error
        near = get_close_matches(missing, known_modules(missing), 3)
        remedy = nearest(near) or "run where it can be imported, or give path/file.py:callable"
        raise BadInput("model", repr(spec), f"a module; there is no {missing!r}", remedy) from error
    except Exception as error:
        raise BadInput("model", repr(spec), f"a module that imports ({reason(error)})", "correct it") from error


def known_modules(missing: str) -> list[str]:
    """Modules beside a missing one: in its package, or at the top."""
    parent, _, _ = missing.rpartition(".")
    paths = list(getattr(sys.modules.get(parent), "__path__", [])) if parent else None
    prefix = parent + "." if parent else ""
    return [prefix + found.name for found in pkgutil.iter_modules(paths)]


def attribute(spec: str, module: ModuleType, name: str) -> Callable[..., object]:
    """What a module calls by that name."""
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if callable(value)]
        remedy = nearest(get_close_matches(name, names, 3)) or "check the name"
        where = getattr(module, "__file__", None) or module.__name__
        raise BadInput("model", repr(spec), f"something named {name!r} in {where}", remedy)
    if not callable(found):
        raise BadInput("model", repr(spec), "a callable that returns a torch.nn.Module", f"{name!r} is {kind(found)}")
    return found  # type: ignore[no-any-return]


def zoo(spec: str, package: str) -> Callable[..., object]:
    """The function that builds an untrained network of torchvision or timm by its name."""
    try:
        if package == "torchvision":
            get_model = importlib.import_module("torchvision.models").get_model
            return lambda name, **arguments: get_model(name, **{"weights": None, **arguments})
        create_model = importlib.import_module("timm").create_model
        return lambda name, **arguments: create_model(name, **{"pretrained": False, **arguments})
    except Exception as error:  # torchvision beside another build of PyTorch raises RuntimeError, not ImportError
        remedy = f"install a {package} that fits PyTorch {torch.__version__}, or name a callable of your own"
        raise BadInput("model", repr(spec), f"a {package} that imports ({reason(error)})", remedy) from error


def call(spec: str, function: Callable[..., object], given: list[str], arguments: dict[str, Any]) -> nn.Module:
    """What the callable returns, if it is a network."""
    try:
        module = function(*given, **arguments)
    except BadInput:
        raise
    except Exception as error:
        remedy = "check the arguments after '?'" if arguments or isinstance(error, TypeError) else "correct it"
        raise BadInput("model", repr(spec), f"a callable that succeeds ({reason(error)})", remedy) from error
    if isinstance(module, torch.jit.ScriptModule):
        remedy = "TorchScript is not supported: return the module it was made from"
        raise BadInput("model", f"{spec!r}, which returned {kind(module)}", "a plain torch.nn.Module", remedy)
    if not isinstance(module, nn.Module):
        remedy = "name a function that returns the network, or its class"
        raise BadInput("model", f"{spec!r}, which returned {kind(module)}", "a torch.nn.Module", remedy)
    return module


def kind(value: object) -> str:
    """`a list`, `an int`."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def nearest(names: list[str]) -> str:
    """`nearest are 'a', 'b'`; empty where there is none."""
    if not names:
        return ""
    return f"nearest {'is' if len(names) == 1 else 'are'} {', '.join(map(repr, names))}"


__all__ = ["RANDOM", "LoadedModel", "hash_state", "load_model"]
