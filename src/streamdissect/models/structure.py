"""What a network computes beside its weights: parts, their settings, their code, as far as that can be told."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from types import CodeType
from typing import Any

import torch
from torch import nn

from ..callables import MAIN, functions_of, hash_code
from .wrappers import bare_name, is_compiled, unwrapped

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Of an object in memory, in a text that should be the same in every process."""
PLAIN = (bool, int, float, complex, str, type(None), torch.dtype)


def hash_structure(module: nn.Module) -> str:
    """blake2b over the parts of a network: names, classes, settings, and the files of classes that are not installed.

    Parameters
    ----------
    module : nn.Module
        With or without the wrappers of DistributedDataParallel and torch.compile, which make no difference.

    Returns
    -------
    str
        32 hex digits; the same in every process of one version of Python.

    Notes
    -----
    Settings are what a part prints of itself and its public attributes of plain types: `nn.MultiheadAttention` shows
    its number of heads in no other way. Functions that a forward pass calls are seen through the file of its class, and
    so not those of other files.

    >>> hash_structure(nn.Sequential(nn.ReLU())) == hash_structure(nn.Sequential(nn.Tanh()))
    False
    """
    digest = blake2b(digest_size=16)
    for name, part in unwrapped(module).named_modules():
        if not is_compiled(part):  # what it wraps comes next, by the same name
            about = repr((bare_name(name), describe_definition(type(part)), part.extra_repr(), settings(part)))
            digest.update(ADDRESS.sub("", about).encode())
    return digest.hexdigest()


def settings(part: nn.Module) -> list[tuple[str, str]]:
    """The public attributes of a part that are plain or functions, and the graph of one that was traced."""
    found = {name: text for name, value in vars(part).items() if (text := describe(value)) is not None}
    graph = getattr(part, "graph", None)
    if isinstance(graph, torch.fx.Graph):
        found["graph"] = str(graph)
    return sorted((name, text) for name, text in found.items() if name != "training" and not name.startswith("_"))


def describe(value: Any) -> str | None:
    """A text for a value of a plain type, a container of these, or a function; None for anything else."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    elif isinstance(value, partial):
        value = [value.func, value.args, value.keywords]
    elif inspect.isroutine(value) or inspect.isclass(value):
        return describe_definition(value)
    elif not isinstance(value, (list, tuple)):
        return None
    parts = [describe(part) for part in value]
    return None if None in parts else repr(parts)


def describe_definition(definition: Callable[..., Any]) -> str:
    """A function or class by its name and, unless it comes installed, its code.

    Of what the program's own file defines, the file does not count: it may be a loop that is being worked on.
    """
    module, name = getattr(definition, "__module__", None), getattr(definition, "__qualname__", repr(definition))
    digest = None if module in MAIN else hash_code(definition)
    if digest is None and module not in MAIN:
        return f"{module} {name}"
    if inspect.isclass(definition):
        functions = list(functions_of(definition)) if digest is None else []  # otherwise the file tells all
    else:
        functions = [inspect.unwrap(definition)]  # several without a name may stand in one file
    return repr((name, digest, [describe_code(f.__code__) for f in functions if hasattr(f, "__code__")]))


def describe_code(code: CodeType) -> str:
    """What a function's code does, wherever in a file it stands."""
    return repr((code.co_name, code.co_code.hex(), code.co_names, [describe_constant(c) for c in code.co_consts]))


def describe_constant(constant: Any) -> str:
    """A constant of a function's code: functions within it, and sets in an order of their own."""
    if isinstance(constant, CodeType):
        return describe_code(constant)
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
