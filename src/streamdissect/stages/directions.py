"""Directions scored as if they were units: `score --directions` (methods 5)."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from fractions import Fraction

from ..measure.directions import Directions
from ..store.activations import LayerArray
from ..store.rundir import RunDir
from .control import Control
from .directed import DirectedMaps, DirectedPasses
from .directionfiles import find_layer, read_directions
from .scoring import Scoring


def direct(work: Scoring, control: Control) -> Scoring:
    """A scoring in which directions have taken the place of a layer's units; the other layers are left out.

    Their thresholds take a pass over the activations.
    """
    options = work.options
    directions = read_directions(options)
    position = find_layer(work.run, options, directions)
    layer = work.layers[position]
    run = directed_run(work.run, position, directions)
    n_images = len(work.recorded.images)
    control.say(f"layer {layer.name}: one pass over the activations for the thresholds of directions")
    passes = DirectedPasses(work.maps, layer, n_images, options.memory, options.threads, control)
    tails = list(dict.fromkeys([*(Fraction(text) for text in run.manifest["identity"]["tails"]), work.tail]))
    n_top = int(run.manifest["plan"]["top_images"])
    (found,) = passes.thresholds([directions], tails, n_top)
    return Scoring(
        run,
        work.data,
        work.fingerprint,
        options,
        work.settings,
        replace(work.recorded, top=[found.top]),
        DirectedMaps(work.maps, [layer], [directions], options.threads),
        [found.thresholds],
        [None],
        work.tail,
        work.rules,
    )


def directed_run(run: RunDir, position: int, directions: Directions) -> RunDir:
    """The run as if it held one layer, of the directions."""
    described = run.manifest["layers"][position]
    array = LayerArray.from_json(described["array"])
    made = replace(array, n_units=directions.n_directions, dtype=directions.dtype(array.dtype))
    view = copy(run)
    view.manifest = {**run.manifest, "layers": [{**described, "array": made.to_json()}]}
    return view
