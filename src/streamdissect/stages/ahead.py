"""Reading while counting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

AHEAD = 2
"""Items asked for beyond the one worked on: with one alone the reading thread would stand still from the end of an item
until the working thread lets go of the interpreter."""


def read_ahead(items: Iterator[T], threads: int) -> Iterator[T]:
    """The items in order, made by another thread while those before them are worked on.

    AHEAD + 1 of them exist at a time. What an item raises comes out where it is asked for. Whoever was granted one
    thread has them made by that one: a second would wait for the core of another process, and keep the first waiting.
    """
    if threads == 1:
        yield from items
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="read")
    try:
        coming = deque(pool.submit(next, items, None) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
