"""What a text such as `package.module:name` or `path/file.py:name?key=value` leads to, whatever it is used for.

In every refusal `thing` says what was being named: `model`, `labels`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import blake2b
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from .errors import BadInput

INSTALLED = ("site-packages", "dist-packages")
"""Folders of code that comes with a version of its own."""
MAIN = ("__main__", "__mp_main__")
"""Names of the module that Python was started with, in the process itself and in those that it starts."""
SHARED = (*MAIN, *sys.stdlib_module_names, "streamdissect", "torch", "numpy")
"""Modules that are never taken out of a running Python, whatever lies beside a file."""

# Both are facts of the process, as `sys.modules` is: which code runs in it cannot be read off the files, once they
# have been edited, and Python does not keep which modules were imported on account of which file.
SEEN: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()
"""Function or class -> the file that it came from and the digest of that when it was first asked for."""
HELPERS: WeakSet[ModuleType] = WeakSet()
"""Modules that were imported from beside files that `importing` was given."""


def split_name(thing: str, spec: str, forms: str) -> tuple[str, str, dict[str, Any]]:
    """`place:name?key=value` -> place, name, arguments. BadInput, naming the forms there are, where it is none."""
    target, _, query = spec.partition("?")
    arguments = parse_arguments(thing, spec, query)
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise BadInput(thing, repr(spec), forms, "put a colon and the name of a function or class behind it")
    return place, name, arguments


def parse_arguments(thing: str, spec: str, query: str) -> dict[str, Any]:
    """`a=1&b=x` -> {"a": 1, "b": "x"}: Python literals, else texts."""
    arguments: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(thing, repr(spec), "arguments as ?key=value&key=value", f"correct {part!r}")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[key] = text
    return arguments


@contextmanager
def importing(thing: str, spec: str, place: str) -> Iterator[tuple[ModuleType, str]]:
    """The module at a place, and the place, of a file as an absolute path.

    While the context lasts, Python imports from the file's directory first, or for a dotted name from the current one;
    afterwards from there last, for imports inside functions. What a file imports from beside itself is read anew.
    """
    if place.endswith(".py"):
        path = os.path.abspath(os.path.expanduser(place))
        with on_path(os.path.dirname(path)), own_helpers(os.path.dirname(path)):
            yield import_file(thing, spec, path), path
    else:
        with on_path(os.getcwd()):
            yield import_named(thing, spec, place), place


@contextmanager
def on_path(directory: str) -> Iterator[None]:
    """A directory first among those that Python imports from, and afterwards last."""
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)
        if directory not in sys.path:
            sys.path.append(directory)


@contextmanager
def own_helpers(directory: str) -> Iterator[None]:
    """Within it, imports of what lies in a directory lead there, whatever is loaded from elsewhere by the same name.

    What came from beside the same file, or another of ours, is forgotten for good; what the program imported itself
    is put back at the end.
    """
    loaded, here = dict(sys.modules), set(os.listdir(directory) if os.path.isdir(directory) else [])
    tops = {name: name.partition(".")[0] for name in loaded}
    near = {name for name, top in tops.items() if top not in SHARED and (top in here or f"{top}.py" in here)}
    hidden = {tops[name] for name in near if shadows(loaded, name, directory)}
    aside: dict[str, ModuleType] = {}
    for name, module in loaded.items():
        is_ours = module in HELPERS
        if tops[name] in hidden or (is_ours and lies_in(module, name, directory)):
            del sys.modules[name]
            if not is_ours:
                aside[name] = module
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if lies_in(sys.modules[name], name, directory):
                HELPERS.add(sys.modules[name])
        restored = {name.partition(".")[0] for name in aside}
        for name in [name for name in sys.modules if name.partition(".")[0] in restored]:
            del sys.modules[name]
        sys.modules.update(aside)


def lies_in(module: ModuleType, name: str, directory: str) -> bool:
    """Whether a module of that name was found in a directory, as a file, a package or a folder of modules."""
    place = os.path.join(directory, *name.split("."))
    file = getattr(module, "__file__", None)
    if file is not None:
        return file in (f"{place}.py", os.path.join(place, "__init__.py"))
    return place in list(getattr(module, "__path__", []))


def shadows(loaded: Mapping[str, ModuleType], name: str, directory: str) -> bool:
    """Whether a loaded module keeps a file of a directory from being imported by the same name."""
    top = name.partition(".")[0]
    file = getattr(loaded[name], "__file__", None)
    if file is None or (name != top and getattr(loaded.get(top), "__file__", None) is not None):
        return False  # a mere folder may have parts in several places; of a package the top decides
    place = os.path.join(directory, *name.split("."))
    is_here = os.path.isfile(f"{place}.py") or os.path.isfile(os.path.join(place, "__init__.py"))
    return is_here and not lies_in(loaded[name], name, directory)


class FreshLoader(SourceFileLoader):
    """Compiles a file anew: kept bytecode is told from old by the second, and a file may change twice in one."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Nothing, as of a file whose bytecode cannot be kept."""
        raise OSError(path)


def import_file(thing: str, spec: str, path: str) -> ModuleType:
    """The module in a file, under a name of its own, executed anew each time."""
    if not os.path.isfile(path):
        folder = Path(path).parent
        near = get_close_matches(Path(path).name, [p.name for p in folder.glob("*.py")], 3) if folder.is_dir() else []
        raise BadInput(thing, repr(spec), f"a file {path}", nearest(near) or "check the path")
    name = f"streamdissect_{thing}_{blake2b(path.encode(), digest_size=8).hexdigest()}"
    found = importlib.util.spec_from_file_location(name, path, loader=FreshLoader(name, path))
    assert found is not None and found.loader is not None, "it was given one"
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(thing, repr(spec), f"a file that imports ({reason(error)})", "correct the file") from error
    return module


def import_named(thing: str, spec: str, place: str) -> ModuleType:
    """The module of a dotted name."""
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if place != missing and not place.startswith(missing + "."):
            remedy = f"install {missing}, or run where it can be imported"
            raise BadInput(thing, repr(spec), f"a module that imports ({reason(error)})", remedy) from error
        near = get_close_matches(missing, known_modules(missing), 3)
        remedy = nearest(near) or "run where it can be imported, or give path/file.py:callable"
        raise BadInput(thing, repr(spec), f"a module; there is no {missing!r}", remedy) from error
    except Exception as error:
        raise BadInput(thing, repr(spec), f"a module that imports ({reason(error)})", "correct it") from error


def known_modules(missing: str) -> list[str]:
    """Modules beside a missing one: in its package, or at the top."""
    parent, _, _ = missing.rpartition(".")
    paths = list(getattr(sys.modules.get(parent), "__path__", [])) if parent else None
    prefix = parent + "." if parent else ""
    return [prefix + found.name for found in pkgutil.iter_modules(paths)]


def attribute(thing: str, spec: str, module: ModuleType, name: str, expected: str) -> Callable[..., object]:
    """What a module calls by that name; `expected` tells of the callable that it should be."""
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if callable(value)]
        remedy = nearest(get_close_matches(name, names, 3)) or "check the name"
        where = getattr(module, "__file__", None) or module.__name__
        raise BadInput(thing, repr(spec), f"something named {name!r} in {where}", remedy)
    if not callable(found):
        raise BadInput(thing, repr(spec), expected, f"{name!r} is {kind(found)}")
    return found  # type: ignore[no-any-return]


def call(
    thing: str, spec: str, function: Callable[..., object], given: Sequence[Any], arguments: Mapping[str, Any]
) -> object:
    """What a callable returns. BadInput where it fails; where there are arguments, they are the likely cause."""
    try:
        return function(*given, **arguments)
    except BadInput:
        raise
    except Exception as error:
        remedy = "check the arguments after '?'" if arguments or isinstance(error, TypeError) else "correct it"
        raise BadInput(thing, repr(spec), f"a callable that succeeds ({reason(error)})", remedy) from error


def hash_code(definition: Any) -> str | None:
    """blake2b of the source file of a function or class, 32 hex digits; None for what has none or comes installed.

    Of the file as it was when this was first asked for: Python goes on running what it read then.
    """
    definition = inspect.unwrap(definition)
    is_definition = inspect.isfunction(definition) or inspect.isclass(definition)
    if is_definition and definition in SEEN:
        return SEEN[definition][1]
    try:
        path = source_of(definition)
        if path is None or any(folder in path for folder in INSTALLED):
            return None
        digest = hash_file(path)
    except (TypeError, OSError):
        return None
    if is_definition:
        SEEN[definition] = path, digest
    return digest


def refuse_edited(thing: str, spec: str, *definitions: Any) -> None:
    """BadInput where the file of a function or class is no longer what Python runs: one who names it means the file."""
    for definition in map(inspect.unwrap, definitions):
        if hash_code(definition) is None or definition not in SEEN:
            continue
        path, digest = SEEN[definition]
        if os.path.isfile(path) and hash_file(path) != digest:
            got = f"{spec!r}, but {path} was edited since it was imported"
            raise BadInput(thing, got, "the code that runs", "start Python anew")


def hash_file(path: str) -> str:
    """blake2b of a file, 32 hex digits."""
    with open(path, "rb") as file:
        return blake2b(file.read(), digest_size=16).hexdigest()


def source_of(definition: Any) -> str | None:
    """The file that defines a function, class or module.

    A class's methods know it, whereas the name of its module may stand for another module by now.
    """
    if inspect.isclass(definition):
        for function in functions_of(definition):
            path: str = function.__code__.co_filename
            if function.__module__ == definition.__module__ and os.path.isfile(path):
                return os.path.abspath(path)
    return inspect.getsourcefile(definition)


def functions_of(definition: type) -> Iterator[FunctionType]:
    """The functions that stand in a class, without what decorators put around them."""
    for value in vars(definition).values():
        function = inspect.unwrap(value) if isinstance(value, FunctionType) else None
        if isinstance(function, FunctionType):
            yield function


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
