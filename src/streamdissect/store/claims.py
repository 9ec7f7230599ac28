"""Who works on which shard: claims created exclusively, that beat while their owner lives."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..atomic import create_json

BEAT_SECONDS = 20.0
STALE_SECONDS = 180.0
"""A claim of another host that has not beaten for so long has lost its owner."""


def identify_process(pid: int | None = None) -> dict[str, Any]:
    """Host, boot, process and the moment it started: together no two processes share them."""
    pid = os.getpid() if pid is None else pid
    boot = started = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError, IndexError):
        # the name of the program stands in brackets and may hold anything; field 22 is the start time
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return {"host": socket.gethostname(), "boot": boot, "pid": pid, "started": started}


class Claims:
    """The claims of one process on the shards of one stage; a context that beats while it is open.

    Parameters
    ----------
    folder : Path
        Exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = identify_process() | {"token": secrets.token_hex(8)}
        self._held: set[int] = set()
        self._closing = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._beat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        self._beat.join()
        for shard in sorted(self._held):
            self.release(shard)

    def take(self, shard: int) -> bool:
        """Claim a shard; False while another process that lives has it."""
        for _ in range(2):
            if create_json(self._path(shard), self.owner):
                self._held.add(shard)
                return True
            if not self._remove_stale(shard):
                return False
        return False

    def holds(self, shard: int) -> bool:
        """Whether the claim on the disk is still this process's own."""
        owner = read_claim(self._path(shard))
        return owner is not None and owner.get("token") == self.owner["token"]

    def release(self, shard: int) -> None:
        """Give a shard up, or its claim after its commit."""
        self._held.discard(shard)
        if self.holds(shard):
            with suppress(FileNotFoundError):
                self._path(shard).unlink()

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.json"

    def _remove_stale(self, shard: int) -> bool:
        """Take a dead owner's claim away; False where the owner lives."""
        path = self._path(shard)
        owner = read_claim(path)
        if owner is None:
            return True  # gone in the meantime
        if is_alive(owner, path):
            return False
        aside = path.with_name(f"{path.name}.stale-{secrets.token_hex(4)}")
        try:
            os.rename(path, aside)  # of several that try, one succeeds
        except FileNotFoundError:
            return True
        if read_claim(aside) != owner:  # a fresh claim slipped in between: put it back
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
        return True

    def _keep_beating(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            for shard in sorted(self._held):
                with suppress(OSError):
                    os.utime(self._path(shard))


def read_claim(path: Path) -> dict[str, Any] | None:
    """The owner a claim names; None where there is no claim."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def is_alive(owner: dict[str, Any], path: Path) -> bool:
    """Whether a claim's owner still works: asked of the system on this host, else told by its beat."""
    here = identify_process()
    if owner.get("host") == here["host"] and isinstance(owner.get("pid"), int):
        there = identify_process(owner["pid"])
        return all(owner.get(key) == there[key] for key in ("boot", "started"))
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False
