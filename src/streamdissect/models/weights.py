"""Weights from a file into a network, strictly, without ever running code from it; or random ones."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._C import default_generator

from ..errors import BadInput
from .wrappers import bare_keys

RANDOM = "random"
PICKLED = (".pt", ".pth", ".th", ".bin")
WRAPPERS = ("state_dict", "model")
"""Keys under which checkpoints of training scripts keep the state dict."""
N_SHOWN = 3


def load_weights(module: nn.Module, weights: str, seed: int) -> str:
    """Put the weights into the module; returns the absolute path of the file, or `random`.

    Raises
    ------
    BadInput
        The file is missing, damaged, of another kind, holds more than tensors, or belongs to another network.
    """
    if weights == RANDOM:
        randomise(module, seed)
        return RANDOM
    path = os.path.abspath(os.path.expanduser(weights))
    state = with_keys_of(module, read_state(path))
    check_state(path, state, module)
    module.load_state_dict(state, strict=True)
    return path


def randomise(module: nn.Module, seed: int) -> None:
    """Every submodule's own initialisation, anew, those inside first; the global generator stays as it is.

    Parameters that none of them reaches keep their values where that is one number throughout, as of a token or a
    scale that nobody trained. BadInput where they may have been trained, or where no submodule can be initialised, as
    in exported programs: a network as it was trained must not pass for a random one.
    """
    resets = [reset for part in inside_out(module, set()) if (reset := reset_of(part)) is not None]
    if not resets and next(module.parameters(), None) is not None:
        got, expected = f"{RANDOM!r} for modules that cannot be initialised anew", "a file of weights"
        raise BadInput("weights", got, expected, "as --model name the callable that builds the network")
    before = {name: value.detach().clone() for name, value in module.named_parameters() if value.is_floating_point()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name in before:
            module.get_parameter(name).fill_(torch.nan)  # what is NaN afterwards was not reached
        default_generator.manual_seed(seed)
        for reset in resets:
            reset()
        kept = [name for name, value in before.items() if keep_missed(module.get_parameter(name), value)]
    if kept:
        got = f"{RANDOM!r} for a network in which nothing initialises {listed(kept)} anew"
        remedy = "leave --weights out if the callable builds it untrained, or give the module a reset_parameters()"
        raise BadInput("weights", got, "parameters that can be initialised", remedy)


def keep_missed(parameter: Tensor, before: Tensor) -> bool:
    """Put the values that were there in place of NaN; whether they are several numbers, as training makes them."""
    missed = before[parameter.isnan()]
    parameter[parameter.isnan()] = missed
    return bool((missed != missed[:1]).any())


def inside_out(module: nn.Module, seen: set[nn.Module]) -> Iterator[nn.Module]:
    """Every submodule once, after those inside it, as constructors initialise them."""
    seen.add(module)
    for child in module.children():
        if child not in seen:
            yield from inside_out(child, seen)
    yield module


def reset_of(part: nn.Module) -> Callable[[], object] | None:
    """What initialises a module anew: PyTorch calls it by one of two names."""
    found = (getattr(part, name, None) for name in ("reset_parameters", "_reset_parameters"))
    return next(filter(callable, found), None)


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a file by their keys."""
    if not os.path.isfile(path):
        raise BadInput("weights", repr(path), "a file that exists", "check the path")
    extension = os.path.splitext(path)[1].lower()
    if extension == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            remedy = f"the file is damaged ({one_line(error)}): fetch it again"
            raise BadInput("weights", repr(path), "a readable .safetensors file", remedy) from error
    if extension not in PICKLED:
        expected = f".safetensors or {', '.join(PICKLED)}"
        raise BadInput("weights", repr(path), expected, f"or '{RANDOM}' for a random baseline")
    found = read_pickled(path)
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not (isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values())):
        expected = "a state dict, perhaps under 'state_dict' or 'model'"
        raise BadInput("weights", repr(path), expected, "save it with torch.save(model.state_dict(), FILE)")
    return dict(found)


def read_pickled(path: str) -> object:
    """What torch.save wrote, as long as it is tensors and plain containers; anything else is never unpickled."""
    if is_torchscript(path):
        raise BadInput("weights", f"{path!r}, a TorchScript archive", "a state dict", "save model.state_dict() instead")
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise RuntimeError, EOFError, KeyError, UnicodeDecodeError, ...
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in text or "global" in text):
            remedy = "it may run code and was not loaded; save model.state_dict() alone, or .safetensors"
            raise BadInput("weights", f"{path!r}, a pickle of more than tensors", "plain tensors", remedy) from error
        remedy = f"the file is damaged ({one_line(error)}): fetch it again"
        raise BadInput("weights", repr(path), "a file of torch.save", remedy) from error
    return found


def is_torchscript(path: str) -> bool:
    """Whether a file is an archive of torch.jit.save."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def with_keys_of(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the module's own keys: prefixes of wrappers, in the file or the module, make no difference."""
    own = module.state_dict().keys()
    if state.keys() == own:
        return state
    by_bare = bare_keys(own)
    return {by_bare.get(bare, bare): state[key] for bare, key in bare_keys(state).items()}


def check_state(path: str, state: dict[str, Tensor], module: nn.Module) -> None:
    """BadInput that lists what is missing, unexpected or of another shape."""
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    faults = []
    for what, keys in (
        ("missing", [key for key in own if key not in state]),
        ("unexpected", [key for key in state if key not in own]),
    ):
        if keys:
            faults.append(f"{len(keys)} {what}: {listed(keys)}")
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        faults.append(f"{len(wrong)} of another shape: {listed(wrong)}")
    if faults:
        remedy = "name the model they were saved from, with its arguments"
        raise BadInput("weights", f"{path!r} with keys {'; '.join(faults)}", "the weights of this model", remedy)


def listed(texts: list[str]) -> str:
    """The first few, and a sign that there are more."""
    return ", ".join(texts[:N_SHOWN]) + (", ..." if len(texts) > N_SHOWN else "")


def one_line(error: BaseException) -> str:
    """An exception in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
