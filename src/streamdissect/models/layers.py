"""Which tensors of a network are recorded: layer names, globs, `:relu`, `:input`, `#call`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from ..errors import BadInput
from .wrappers import bare_name, prefix_of, refuse_data_parallel

TensorKind = Literal["output", "relu", "input"]
SUFFIXES = re.compile(r"(?::(?P<tensor>relu|input)|#(?P<call>\d+))$")
REMEDY = "list them with: streamdissect layers --model ..."


@dataclass(frozen=True)
class LayerRef:
    """One recorded tensor of a network."""

    name: str
    """As the user sees it: `features.3.expand.act`, `conv1:relu`, `layer4:input`, `block#1`."""
    module_name: str
    """For `get_submodule`."""
    tensor: TensorKind = "output"
    call: int | None = None
    """Which call within one forward pass; None: the only one."""


def list_layers(module: nn.Module) -> list[str]:
    """Names of the modules whose activations can be recorded, in the network's order, without prefixes of wrappers.

    >>> list_layers(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    ['0', '1']
    """
    return list(names_of(module))


def names_of(module: nn.Module, each_alias: bool = False) -> dict[str, str]:
    """Name as the user sees it -> name for `get_submodule`; a module that stands in two places has `each_alias`."""
    prefix = prefix_of(module)
    found: dict[str, str] = {}
    for name, part in module.named_modules(remove_duplicate=not each_alias):
        # A wrapper stands for what it wraps; TorchScript takes no hooks.
        if not name or f"{name}." == prefix[: len(name) + 1] or isinstance(part, torch.jit.ScriptModule):
            continue
        if bare := bare_name(name, prefix):
            found[bare] = name
    return found


def resolve_layers(module: nn.Module, patterns: Sequence[str]) -> list[LayerRef]:
    """The tensors that names and globs stand for.

    Parameters
    ----------
    module : nn.Module
    patterns : sequence of str
        Dotted module names or globs (`*`, `?`, `[...]`; `*` matches dots too), with or without `module.` or
        `_orig_mod.` before; then, optionally, `:relu` (the output, rectified), `:input` (the first input) and `#i`
        (call i of a module that is called several times).

    Returns
    -------
    list of LayerRef
        In the order given, globs in the network's order, each once.

    Raises
    ------
    BadInput
        There is no pattern, one matches nothing, or the network is a DataParallel.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    >>> [ref.name for ref in resolve_layers(net, ["1:relu", "*"])]
    ['1:relu', '0', '1']
    """
    refuse_data_parallel(module)
    if not patterns:
        raise BadInput("layers", "none", "at least one module of this model", REMEDY)
    found: dict[str, LayerRef] = {}
    for pattern in patterns:
        for ref in resolve(module, pattern):
            found.setdefault(ref.name, ref)
    return list(found.values())


def resolve(module: nn.Module, pattern: str) -> list[LayerRef]:
    """The tensors of one name or glob."""
    text, tensor, call = pattern.strip(), "", ""
    while match := SUFFIXES.search(text):
        if (match["tensor"] and tensor) or (match["call"] and call):
            break
        tensor, call = match["tensor"] or tensor, match["call"] or call
        text = text[: match.start()]
    suffix = (f"#{int(call)}" if call else "") + (f":{tensor}" if tensor else "")
    kind: TensorKind = "relu" if tensor == "relu" else "input" if tensor == "input" else "output"
    return [
        LayerRef(name + suffix, actual, kind, int(call) if call else None)
        for name, actual in matching(module, text, pattern).items()
    ]


def matching(module: nn.Module, text: str, pattern: str) -> dict[str, str]:
    """The modules that a name or glob without suffixes stands for."""
    exact, listed = names_of(module, each_alias=True), names_of(module)
    bare = bare_name(text)
    while True:
        if bare in exact:
            return {bare: exact[bare]}
        chosen = {name: actual for name, actual in listed.items() if fnmatchcase(name, bare)}
        if chosen:
            return chosen
        if not bare.startswith("module."):
            break
        bare = bare.removeprefix("module.")
    if not exact:
        remedy = "wrap it: torch.nn.Sequential(model) has one layer, '0'"
        raise BadInput("layers", repr(pattern), "a model with modules inside", remedy)
    scripted = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if bare in {bare_name(name, prefix_of(module)) for name in scripted}:
        remedy = "put in the module it was made from, or choose another"
        raise BadInput("layers", f"{pattern!r}, which is TorchScript", "a module that takes hooks", remedy)
    if deeper := [name for name in listed if name.endswith(f".{bare}")]:
        raise BadInput("layers", repr(pattern), "a module of this model", f"did you mean '*.{bare}', as {deeper[0]!r}?")
    near = get_close_matches(bare, listed, 3, 0.5)
    hint = f"nearest {'is' if len(near) == 1 else 'are'} {', '.join(map(repr, near))}; " if near else ""
    raise BadInput("layers", repr(pattern), "a module of this model", hint + REMEDY)
