"""A network from what the user named: a callable in a module or file, and a file of weights."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch._C import default_generator
from torch.nn.parameter import is_lazy

from ..callables import attribute, call, hash_code, importing, kind, reason, refuse_edited, split_name
from ..errors import BadInput
from .programs import EXPORT, WHOLE, is_exported_graph, load_program
from .quiet import put_into_evaluation
from .structure import hash_structure
from .weights import RANDOM, load_weights
from .wrappers import bare_name, prefix_of, unwrapped

SHIPPED = "shipped"
FORMS = "package.module:callable, path/file.py:callable, torchvision:NAME or FILE.pt2"


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to run, and what it was made from."""

    module: nn.Module
    """In evaluation mode, without wrappers; on the CPU, unless it came as an object and lives elsewhere."""
    spec: str
    """What was named, with an absolute path; `python:` and the class for an object."""
    weights: str | None
    """Absolute path, `random`, or None: as the callable returns it."""
    state_hash: str
    """blake2b of the state dict."""
    code_hash: str | None
    """blake2b of the exported program, or of the source file that defines the callable or the class of an object; None
    where there is none."""
    structure_hash: str
    """Of its parts, their settings and their code; see `hash_structure`."""


def load_model(spec: str | nn.Module, weights: str | None = None, seed: int = 0, trust: bool = False) -> LoadedModel:
    """The network that `spec` names.

    Parameters
    ----------
    spec : str or nn.Module
        `package.module:callable` (the current directory is on the path), `path/file.py:callable` (its directory is),
        both with `?key=value&key=value`: Python literals, else strings; `torchvision:NAME`, `timm:NAME`; `FILE.pt2`,
        an exported program; `shipped`, the network that comes with the package; or a module. The callable returns a
        `torch.nn.Module`. Of DistributedDataParallel and torch.compile the network inside is taken.
    weights : str, optional
        `.safetensors`, or `.pt`, `.pth`, `.th`, `.bin` of plain tensors, strictly matching; `random` initialises every
        layer anew. A module given as an object is copied first, so it keeps its own weights.
    seed : int
        Of every random number drawn while the network is built or initialised; global generators stay as they are.
    trust : bool
        Whether an exported program may be read, which can run code.

    Returns
    -------
    LoadedModel

    Raises
    ------
    BadInput
        Nothing has that name, it fails, it is no module that takes hooks, or the weights are not those of this network.

    Notes
    -----
    Building is seeded even without `random`: a network that starts untrained is the same one when a run is resumed.

    >>> load_model("shipped").module(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 45])
    """
    with torch.random.fork_rng(devices=[]):
        default_generator.manual_seed(seed)
        if isinstance(spec, str):
            module, name, code = build(spec, weights, trust)
        else:
            given = check_network("", spec)
            name, code = name_object(given), hash_code(type(given))
            module = given if weights is None else copied(given)
        path = None if weights is None else load_weights(module, weights, seed)
    put_into_evaluation(module)
    return LoadedModel(module, name, path, hash_state(module), code, hash_structure(module))


def check_network(where: str, found: object) -> nn.Module:
    """A network without its wrappers. BadInput for what is none, takes no hooks, or has no values yet."""
    got, expected = where + kind(found), "a torch.nn.Module"
    if isinstance(found, torch.jit.ScriptModule):
        remedy = f"TorchScript takes no hooks: give the module it was made from, or export that: {EXPORT}"
        raise BadInput("model", got, expected, remedy)
    if isinstance(found, torch.export.ExportedProgram):
        raise BadInput("model", got, expected, "give torch.export.unflatten(program)")
    if not isinstance(found, nn.Module):
        is_maker = callable(found) and not where
        remedy = (
            "call it, and pass what it returns"
            if is_maker
            else "name a function that returns the network, or its class"
        )
        raise BadInput("model", got, expected, remedy)
    module = unwrapped(found)
    if is_exported_graph(module):
        remedy = "in program.module() no hook ever fires: give torch.export.unflatten(program)"
        raise BadInput("model", got, "modules that take hooks", remedy)
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            remedy = "run it once on an example batch before it is returned"
            raise BadInput("model", f"{got} whose {key} has no shape yet (a lazy layer)", "known shapes", remedy)
        if tensor.is_meta:
            raise BadInput("model", f"{got} whose {key} is on the device meta", "values", "build it on the CPU")
    return module


def copied(module: nn.Module) -> nn.Module:
    """A copy that may take other weights. BadInput where there can be none, as of an unflattened program."""
    try:
        return copy.deepcopy(module)
    except Exception as error:
        got = f"{kind(module)} that cannot be copied ({reason(error)})"
        remedy = "load them into it yourself, and leave them out here"
        raise BadInput("model", got, "one that can, to take weights", remedy) from error


def name_object(module: nn.Module) -> str:
    """What stands for a network that came as an object: its class, of wrapped ones the class inside."""
    kind_of = type(unwrapped(module))
    return f"python:{kind_of.__module__}.{kind_of.__qualname__}"


def hash_state(module: nn.Module) -> str:
    """blake2b over keys, dtypes, shapes and bytes of the state dict, in the order of the keys; 32 hex digits.

    Keys are taken without the prefixes of wrappers, so a network has one hash with and without them.
    """
    digest = blake2b(digest_size=16)
    prefix = prefix_of(module)
    state = module.state_dict()
    for key, actual in sorted((bare_name(key, prefix), key) for key in state):
        value = state[actual]
        if not isinstance(value, Tensor):  # a module's extra state
            digest.update(repr((key, value)).encode())
            continue
        digest.update(repr((key, str(value.dtype), tuple(value.shape))).encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def build(spec: str, weights: str | None, trust: bool) -> tuple[nn.Module, str, str | None]:
    """The module that a text names, the text with an absolute path, and the digest of the code."""
    target, _, query = spec.partition("?")
    if query and (target == SHIPPED or target.endswith(WHOLE)):
        raise BadInput("model", repr(spec), f"{target!r} alone", "leave out '?': only callables take arguments")
    if target == SHIPPED:
        from .shipped import scenes_net

        return scenes_net(trained=weights is None), SHIPPED, None
    if target.endswith(WHOLE):
        path = os.path.abspath(os.path.expanduser(target))
        module, code = load_program(spec, path, trust)
        return module, path, code
    place, name, arguments = split_name("model", spec, FORMS)
    where = f"{spec!r}, which returned "
    if place in ("torchvision", "timm"):
        return check_network(where, call("model", spec, zoo(spec, place), [name], arguments)), spec, None
    with importing("model", spec, place) as (source, path):
        found = attribute("model", spec, source, name, "a callable that returns a torch.nn.Module")
        if isinstance(found, nn.Module):
            got, remedy = f"{spec!r}, a module that exists already", f"write a function: def build(): return {name}"
            raise BadInput("model", got, "a callable that returns one", remedy)
        module = check_network(where, call("model", spec, found, [], arguments))
        refuse_edited("model", spec, found, *{type(part) for part in module.modules()})
    return module, path + spec[len(place) :], hash_code(found)


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


__all__ = ["RANDOM", "LoadedModel", "hash_state", "load_model"]
