"""How the Numba kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import njit
from numpy.typing import NDArray


def _digest() -> str:
    """Of the sources of all Numba kernels."""
    digest = blake2b(digest_size=4)
    for path in sorted(Path(__file__).parent.glob("numba_*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = _digest()
PLAIN: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compiled at first use, without the interpreter's lock; kept on disk where a cache folder can be written."""
    # Numba's cache looks at the function's own file alone, and would keep what it calls elsewhere as it was: the name
    # under which it is kept carries a digest of all.
    function.__qualname__ += f"_{SOURCES}"
    try:
        compiled: Callable[..., Any] = njit(**PLAIN, **options, cache=True)(function)
    except RuntimeError:  # no place for a cache
        compiled = njit(**PLAIN, **options)(function)
    return compiled


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `jit`, and laid into its callers: a call with all those pointers costs more than what is called."""
    return jit(function, forceinline=True)


def constant(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: kernels are compiled for it once, whether the caller may write or not."""
    view = array.view()
    view.setflags(write=False)
    return view
