"""How the Numba kernels are compiled, and the two instructions that Numba does not name."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray


def _digest() -> str:
    """Of the sources of all Numba kernels."""
    digest = blake2b(digest_size=4)
    for path in sorted(Path(__file__).parent.glob("numba_*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = _digest()


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at first use, without the interpreter's lock; kept on disk where a cache folder can be written."""
    # Numba's cache looks at the function's own file alone, and would keep what it calls elsewhere as it was: the name
    # under which it is kept carries a digest of all.
    function.__qualname__ += f"_{SOURCES}"
    try:
        compiled: Callable[..., Any] = njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no place for a cache
        compiled = njit(nogil=True, error_model="numpy")(function)
    return compiled


@intrinsic
def popcount64(context: Any, word: Any) -> Any:
    """Bits set in a uint64, as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def constant(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: kernels are compiled for it once, whether the caller may write or not."""
    view = array.view()
    view.flags.writeable = False
    return view


@jit
def key32(bits: int) -> Any:
    """float32 bits, signed -> an integer in the order of the floats."""
    value = np.int32(bits)
    return np.int32(value ^ ((value >> 31) & 0x7FFFFFFF))
