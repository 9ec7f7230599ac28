"""Networks inside wrappers: DistributedDataParallel and torch.compile change names and calls, not the network."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import BadInput

PREFIXES = ("module.", "_orig_mod.")
"""Put before every name by DistributedDataParallel and torch.compile."""
COMPILED = "_orig_mod"
DYNAMO = "torch._dynamo"
"""Takes a second to import, so it is only asked where somebody has imported it: to compile something."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself. BadInput for DataParallel, whose copies the hooks would mix.

    It runs without the wrappers: DistributedDataParallel would talk to other processes in every pass, and code
    compiled before hooks were there may pass them by.
    """
    refuse_data_parallel(module)
    while True:
        if isinstance(module, DistributedDataParallel):
            module = module.module
        elif is_compiled(module):
            module = getattr(module, COMPILED)
        else:
            return module


def refuse_data_parallel(module: nn.Module) -> None:
    """BadInput where a network, or a part of it, is spread over several GPUs by one process."""
    for name, part in module.named_modules():
        if isinstance(part, nn.DataParallel):
            what = f"{name!r}, a torch.nn.DataParallel" if name else "a torch.nn.DataParallel"
            inner = f"{name}.module in its place" if name else "model.module"
            remedy = f"pass {inner}; for several GPUs start one process for each"
            raise BadInput("model", what, "a network on one device", remedy)


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made it."""
    dynamo = sys.modules.get(DYNAMO)
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def eagerly() -> AbstractContextManager[None]:
    """Within it, compiled parts run as they were written, so that hooks inside them fire once each."""
    set_stance = getattr(torch.compiler, "set_stance", None) if DYNAMO in sys.modules else None
    return nullcontext() if set_stance is None else set_stance("force_eager")


def prefix_of(module: nn.Module) -> str:
    """What the wrappers around a network put before its names, `module._orig_mod.` for example."""
    found = ""
    while True:
        children = dict(module.named_children())
        name = next(iter(children), "") + "."
        if len(children) != 1 or name not in PREFIXES:
            return found
        found += name
        module = children[name[:-1]]


def bare_name(name: str, prefix: str = "") -> str:
    """A name without the prefix, and without what compiled parts inside the network put into it.

    >>> bare_name("module.layer1._orig_mod.conv", "module.")
    'layer1.conv'
    """
    return ".".join(part for part in name.removeprefix(prefix).split(".") if part != COMPILED)


def bare_keys(keys: Iterable[str]) -> dict[str, str]:
    """Key of a state dict without prefixes that all of them share -> key as it is."""
    found = {bare_name(key): key for key in keys}
    while found and all(key.startswith("module.") for key in found):
        found = {key.removeprefix("module."): actual for key, actual in found.items()}
    return found
