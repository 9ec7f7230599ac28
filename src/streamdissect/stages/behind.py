"""Recording behind the forward passes: while a shard is made, the one before it is taken in."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self


class Behind:
    """A context in which calls are made one after the other by another thread, the next one asked for at the same time.

    One call is under way at most, and `call` waits for it: whoever makes shards faster than they are taken in is held
    back, and at most two exist. What a call raises comes out of the next `call`, of `settle` or on leaving.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._pending: Future[None] | None = None
        self.waited_seconds = 0.0
        """Spent waiting for calls under way."""

    def __enter__(self) -> Self:
        return self

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have `function(*arguments)` called once the call under way has ended."""
        self.settle()
        self._pending = self._pool.submit(function, *arguments)

    def settle(self) -> None:
        """Wait until nothing is under way."""
        if self._pending is None:
            return
        begin = time.perf_counter()
        pending, self._pending = self._pending, None
        try:
            pending.result()
        finally:
            self.waited_seconds += time.perf_counter() - begin

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.settle()
            else:  # what is under way is finished all the same; the first error is the one to tell
                with suppress(Exception):
                    self.settle()
        finally:
            self._pool.shutdown()
