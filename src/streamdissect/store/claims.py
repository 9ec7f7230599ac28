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

from ..atomic import create_json, renew

BEAT_SECONDS = 20.0
STALE_SECONDS = 180.0
"""A claim of another host that has not beaten for so long has lost its owner."""


def identify_process(pid: int | None = None) -> dict[str, Any]:
    """Host, boot, process and the moment it started: together no two processes share them."""
    pid = os.getpid() if pid is None else pid
    boot = space = started = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")  # containers of one host may count their processes apart
    with suppress(OSError, IndexError):
        # the program's name stands in brackets and may hold anything; then come the state and, as field 22, the start
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = "" if fields[0] in "ZX" else fields[19]  # a zombie works no more
    return {"host": socket.gethostname(), "boot": boot, "space": space, "pid": pid, "started": started}


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
        self._held: dict[int, int] = {}
        """Shard -> generation of the claim."""
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
        """Claim a shard; False while another process that lives has it.

        A claim that lost its owner stays where it is, and a claim of the next generation is created exclusively beside
        it. Taking a dead claim away instead could take a fresh one that came in between.
        """
        latest = self._latest(shard)
        if latest >= 0 and is_alive(self._path(shard, latest)):
            return False
        if not create_json(self._path(shard, latest + 1), self.owner):
            return False
        self._held[shard] = latest + 1
        return True

    def holds(self, shard: int) -> bool:
        """Whether a claim taken before still stands: there, this process's own, and the latest."""
        generation = self._held.get(shard)
        if generation is None or generation != self._latest(shard):
            return False
        owner = read_claim(self._path(shard, generation))
        return owner is not None and owner.get("token") == self.owner["token"]

    def release(self, shard: int) -> None:
        """Give a shard up."""
        if self.holds(shard):
            self._path(shard, self._held[shard]).unlink(missing_ok=True)
        self._held.pop(shard, None)

    def silence(self, shard: int) -> float:
        """Seconds since a shard's owner was last heard of; 0 where it is seen to live."""
        path = self._path(shard, self._latest(shard))
        owner = read_claim(path)
        if owner is None or is_visible(owner):
            return 0.0
        try:
            return max(0.0, time.time() - path.stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def describe(self, shard: int) -> str:
        """Who has a shard."""
        owner = read_claim(self._path(shard, self._latest(shard))) or {}
        return f"process {owner.get('pid')} on {owner.get('host')}, last heard of {self.silence(shard):.0f} s ago"

    def living(self) -> list[int]:
        """Shards that other processes are at work on."""
        shards = sorted({int(path.name[:6]) for path in self.folder.glob("[0-9]*.json") if path.name[:6].isdigit()})
        return [s for s in shards if s not in self._held and is_alive(self._path(s, self._latest(s)))]

    def forget(self, shard: int) -> None:
        """Remove every claim on a shard that is committed: whoever claims it now finds it done."""
        self._held.pop(shard, None)
        for path in self.folder.glob(f"{shard:06d}.*.json"):
            path.unlink(missing_ok=True)

    def _latest(self, shard: int) -> int:
        """The last generation of claims on a shard, -1 where there is none."""
        names = (path.name.split(".") for path in self.folder.glob(f"{shard:06d}.*.json"))
        return max((int(parts[1]) for parts in names if parts[1].isdigit()), default=-1)

    def _path(self, shard: int, generation: int) -> Path:
        return self.folder / f"{shard:06d}.{generation}.json"

    def _keep_beating(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            for shard, generation in list(self._held.items()):
                with suppress(OSError):
                    renew(self._path(shard, generation))


def read_claim(path: Path) -> dict[str, Any] | None:
    """The owner a claim names; None where there is no claim."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def is_alive(path: Path) -> bool:
    """Whether a claim's owner still works: asked of the system on this host, else told by its beat."""
    owner = read_claim(path)
    if owner is None:
        return False  # given up in the meantime
    if is_visible(owner):
        return bool(identify_process(owner["pid"])["started"] == owner.get("started"))
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def is_visible(owner: dict[str, Any]) -> bool:
    """Whether the system here can tell if a claim's owner lives."""
    here = identify_process()
    same_system = all(owner.get(key) == here[key] for key in ("host", "boot", "space"))
    return bool(here["started"]) and same_system and isinstance(owner.get("pid"), int)
