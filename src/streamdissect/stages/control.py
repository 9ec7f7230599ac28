"""How a stage is watched and stopped: it asks and reports here, and knows nothing of terminals and signals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Stopped

log = logging.getLogger("streamdissect")


class Meter:
    """Progress of one piece of work; this one keeps it to itself."""

    def advance(self, n: int) -> None:
        """So many more are done."""


class Control:
    """Silent, and stopped only by `stop`; the command line has one that draws and listens."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.seconds: dict[str, float] = {}
        """What the parts of the stage took in this process, by name; those that overlap sum to more than the whole."""

    def stop(self) -> None:
        """Ask the stage to finish what it must and leave; may be called from a signal handler."""
        self._stopped.set()

    def check(self) -> None:
        """Raise Stopped if the stage was asked to stop: where it asks, nothing is half done."""
        if self._stopped.is_set():
            raise Stopped("stopped; the same command resumes")

    def took(self, what: str, seconds: float) -> None:
        """A part of the stage has taken so long, again."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def say(self, text: str) -> None:
        """Tell the user something worth a line."""
        log.info(text)

    @contextmanager
    def metering(self, what: str, total: int, unit: str) -> Iterator[Meter]:
        """A meter for `total` units of work."""
        yield Meter()
