"""Callables that label images: any segmentation network, or the colour names that come with the package."""

from __future__ import annotations

import inspect
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..callables import (
    attribute,
    call,
    hash_code,
    importing,
    kind,
    nearest,
    parse_arguments,
    reason,
    refuse_edited,
    split_name,
)
from ..errors import BadInput, StreamdissectError
from .csvtables import LARGEST_NUMBER

COLORS, NONE = "colors", "none"
FORMS = "colors, package.module:callable, path/file.py:callable, or none"
CALLABLE = "a callable with an attribute `concepts`, or one that returns such a callable"
CONTRACT = "concepts = {category: [name of 1, name of 2, ...]} or {category: {number: name}}"
BATCH = 8
"""Images that a labeller is given together, where it does not say."""

LOCK = RLock()
"""Held while a labeller is loaded or at work: a user's code need not be safe in threads."""


class Labeller:
    """A callable that labels images, with what it says of itself, checked.

    Parameters
    ----------
    source : str or callable
        `colors`, `module:callable`, `path/file.py:callable`, both with `?key=value`; or an object.

    Raises
    ------
    BadInput
        There is no such callable, it fails, or what it says of itself cannot be used.

    Notes
    -----
    What has an attribute `concepts` is the labeller. A class, or what has none, is called, with the arguments, and must
    return one. Only the source is pickled: another process loads the callable anew, and refuses one that has changed.
    """

    def __init__(self, source: str | Callable[..., Any]) -> None:
        found, self.spec, code = load(source)
        self.source = self.spec if isinstance(source, str) else source
        self.concepts = read_concepts(self.spec, found)
        """Category -> number, from 1 -> name."""
        self.batch = read_batch(self.spec, found)
        self.digest = digest_labeller(self.spec, self.concepts, code, read_version(self.spec, found))
        """Of all that its labels are known to depend on."""
        self._found: Callable[..., Any] | None = found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_found": None}

    @property
    def identity(self) -> list[str]:
        """What stands for it in the settings of a scoring: its name and its digest."""
        return [self.spec, self.digest]

    def label(self, images: NDArray[np.uint8], names: Sequence[str]) -> dict[str, NDArray[np.uint16]]:
        """Label maps (B, L, h, w) by category of images (B, H, W, 3), `names` for what is refused."""
        with LOCK:
            try:
                made = self._load()(images)
            except (StreamdissectError, MemoryError):
                raise
            except Exception as error:
                got = f"{self.spec!r}, which raised {reason(error)} on {named(names)}"
                raise BadInput("labels", got, "a callable that succeeds", "correct it") from error
            return self._take(made, names)  # copied before another thread calls: it may return the same array again

    def _take(self, made: Any, names: Sequence[str]) -> dict[str, NDArray[np.uint16]]:
        """Copies of what the callable returned, checked."""
        if not isinstance(made, Mapping):
            raise BadInput("labels", f"{self.spec!r}, which returned {kind(made)}", "{category: array}", "correct it")
        if strange := [category for category in made if category not in self.concepts]:
            got = f"{self.spec!r}, which returned the category {strange[0]!r}"
            raise BadInput("labels", got, f"those of its concepts: {', '.join(self.concepts)}", "correct it")
        order = [category for category in self.concepts if category in made]
        return {category: self._check(category, made[category], names) for category in order}

    def _check(self, category: str, made: Any, names: Sequence[str]) -> NDArray[np.uint16]:
        """One category's maps as (B, L, h, w) uint16."""
        place = f"{self.spec!r}, category {category!r}: "
        try:
            maps: NDArray[Any] = np.asarray(made)
        except Exception as error:  # whatever an array of another library raises, as a tensor on a GPU
            got = f"{place}{kind(made)} that is no array ({reason(error)})"
            raise BadInput("labels", got, "a numpy array", "convert it") from error
        if isinstance(made, np.ma.MaskedArray):
            raise BadInput(
                "labels", f"{place}a masked array", "a plain one", "put 0 where there is no label: filled(0)"
            )
        if maps.dtype.kind not in "iu":
            raise BadInput("labels", f"{place}numbers of type {maps.dtype}", "whole numbers, as uint16", "convert them")
        if maps.ndim == 3:
            maps = maps[:, None]
        if maps.ndim != 4 or len(maps) != len(names) or 0 in maps.shape[2:]:
            shape = f"({', '.join(map(str, np.shape(made)))})"
            form = f"({len(names)}, layers, rows, columns) or ({len(names)}, rows, columns)"
            raise BadInput("labels", f"{place}an array {shape}", form, "give one map for each image of the batch")
        least, most, known = (int(maps.min()), int(maps.max()), self.concepts[category]) if maps.size else (0, 0, {})
        if least >= 0 and most <= LARGEST_NUMBER:
            maps = maps.astype(np.uint16)
            numbers = np.flatnonzero(np.bincount(maps.reshape(-1))).tolist()
        else:
            numbers = [least, most]
        if unknown := [number for number in numbers if number != 0 and number not in known]:
            got = f"{place}label number {unknown[0]} on {named(names)}"
            raise BadInput("labels", got, f"0, or a number that its concepts list, up to {max(known)}", "correct it")
        return maps

    def _load(self) -> Callable[..., Any]:
        """The callable; in another process it is loaded when it is first needed."""
        if self._found is None:
            anew = Labeller(self.source)
            if anew.identity != self.identity:
                got, remedy = f"{self.spec!r}, which is not what it was", "start the work again from its beginning"
                raise BadInput("labels", got, "the same code and concepts in every process", remedy)
            self._found = anew._found
        assert self._found is not None
        return self._found


Labels = str | Callable[..., Any] | Labeller | Sequence[str | Callable[..., Any] | Labeller]
"""What names labellers: a text with commas, a callable, or several."""


def load(source: str | Callable[..., Any]) -> tuple[Callable[..., Any], str, str | None]:
    """The labeller that a text or an object stands for, its name, and what tells the version of its code."""
    with LOCK:
        if not isinstance(source, str):
            return load_object(source)
        target, _, query = source.partition("?")
        if target == COLORS:
            from .colors import ColorNames

            arguments = parse_arguments("labels", source, query)
            return settle(source, ColorNames, arguments), source, None
        if target.startswith("python:"):
            remedy = (
                "pass the object again, as labels=, or to merge in open_dataset(..., labels=...); or give --labels none"
            )
            raise BadInput("labels", repr(source), "a name; this one was given as an object", remedy)
        if ":" not in target:
            near = get_close_matches(target, [COLORS], 1)
            raise BadInput("labels", repr(source), FORMS, nearest(near) or "put a colon and a name behind the module")
        place, name, arguments = split_name("labels", source, FORMS)
        with importing("labels", source, place) as (module, where):
            found = attribute("labels", source, module, name, CALLABLE)
            labeller = settle(source, found, arguments)
            refuse_edited("labels", source, found, type(labeller))
        files = [code for item in (found, labeller, type(labeller), module) if (code := hash_code(item))]
        return labeller, where + source[len(place) :], " ".join(dict.fromkeys(files)) or package_version(place)


def load_object(source: Callable[..., Any]) -> tuple[Callable[..., Any], str, str | None]:
    """The labeller that an object is or makes. BadInput where nothing tells it from another of its kind."""
    is_definition = inspect.isfunction(source) or inspect.isclass(source)
    definition: Any = source if is_definition else type(source)
    name = f"python:{definition.__module__}.{definition.__qualname__}"
    if not callable(source):
        raise BadInput("labels", kind(source), CALLABLE, "or a text that names one")
    found, code = settle(name, source, {}), hash_code(definition)
    is_whole = is_definition and code is not None and "<" not in definition.__qualname__
    if not is_whole and getattr(found, "version", None) is None:
        got = f"{name!r} without an attribute `version`"
        remedy = "set it to a text that changes when the labels do, or name a function or class at the top of a file"
        raise BadInput("labels", got, "an object that tells itself from others of its kind", remedy)
    return found, name, code


def settle(spec: str, found: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The labeller: what was found, or what it returns."""
    if not inspect.isclass(found) and hasattr(found, "concepts"):
        if arguments:
            got, remedy = f"{spec!r}, which has `concepts` itself", "leave out what follows '?', or name its class"
            raise BadInput("labels", got, "a class or function, to take arguments", remedy)
        return found
    try:
        is_factory = inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, partial)
        (inspect.signature(found) if is_factory else inspect.Signature()).bind(**arguments)
    except TypeError as error:
        is_factory = False
        if arguments:
            remedy = "check the arguments after '?'"
            raise BadInput("labels", repr(spec), f"arguments that it takes ({error})", remedy) from error
    except ValueError:  # a callable written in C tells nothing of its arguments
        pass
    if not is_factory:
        raise BadInput("labels", f"{spec!r}, which has no attribute `concepts`", CALLABLE, f"set {CONTRACT}")
    made = call("labels", spec, found, [], arguments)
    if not callable(made) or not hasattr(made, "concepts"):
        got = f"{spec!r}, which returned {kind(made)}"
        raise BadInput("labels", got, "a callable with an attribute `concepts`", f"set {CONTRACT}")
    return made


def package_version(place: str) -> str | None:
    """Of installed code, the version of its package."""
    top = place.partition(".")[0]
    try:
        return f"{top} {version(top)}"
    except (PackageNotFoundError, ValueError):
        return None


def read_concepts(spec: str, found: Callable[..., Any]) -> dict[str, dict[int, str]]:
    """The categories of a labeller and their numbers, checked."""
    given = getattr(found, "concepts", None)
    concepts: dict[str, dict[int, str]] = {}
    for category, names in given.items() if isinstance(given, Mapping) else ():
        if not is_category(category):
            raise BadInput("labels", f"{spec!r}, category {category!r}", "a name, without slashes", "rename it")
        if isinstance(names, (list, tuple)):
            names = dict(enumerate(names, start=1))
        try:
            numbers = {-1 if isinstance(n, bool) else operator.index(n): name for n, name in names.items()}
        except (AttributeError, TypeError):
            numbers = {}
        if not numbers or not all(isinstance(name, str) and name for name in numbers.values()):
            got = f"{spec!r}, whose category {category!r} has {names!r:.60}"
            raise BadInput("labels", got, "names, at least one", f"write {CONTRACT}")
        if not all(0 < number <= LARGEST_NUMBER for number in numbers):
            got = f"{spec!r}, whose category {category!r} has the number {min(numbers)} to {max(numbers)}"
            raise BadInput("labels", got, f"numbers from 1 to {LARGEST_NUMBER}; 0 is no label", "number them so")
        concepts[category] = dict(sorted(numbers.items()))
    if not concepts:
        raise BadInput("labels", f"{spec!r}, whose `concepts` is {given!r:.60}", CONTRACT, "write it so")
    return concepts


def is_category(name: object) -> bool:
    """Whether a category may be called so: it may become the name of a folder."""
    return isinstance(name, str) and bool(name) and not name.startswith(".") and not set(name) & set("/\\;\0")


def read_batch(spec: str, found: Callable[..., Any]) -> int:
    """Images that a labeller wants together."""
    given = getattr(found, "batch", BATCH)
    try:
        size = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        size = 0
    if size < 1:
        raise BadInput("labels", f"{spec!r}, whose `batch` is {given!r}", "a whole number from 1", "correct it")
    return size


def read_version(spec: str, found: Callable[..., Any]) -> str | None:
    """What a labeller says of its version."""
    given = getattr(found, "version", None)
    if given is not None and not isinstance(given, (str, int, float)):
        got = f"{spec!r}, whose `version` is {kind(given)}"
        raise BadInput("labels", got, "a text or a number", "correct it")
    return None if given is None else str(given)


def digest_labeller(spec: str, concepts: Mapping[str, Mapping[int, str]], code: str | None, told: str | None) -> str:
    """Of a labeller's name, concepts, code, and its own attribute `version`; 16 hex digits."""
    about = [spec, [[category, list(names.items())] for category, names in concepts.items()], code, told]
    return blake2b(json.dumps(about).encode(), digest_size=8).hexdigest()


def named(names: Sequence[str]) -> str:
    """`a.jpg`, or `a.jpg to b.jpg`."""
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def open_labellers(labels: Labels) -> tuple[Labeller, ...]:
    """The labellers that a text (by commas), a callable, a `Labeller`, or a sequence of these names; `none` names none.

    BadInput as `Labeller`.
    """
    if isinstance(labels, str):
        texts = split_commas(labels)
        if NONE in texts and len(texts) > 1:
            raise BadInput("labels", repr(labels), f"{NONE} alone, or labellers", f"leave {NONE} out")
        several: Sequence[str | Callable[..., Any] | Labeller] = [] if texts == [NONE] else texts
    elif isinstance(labels, Labeller) or callable(labels):
        several = [labels]
    elif isinstance(labels, Sequence):
        several = labels
    else:
        raise BadInput("labels", kind(labels), FORMS, "or a callable, or several in a list")
    return tuple(each if isinstance(each, Labeller) else Labeller(each) for each in several)


def split_commas(text: str) -> list[str]:
    """The parts of a text between commas that stand in no brackets and no quotes: arguments may contain them."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
