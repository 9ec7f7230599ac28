"""One unit of a scored run: what it detects, and what its activations are like."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import BadInput
from ..measure.dissection import Dissection, LayerDissection
from ..quantile import FLAG_NAMES
from ..store.results import load_dissection
from ..store.rundir import RunDir

N_BEST = 5


def describe_unit(run: str | os.PathLike[str], unit: str) -> dict[str, Any]:
    """What is known of a unit, ready for JSON.

    Parameters
    ----------
    run : path
        Scored; the first of its scorings that is finished, the one without a name before all others.
    unit : str
        `LAYER:UNIT`, units from 0; `UNIT` alone where the run has one layer.

    Raises
    ------
    BadInput
        The run is not scored, or has no such unit.
    """
    opened = RunDir(run)
    names = [name for name in (None, *opened.scorings()) if (opened.results_path(name) / "summary.json").exists()]
    if not names:
        raise BadInput("--unit", f"{unit!r} of a run that is not scored", "a scored run", "run streamdissect score")
    result = load_dissection(opened.results_path(names[0]) / "dissection.h5")
    name, layer, k = find_unit(result, unit)
    flags = [text for bit, text in FLAG_NAMES.items() if layer.flags[k] & bit]
    facts: dict[str, Any] = {
        "layer": name,
        "unit": k,
        "scoring": names[0] or "(main)",
        "detector": bool(layer.is_detector[k]),
        "best": best_concepts(result, layer, k),
        "tail": layer.attributes["tail"],
        "threshold": float(layer.threshold[k]),
        "n": int(layer.n[k]),
        "n_above": int(layer.n_above[k]),
        "flags": flags,
        "thresholds": [[share, float(value)] for share, value in zip(layer.tails, layer.thresholds[:, k], strict=True)],
        "top_images": [result.image_name[row] for row in layer.top_image[k].tolist() if row >= 0],
        "distribution": None,
    }
    if (found := layer.distribution) is not None:
        facts["distribution"] = {
            **{key: float(getattr(found, key)[k]) for key in ("vmin", "vmax", "mean", "std", "zero_share")},
            "bins": found.bins(k),
            "tail": [[float(p), float(v)] for p, v in zip(found.tail, found.tail_value[k], strict=True)],
            "quantile": [float(v) for v in found.quantile[k]],
            "quantile_error": float(found.quantile_error),
        }
    return facts


def find_unit(result: Dissection, unit: str) -> tuple[str, LayerDissection, int]:
    """The layer's name, the layer, and the unit's number. BadInput where there is none such."""
    name, _, number = unit.rpartition(":")
    layers = ", ".join(result.layers)
    if name not in result.layers and not (name == "" and len(result.layers) == 1):
        raise BadInput("--unit", repr(unit), f"LAYER:UNIT, the layer one of {layers}", "name one of them")
    name = name or next(iter(result.layers))
    layer = result.layers[name]
    if not (number.isascii() and number.isdigit() and int(number) < len(layer.n)):
        raise BadInput("--unit", repr(unit), f"a unit from 0 to {len(layer.n) - 1}", "correct it")
    return name, layer, int(number)


def best_concepts(result: Dissection, layer: LayerDissection, k: int) -> list[dict[str, Any]]:
    """The unit's concepts of largest IoU above 0."""
    order = np.argsort(-layer.iou[k], kind="stable")[:N_BEST]
    return [
        {
            "concept": result.concept_name[c],
            "category": result.category_name[result.concept_category[c]],
            "iou": float(layer.iou[k, c]),
        }
        for c in order.tolist()
        if layer.iou[k, c] > 0
    ]
