"""The figures of `perturb`: curves over magnitude, scatters, bars, and panels of one image (methods 4)."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_bytes
from ..data.imagefiles import read_image
from ..errors import BadInput
from ..figures.panels import PanelRow, draw_grid, lit
from ..figures.svg import Series, bar_chart, line_chart, scatter_chart
from ..kernels.reference import unpack
from ..measure.composition import CLEAN, Robustness
from ..measure.perturbations import Clean, Draw, Perturbation
from ..perturboptions import ShowOptions
from ..store.robustness import layer_stems
from .forward import Network, resized, torch_threads
from .perturb_work import Scored, spread_units

CURVES = {
    "survival": "share of the detectors that survive",
    "consistency": "mask consistency J, median over units",
}
AXIS = {
    "noise": "noise up to",
    "rotate": "rotation in degrees",
    "shuffle-grid": "tiles a side",
    "shuffle-patch": "pixels of a tile",
    "blur": "blur, pixels",
    "brightness": "brightness, factor",
    "jpeg": "JPEG quality",
    "fgsm": "adversarial step",
}


def draw_figures(found: Robustness, folder: Path) -> None:
    """Write every chart."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = list(dict.fromkeys(each.kind for each in found.settings if each.kind != CLEAN))
    rows = found.summary()
    for kind in kinds:
        chosen = [p for p, each in enumerate(found.settings) if each.kind in (CLEAN, kind)]
        texts = [found.settings[p].text for p in chosen]
        names = [CLEAN if text == CLEAN else text.partition(" ")[2] for text in texts]
        for quantity, meaning in CURVES.items():
            series = []
            for layer in found.outcomes:
                at = [next(row for row in rows if (row["layer"], row["setting"]) == (layer, text)) for text in texts]
                means, stds = ([row[key] for row in at] for key in (quantity, f"{quantity}_std"))
                series.append(Series(layer, list(range(len(at))), means, stds))
            title = f"{quantity.capitalize()} under {kind}"
            about = f"{meaning}, by layer: mean over trials and one standard deviation"
            chart = line_chart(title, about, series, AXIS.get(kind, kind), quantity, x_names=names, y_range=(0.0, 1.02))
            write_bytes(folder / f"{quantity}-{plain_name(kind)}.svg", chart.encode())
        for layer, stem in layer_stems(list(found.outcomes)).items():
            chart = clean_against_perturbed(found, layer, kind, [p for p in chosen if found.settings[p].kind == kind])
            write_bytes(folder / f"scatter-{plain_name(kind)}-{stem}.svg", chart.encode())
    for layer, stem in layer_stems(list(found.outcomes)).items():
        write_bytes(folder / f"unique-{stem}.svg", unique_detectors(found, layer).encode())


def clean_against_perturbed(found: Robustness, layer: str, kind: str, chosen: Sequence[int]) -> str:
    """IoU of the run's detectors with their concepts, clean and perturbed: a point a unit, means over trials."""
    was = found.result.layers[layer].is_detector
    groups = []
    for p in chosen:
        outcomes = found.of(layer, p)
        x, y = (np.mean([getattr(each, name) for each in outcomes], axis=0)[was] for name in ("iou_clean", "iou"))
        groups.append(Series(found.settings[p].text, x.tolist(), y.tolist()))
    title = f"IoU under {kind}, detectors of {layer}"
    about = "IoU of each detector with its concept on perturbed images against that on the same clean images"
    return scatter_chart(title, about, groups, "clean IoU, matched", "perturbed IoU", is_square=True)


def unique_detectors(found: Robustness, layer: str) -> str:
    """Distinct concepts detected in each category, by setting; means over trials."""
    names, result = [each.text for each in found.settings], found.result
    counts = [
        np.mean([each.unique_by_category for each in found.of(layer, p)], axis=0) for p in range(len(found.settings))
    ]
    stacks = [(name, [float(each[g]) for each in counts]) for g, name in enumerate(result.category_name)]
    about = "distinct concepts detected, by category and setting; means over trials"
    return bar_chart(f"Unique detectors by category, {layer}", about, names, stacks, "distinct concepts")


def plain_name(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.-]", "-", text)


def find_picture(scored: Scored, image: str | os.PathLike[str]) -> tuple[str, NDArray[np.uint8], tuple[int, int]]:
    """Name, RGB (rows, columns, 3) and mask grid of an image of the dataset, or of a picture file."""
    data, name = scored.data, os.fspath(image)
    if name in data.names:
        index = list(data.names).index(name)
        shape = data.labels(index).shape if data.has_labels(index) else None
        return name, data.image(index), scored.mask_shape(data.image_size(index), shape)
    if not os.path.exists(name):
        remedy = f"such as {data.names[0]}, or the path of a picture"
        raise BadInput("image", repr(name), "an image of the dataset, or a file", remedy)
    picture = read_image(name, name, "the command")
    return name, picture, scored.mask_shape((picture.shape[0], picture.shape[1]), None)


def draw_perturbed(
    scored: Scored,
    network: Network,
    image: str | os.PathLike[str],
    units: Sequence[tuple[str, int]],
    perturbations: Sequence[Perturbation],
    seed: int,
) -> list[tuple[NDArray[np.float32], list[NDArray[np.bool_]]]]:
    """For the clean image and each perturbation: the picture as the network saw it, and each unit's mask (H, W)."""
    name, picture, shape = find_picture(scored, image)
    clean = resized(picture, scored.input_size).astype(np.float32)
    red, green, blue = (255 * each for each in network.options.mean)
    found = []
    for each in (Clean(), *perturbations):
        draw = Draw(seed, 0, name, (red, green, blue))
        with torch_threads(network.options.threads):
            if each.needs_ascent:
                draw = Draw(seed, 0, name, (red, green, blue), network.ascents([clean])[0])
            perturbed = each.image(clean, draw)
            maps = network.activations([perturbed])
        masks = []
        for layer, unit in units:
            bits = scored.masks(layer, maps[layer][:, unit], scored.thresholds(layer)[[unit]], shape)
            masks.append(unpack(bits[0], shape))
        found.append((perturbed, masks))
    return found


def name_unit(scored: Scored, layer: str, unit: int) -> str:
    """A unit and what it detects, in two lines."""
    concept = int(scored.layer(layer).best_concept[unit])
    name = scored.result.concept_name[concept] if concept >= 0 else "no concept"
    return f"{layer}:{unit}\n{name} {scored.layer(layer).best_iou[unit]:.3f}"


def draw_panel(
    scored: Scored,
    network: Network,
    folder: Path,
    image: str | os.PathLike[str],
    units: Sequence[str],
    perturbations: Sequence[Perturbation],
    options: ShowOptions,
) -> Path:
    """Write one image under every perturbation, a column for each unit, what is outside its mask dimmed."""
    layers = set(network.names)
    chosen = [pair for pair in spread_units(scored, units) if units or pair[0] in layers]
    if missing := [layer for layer, _ in chosen if layer not in layers]:
        raise BadInput("--units", repr(missing[0]), "a layer among --layers", "add it there")
    found = draw_perturbed(scored, network, image, chosen, perturbations, options.seed)
    labels = ["Original", *(each.label for each in perturbations)]
    rows = [
        PanelRow(label, [lit(picture, mask) for mask in masks])
        for label, (picture, masks) in zip(labels, found, strict=True)
    ]
    sheet = draw_grid([name_unit(scored, layer, unit) for layer, unit in chosen], rows)
    folder = folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    path = folder / f"panel-{plain_name(Path(image).stem)}.png"
    write_bytes(path, buffer.getvalue())
    return path
