"""From what was gathered of every layer: thresholds, with another pass where one is needed, and distributions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, IncompleteRun
from ..options import ScoreOptions
from ..quantile import (
    BufferedTail,
    Distribution,
    Histogram,
    MissedBracket,
    Refinement,
    Streams,
    Thresholds,
    find_thresholds,
    tail_rank,
)
from ..store.partials import load_arrays, save_arrays
from ..store.rundir import RunDir
from .ahead import read_ahead
from .control import Control
from .gathering import LayerTally
from .recording import layers_of
from .sources import Maps

CHUNK_PART, STATE_PART = 16, 4
"""Parts of the memory that maps being read, twice, and what is found in them, may take."""

Found = dict[Fraction, Thresholds]
"""By tail."""


def all_thresholds(
    run: RunDir,
    maps: Maps,
    tallies: Sequence[LayerTally],
    tail: Fraction,
    options: ScoreOptions,
    control: Control,
) -> list[Found]:
    """For each layer the thresholds at the tails extracted, in their order, and at `tail`.

    Exact ones, if need be by another pass over the activations; with the option `approximate` those of a sketch as they
    are.
    """
    wanted = run.tails if tail in run.tails else [*run.tails, tail]
    passes = [Passes(run, maps, position, options, control) for position in range(len(tallies))]
    if not options.approximate:
        refine_together(run, passes, [tally.streams for tally in tallies], wanted)
    return [each.find(tally.streams, wanted, options.approximate) for each, tally in zip(passes, tallies, strict=True)]


def check_tail(run: RunDir, tallies: Sequence[LayerTally], tail: Fraction) -> None:
    """BadInput for a tail that a run without activations does not know, or of whose masks one of candidates has none.

    Maps that were left out do not exceed the threshold of the largest tail extracted; below it they may.
    """
    if run.spill == "full":
        return
    is_known = tail <= max(run.tails) if run.is_spilled else all(tally.streams.knows(tail) for tally in tallies)
    if not is_known:
        tails, stored = ", ".join(map(str, run.tails)), "no activations"
        ways = "with that --tail, with --thresholds histogram, or with --spill full"
        if run.is_spilled:
            stored, ways = "but the maps that may exceed those", "with that --tail, or with --spill full"
        got = f"{tail}, larger than {tails}, of a run that stored {stored}"
        raise BadInput("--tail", got, "a tail extracted, or a smaller one", f"extract again {ways}")


def all_distributions(run: RunDir, tallies: Sequence[LayerTally]) -> list[Distribution | None]:
    """Of each layer, where they were gathered; worked out once and kept in the run."""
    found: list[Distribution | None] = []
    for position, tally in enumerate(tallies):
        path = run.ledger("extract").folder / f"distribution-{position}.npz"
        if path.exists():
            found.append(load_kept(path, Distribution, tally.streams.n_units))
            continue
        found.append(tally.distribution())
        if (each := found[-1]) is not None:
            with suppress(OSError):
                save_arrays(path, each.to_arrays())
    return found


KeptT = TypeVar("KeptT", Thresholds, Distribution)


def load_kept(path: Path, kind: type[KeptT], n_units: int) -> KeptT:
    """What was worked out before. IncompleteRun where the file is damaged, or of another layer."""
    try:
        found = kind.from_arrays(load_arrays(path))
        if len(found.vmin) != n_units:
            raise ValueError(f"{len(found.vmin)} units, the layer has {n_units}")
    except ValueError as error:
        raise IncompleteRun(f"{path}: damaged ({error}); delete it, then run the same command again") from error
    return found


def refine_together(
    run: RunDir, passes: Sequence[Passes], streams: Sequence[Streams], tails: Sequence[Fraction]
) -> None:
    """Make thresholds of several layers exact in one pass over the shards, where the memory holds what that gathers.

    Activations that come from the network come for all layers at once.
    """
    wanted = [(each, some, each.missing(some, tails)) for each, some in zip(passes, streams, strict=True)]
    wanted = [(each, some, lacking) for each, some, lacking in wanted if lacking and all(map(some.knows, lacking))]
    needed = sum(int(Refinement.state_bytes(some, lacking).sum()) for _, some, lacking in wanted)
    if len(wanted) < 2 or needed > passes[0].memory // STATE_PART:
        return
    names = ", ".join(each.layer.name for each, _, _ in wanted)
    passes[0].control.say(f"layers {names}: one more pass over the activations makes the thresholds exact")
    refinements = [Refinement(some, lacking, range(some.n_units)) for _, some, lacking in wanted]
    for shard in range(run.n_shards):
        for (each, _, _), refinement in zip(wanted, refinements, strict=True):
            for maps in each.iter_maps(run.rows(shard)):
                refinement.update(maps)
    for (each, some, lacking), refinement in zip(wanted, refinements, strict=True):
        with suppress(MissedBracket):  # such a layer goes its own way
            thresholds, n_above = each.exact(refinement)
            found = {p: find_thresholds(some, p, (thresholds[i], n_above[i])) for i, p in enumerate(lacking)}
            each.keep(found)


class Passes:
    """Thresholds of one layer, and the passes over its activations that they take."""

    def __init__(self, run: RunDir, maps: Maps, position: int, options: ScoreOptions, control: Control) -> None:
        self._run, self._maps, self._position = run, maps, position
        self.memory, self._threads, self.control = options.memory, options.threads, control
        self.layer = layers_of(run)[position]
        self._found: Found = {}

    def find(self, streams: Streams, tails: Sequence[Fraction], approximate: bool) -> Found:
        """Thresholds at each tail; what took a pass over the store is kept in the run."""
        known = [tail for tail in tails if streams.knows(tail) and (streams.is_exact or approximate)]
        self._found |= {tail: find_thresholds(streams, tail) for tail in known}
        if lacking := [tail for tail in self.missing(streams, tails) if tail not in known]:
            self.keep(self._read(streams, lacking))
        return {tail: self._found[tail] for tail in tails}

    def missing(self, streams: Streams, tails: Sequence[Fraction]) -> list[Fraction]:
        """The tails whose thresholds take a pass that was not made yet."""
        for tail in tails:
            if tail not in self._found and (path := self._path(tail)).exists():
                self._found[tail] = load_kept(path, Thresholds, streams.n_units)
        return [tail for tail in tails if tail not in self._found and not (streams.is_exact and streams.knows(tail))]

    def keep(self, found: Found) -> None:
        """Thresholds that took a pass: a run that cannot be written to is read again the next time."""
        self._found |= found
        for tail, thresholds in found.items():
            with suppress(OSError):
                save_arrays(self._path(tail), thresholds.to_arrays())

    def _path(self, tail: Fraction) -> Path:
        """Where thresholds are kept."""
        name = f"thresholds-{self._position}-{tail.numerator}-{tail.denominator}.npz"
        return self._run.ledger("extract").folder / name

    def _read(self, streams: Streams, tails: Sequence[Fraction]) -> Found:
        """Exact thresholds from the stored activations."""
        name = self.layer.name
        if beyond := [tail for tail in tails if not streams.knows(tail)]:
            which = f"tail {', '.join(map(str, beyond))} is larger than those extracted"
            self.control.say(f"layer {name}: {which}; one more pass over the activations")
            streams = self._recount(tails, int(streams.n.max(initial=0)))
        if not streams.is_exact:
            self.control.say(f"layer {name}: one more pass over the activations makes the thresholds exact")
            try:
                return self._refine(streams, tails)
            except MissedBracket:
                return self._read(self._recount(tails, int(streams.n.max(initial=0))), tails)
        return {tail: find_thresholds(streams, tail) for tail in tails}

    def _recount(self, tails: Sequence[Fraction], n: int) -> Streams:
        """Streams from the stored activations that know these tails, and are exact or a histogram."""
        layer, capacity = self.layer, max(tail_rank(tail, n) for tail in tails) + 1
        buffered = layer.dtype == "float32" and BufferedTail.state_bytes(layer.n_units, capacity) <= self.memory // 2
        streams = BufferedTail(layer.n_units, capacity) if buffered else Histogram(layer.n_units, layer.dtype)
        for maps in self._iter_all():
            streams.update(maps)
        return streams

    def _refine(self, streams: Streams, tails: Sequence[Fraction]) -> Found:
        """Exact thresholds: as many units at once as the memory holds, a pass for each group of them."""
        parts = []
        for units in groups_of(Refinement.state_bytes(streams, tails), self.memory // STATE_PART):
            refinement = Refinement(streams, tails, units)
            for maps in self._iter_all():
                refinement.update(maps)
            parts.append(self.exact(refinement))
        thresholds, n_above = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
        return {tail: find_thresholds(streams, tail, (thresholds[i], n_above[i])) for i, tail in enumerate(tails)}

    def exact(self, refinement: Refinement) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What a refinement found. MissedBracket, or IncompleteRun where it saw another store."""
        try:
            return refinement.thresholds()
        except MissedBracket:
            raise
        except ValueError as error:
            raise IncompleteRun(f"layer {self.layer.name}: {error}; extract again with --overwrite") from error

    def _iter_all(self) -> Iterator[NDArray[Any]]:
        """All of the layer's activations, by chunks."""
        return read_ahead(self.iter_maps(range(int(self._run.manifest["plan"]["n_images"]))), self._threads)

    def iter_maps(self, rows: range) -> Iterator[NDArray[Any]]:
        """The layer's activations over some rows, by chunks."""
        for _, maps in self._maps.iter_chunks(self.layer.name, rows, self.memory // CHUNK_PART):
            self.control.check()
            yield maps


def groups_of(needed: NDArray[np.int64], room: int) -> Iterator[range]:
    """Neighbouring units, of each group of which the needs together fit the room; at least one."""
    begin = total = 0
    for unit, each in enumerate(needed.tolist()):
        if unit > begin and total + each > room:
            yield range(begin, unit)
            begin, total = unit, 0
        total += each
    yield range(begin, len(needed))
