"""Directions that are to be scored as if they were units: read from files, told apart by their content."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..measure.directions import Directions
from ..options import ScoreOptions
from ..store.rundir import RunDir
from .recording import layers_of

WEIGHT, BIAS = "weight", "bias"
"""Names of the tensors in a .safetensors file of several."""


def read_directions(options: ScoreOptions) -> Directions:
    """The directions that options name. BadInput where their files hold none."""
    assert options.directions is not None
    weight = read_array(options.directions, "--directions", WEIGHT, 2)
    bias = None if options.bias is None else read_array(options.bias, "--bias", BIAS, 1)
    try:
        return Directions(weight, bias, options.relu)
    except ValueError as error:
        expected = "numbers of float32: (directions, units), and a bias for each direction"
        raise BadInput("--directions", f"{options.directions!r}, {error}", expected, "correct the file") from error


def check_directions(run: RunDir, options: ScoreOptions) -> None:
    """BadInput where the options name directions that are none of this run's."""
    if options.directions is None:
        return
    if options.approximate:
        remedy = "leave it out: the thresholds of directions are found exactly"
        raise BadInput("--approximate", "given", "nothing, with --directions", remedy)
    if run.spill == "candidates":
        got = "given for a run that stored but the maps that may exceed a threshold of its units"
        raise BadInput("--directions", got, "one with all its activations", "extract again with --spill full")
    find_layer(run, options, read_directions(options))


def find_layer(run: RunDir, options: ScoreOptions, directions: Directions) -> int:
    """Position of the layer that directions are of. BadInput where it is not to be told, or of other units."""
    layers, wanted = layers_of(run), options.layer
    if wanted is not None and wanted not in [layer.name for layer in layers]:
        expected = f"a layer of the run: {', '.join(layer.name for layer in layers)}"
        raise BadInput("--layer", repr(wanted), expected, "correct it")
    asked = [(i, layer) for i, layer in enumerate(layers) if wanted in (None, layer.name)]
    n_units = directions.weight.shape[1]
    fitting = [i for i, layer in asked if layer.n_units == n_units]
    if len(fitting) == 1:
        return fitting[0]
    sizes = ", ".join(f"{layer.name} of {layer.n_units}" for _, layer in asked)
    got = f"directions over {n_units} units"
    if fitting:
        raise BadInput("--directions", got, f"a word which of {sizes}", "name it: --layer NAME")
    raise BadInput("--directions", got, f"as many as a layer has: {sizes}", "correct the matrix")


def read_array(path: str, flag: str, name: str, n_axes: int) -> NDArray[Any]:
    """An array of a .npy file, or the tensor of that name, or the only one, of a .safetensors file."""
    expected = f"a .npy file, or a .safetensors file with one tensor or one named {name}"
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.numpy import load_file

            found = load_file(path)
            if name not in found and len(found) != 1:
                got = f"{path!r} with {', '.join(sorted(found)) or 'nothing'}"
                raise BadInput(flag, got, expected, "rename the tensor")
            array = found[name] if name in found else next(iter(found.values()))
        else:
            array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise BadInput(flag, f"{path!r}, which is not there", expected, "correct the path") from error
    except BadInput:
        raise
    except Exception as error:  # both readers raise about anything on bytes that are something else
        raise BadInput(flag, f"{path!r} ({error})", expected, "save it as one of these") from error
    if array.ndim != n_axes or array.dtype.kind not in "fiu":
        got = f"{path!r}: {array.dtype} of shape {array.shape}"
        raise BadInput(flag, got, f"real numbers with {n_axes} ax{'i' if n_axes == 1 else 'e'}s", "correct the file")
    return np.asarray(array)


def directions_to_setting(options: ScoreOptions) -> dict[str, Any] | None:
    """What a scoring of directions depends on beside what every scoring does; None for one of units."""
    if options.directions is None:
        return None
    directions = read_directions(options)
    digest = blake2b(directions.weight.tobytes(), digest_size=16)
    digest.update(repr((directions.weight.shape, directions.relu)).encode())
    if directions.bias is not None:
        digest.update(directions.bias.tobytes())
    files = {
        "file": os.path.abspath(options.directions),
        "bias": os.path.abspath(options.bias) if options.bias else None,
    }
    return {**files, "relu": options.relu, "layer": options.layer, "digest": digest.hexdigest()}


def setting_to_fields(setting: dict[str, Any] | None) -> dict[str, Any]:
    """Inverse of `directions_to_setting`: fields of the options."""
    if setting is None:
        return {}
    return {
        "directions": setting["file"],
        "bias": setting["bias"],
        "relu": setting["relu"],
        "layer": setting["layer"],
    }
