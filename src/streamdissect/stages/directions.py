"""Directions scored as if they were units: `score --directions` (methods 5)."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from fractions import Fraction

from ..errors import BadInput
from ..measure.directions import Directions
from ..store.activations import LayerArray
from ..store.rundir import RunDir
from .control import Control
from .directed import DirectedMaps, DirectedPasses
from .directionfiles import read_directions
from .scoring import Scoring


def direct(work: Scoring, control: Control) -> Scoring:
    """A scoring in which directions have taken the place of a layer's units; the other layers are left out.

    Their thresholds take a pass over the activations.
    """
    options = work.options
    if options.approximate:
        remedy = "leave it out: the thresholds of directions are found exactly"
        raise BadInput("--approximate", "given", "nothing, with --directions", remedy)
    directions = read_directions(options)
    position = find_layer(work, directions)
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


def find_layer(work: Scoring, directions: Directions) -> int:
    """Position of the layer that directions are of. BadInput where it is not to be told, or of other units."""
    names = [layer.name for layer in work.layers]
    wanted = work.options.layer
    if wanted is not None and wanted not in names:
        raise BadInput("--layer", repr(wanted), f"a layer of the run: {', '.join(names)}", "correct it")
    n_units = directions.weight.shape[1]
    fitting = [i for i, layer in enumerate(work.layers) if layer.n_units == n_units and wanted in (None, layer.name)]
    if len(fitting) == 1:
        return fitting[0]
    sizes = ", ".join(f"{layer.name} of {layer.n_units}" for layer in work.layers if wanted in (None, layer.name))
    got = f"directions over {n_units} units"
    if fitting:
        raise BadInput("--directions", got, f"a word which of {sizes}", "name it: --layer NAME")
    raise BadInput("--directions", got, f"as many as a layer has: {sizes}", "correct the matrix")


def directed_run(run: RunDir, position: int, directions: Directions) -> RunDir:
    """The run as if it held one layer, of the directions."""
    described = run.manifest["layers"][position]
    array = LayerArray.from_json(described["array"])
    made = replace(array, n_units=directions.n_directions, dtype=directions.dtype(array.dtype))
    view = copy(run)
    view.manifest = {**run.manifest, "layers": [{**described, "array": made.to_json()}]}
    return view
