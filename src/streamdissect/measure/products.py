"""Matrix products whose every bit is the same for any number of threads, workers and images at once.

One thread for each product, operands in memory that is aligned alike, and one image to a product: how a library cuts a
product into pieces depends on its shape, on its threads and sometimes on where its operands lie. PyTorch's library is
taken, since its threads can be set. Another processor may round otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

_lock = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread; as before once the last of those who asked for it has left."""
    import torch  # takes its time, and the plain scoring does without

    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)  # of this thread, too
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_before)


def product(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, k) times (k, m) in float64, on one thread."""
    import torch

    with one_thread():
        found = torch.mm(torch.from_numpy(first).clone(), torch.from_numpy(second).clone())
    return np.asarray(found.numpy())
