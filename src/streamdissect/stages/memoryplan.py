"""How `--memory` is divided: what a process has already, the thresholds' state, pictures, forward passes, shards.

A pure function from measured facts; what measures them is in forward.py and extract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import BadInput
from ..quantile import BinnedTail, BufferedTail, Histogram, KllSketch
from ..store.activations import LayerArray
from .gathering import StreamPlan

KIB = 1 << 10
SHARDS_HELD = 3
"""One is made while the one before is recorded; what that encodes comes to less than another."""
FORWARD_FACTOR = 1.5
"""What a forward pass takes, in terms of the tensors that live at once: convolutions have scratch of their own."""
LIBRARIES = 64 << 20
"""What libraries yet to be loaded and the stacks and arenas of threads take."""
LEAST_STATE = 1 << 20
"""Of memory for which the forms of thresholds and distributions are chosen; there are none that take less."""
STATE_FACTOR = 2
"""The state is copied when it grows, and when it is saved."""


@dataclass(frozen=True)
class Facts:
    """What an extraction takes; all in bytes."""

    process: int
    """Of this process before the first image, the network included, files in the page cache aside."""
    state: int
    """Of thresholds, distributions and top images, of all layers."""
    pictures: int
    """Decoded ahead of the network."""
    image_forward: int
    """Of an image in a forward pass."""
    image_stored: int
    """Of an image's activations, before compression."""

    @property
    def fixed(self) -> int:
        """Whatever the batch and the shard."""
        return self.process + LIBRARIES + self.state + self.pictures


@dataclass(frozen=True)
class Division:
    """How many images go through the network at once and make a shard, and what that takes."""

    facts: Facts
    batch_size: int
    shard_images: int
    state_memory: int | None = None
    """What the forms of thresholds and distributions were chosen for, where that is less than all the memory."""

    @property
    def forward_bytes(self) -> int:
        """Of a batch in the network."""
        return self.batch_size * self.facts.image_forward

    @property
    def shards_bytes(self) -> int:
        """Of the shards that exist at a time."""
        return SHARDS_HELD * self.shard_images * self.facts.image_stored

    @property
    def total_bytes(self) -> int:
        """Of everything."""
        return self.facts.fixed + self.forward_bytes + self.shards_bytes

    def to_json(self) -> dict[str, int]:
        """Bytes by what takes them."""
        facts = self.facts
        return {
            "process": facts.process + LIBRARIES,
            "forward": self.forward_bytes,
            "pictures": facts.pictures,
            "shards": self.shards_bytes,
            "state": facts.state,
            "total": self.total_bytes,
        }

    def describe(self) -> list[str]:
        """Lines for people."""
        facts = self.facts
        return [
            f"memory: {megabytes(self.total_bytes)} at the most",
            f"  process with the network: {megabytes(facts.process + LIBRARIES)}",
            f"  forward pass of {self.batch_size} images: {megabytes(self.forward_bytes)}",
            f"  pictures decoded ahead: {megabytes(facts.pictures)}",
            f"  {SHARDS_HELD} shards of {self.shard_images} images: {megabytes(self.shards_bytes)}",
            f"  thresholds and distributions: {megabytes(facts.state)}",
        ]


def divide(facts: Facts, memory: int, largest_batch: int, shard_bytes: int, shard_images: int | None) -> Division:
    """Batch and shard as they should be; where they do not fit, what takes more is halved, as often as it takes.

    Parameters
    ----------
    facts : Facts
    memory : int
        Bytes that must not be exceeded.
    largest_batch : int
        Images that a batch should have.
    shard_bytes : int
        Of activations that a shard should have; at least one image is.
    shard_images : int, optional
        Images to a shard, where that is settled.

    Returns
    -------
    Division
        Its total is at most `memory`; more memory never makes a smaller batch.

    Raises
    ------
    BadInput
        Not even a single image fits.
    """
    batch, shard = largest_batch, shard_images or max(1, shard_bytes // max(1, facts.image_stored))
    found = Division(facts, batch, shard)
    while found.total_bytes > memory and (batch > 1 or (shard > 1 and shard_images is None)):
        if batch > 1 and (shard == 1 or shard_images is not None or found.forward_bytes >= found.shards_bytes):
            batch //= 2
        else:
            shard //= 2
        found = Division(facts, batch, shard)
    if found.total_bytes > memory:
        least = Division(facts, 1, shard_images or 1)
        parts = (
            f"{facts.process + LIBRARIES} of the process with the network, {facts.state} of thresholds, "
            f"{facts.pictures} of pictures, {least.forward_bytes} of a forward pass of one image, "
            f"{least.shards_bytes} of {SHARDS_HELD} shards"
        )
        smaller = "a smaller --shard-images, " if shard_images is not None and shard_images > 1 else ""
        raise BadInput(
            "--memory",
            f"{memory} bytes",
            f"at least {least.total_bytes}: {parts}",
            f"raise it, or give {smaller}fewer --layers or a smaller --input-size",
        )
    return found if shard_images is not None else Division(facts, batch, shard // batch * batch or shard)


def state_bytes(
    layers: Sequence[tuple[LayerArray, StreamPlan, StreamPlan | None]], n_images: int, top_images: int
) -> int:
    """About what the tallies of all layers take, by what was measured of values of every size (docs/quantile.md)."""
    total = 0
    for spec, streams, sketch in layers:
        each = stream_bytes(streams, spec.dtype) + 12 * min(top_images, n_images)
        total += spec.n_units * (each if sketch is None else each + stream_bytes(sketch, spec.dtype))
    return STATE_FACTOR * total


def stream_bytes(plan: StreamPlan, dtype: str) -> int:
    """Of a unit."""
    if plan.kind == BufferedTail.kind:
        return BufferedTail.state_bytes(1, *plan.settings)
    if plan.kind == BinnedTail.kind:
        (capacity,) = plan.settings
        return 4 * KIB + min((16 if dtype == "float16" else 4) * capacity, (120 if dtype == "float16" else 40) * KIB)
    if plan.kind == Histogram.kind:
        return (180 if dtype == "float16" else 40) * KIB
    return (20 if plan.kind == KllSketch.kind else 40) * KIB


def own_bytes() -> int:
    """Memory of this process that is no file's; 0 where the system does not tell."""
    found = 0
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(("RssAnon:", "RssShmem:")):
                found += int(line.split()[1]) * KIB
    return found


def megabytes(n_bytes: int) -> str:
    """For people."""
    return f"{n_bytes / 1e6:.1f} MB"
