"""The regions that units detect in any image, by a forward pass and the thresholds of a scored run."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..atomic import write_bytes
from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..errors import BadInput
from ..figures.panels import PanelRow, draw_grid, lit
from ..measure.perturbations import Perturbation
from ..options import RUN, with_options
from ..perturboptions import ShowOptions
from ..store.rundir import RunDir
from ..tally import Arrays
from .control import Control
from .perturb_figures import draw_perturbed, name_unit
from .perturb_work import chosen_perturbations, open_network, open_scored, spread_units

ENDINGS = (".png", ".npz")


@dataclass(frozen=True, eq=False)
class Shown:
    """The result of `show`: masks of U units on pictures."""

    units: tuple[str, ...]
    """`LAYER:UNIT`"""
    concepts: tuple[str, ...]
    """(U) each unit's name and, below, what it detects."""
    pictures: tuple[tuple[str, str], ...]
    """(image, perturbation) of each picture; `Original` for none."""
    seen: tuple[NDArray[np.uint8], ...] = field(repr=False)
    """The pictures (rows, columns, 3) as the network saw them, rounded."""
    masks: tuple[NDArray[np.bool_], ...] = field(repr=False)
    """(U, H, W) for each picture, on its mask grid."""

    def panel(self) -> Any:
        """A PIL image: a row for each picture, a column for each unit, what is outside the mask dimmed."""
        several = len({image for image, _ in self.pictures}) > 1
        rows = []
        for (image, label), picture, masks in zip(self.pictures, self.seen, self.masks, strict=True):
            name = f"{Path(image).stem} {label}" if several else label
            rows.append(PanelRow(name, [lit(picture, mask) for mask in masks]))
        return draw_grid(self.concepts, rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the panel (.png), or the masks (.npz: `unit`, `image`, `perturbation`, and `mask_0` ... (U, H, W)).

        BadInput for another ending.
        """
        ending, buffer = Path(path).suffix.lower(), io.BytesIO()
        check_ending(path)
        if ending == ".png":
            self.panel().save(buffer, format="PNG")
        else:
            images, labels = zip(*self.pictures, strict=True)
            texts = {"unit": self.units, "image": images, "perturbation": labels}
            arrays: Arrays = {name: np.array(each) for name, each in texts.items()}
            arrays |= {f"mask_{i}": mask for i, mask in enumerate(self.masks)}
            np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_bytes(path, buffer.getvalue())


def check_ending(path: str | os.PathLike[str]) -> None:
    """BadInput unless a file's name tells what is to be written."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise BadInput("--out", repr(os.fspath(path)), f"a name ending in {' or '.join(ENDINGS)}", "correct it")


def show(
    run: RunDir | str | os.PathLike[str] = RUN,
    images: Sequence[str | os.PathLike[str]] | str | os.PathLike[str] = (),
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    units: Sequence[str] = (),
    labels: Labels | None = None,
    model: nn.Module | str | None = None,
    weights: str | None = None,
    trust_model: bool = False,
    perturbations: Sequence[Perturbation] = (),
    out: str | os.PathLike[str] | None = None,
    options: ShowOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> Shown:
    """The regions that units detect in images, by a forward pass and the stored thresholds.

    Parameters
    ----------
    run : RunDir or path
        Scored. Its activations may have been dropped.
    images : sequence of str or path
        Names of images in the dataset, or picture files, which are brought to the network's input size. Masks lie on
        the mask grid of the scoring; those of a file, which has no label map, on the file's own pixels.
    units : sequence of str
        `LAYER:UNIT`; by default the strongest detector of each layer.
    data, labels, model, weights, trust_model, perturbations
        As for `perturb`; each image is also shown under each perturbation, in its first trial.
    out : path, optional
        Where to write a panel (.png) or the masks (.npz).
    options : ShowOptions, optional
    control : Control, optional
    **named
        Fields of `ShowOptions`, over those of `options`.

    Returns
    -------
    Shown

    Raises
    ------
    BadInput
        Something given cannot be used.
    """
    control = control or Control()
    options = with_options(options or ShowOptions(), named)
    asked = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    if not asked:
        raise BadInput("image", "none", "at least one image of the dataset, or file", "name it")
    if out is not None:
        check_ending(out)
    scored = open_scored(run, data, labels, options.name, options)
    chosen = spread_units(scored, units)
    kinds = [*chosen_perturbations(options, scored.input_size), *perturbations]
    for each in perturbations:
        each.check(scored.input_size)
    layers = list(dict.fromkeys(layer for layer, _ in chosen))
    network = open_network(scored, layers, model, weights, trust_model, options)
    pictures, seen, masks = [], [], []
    for image in asked:
        control.check()
        found = draw_perturbed(scored, network, image, chosen, kinds, options.seed)
        for label, (picture, lit_up) in zip(["Original", *(kind.text for kind in kinds)], found, strict=True):
            pictures.append((os.fspath(image), label))
            seen.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
            masks.append(np.stack(lit_up))
    shown = Shown(
        units=tuple(f"{layer}:{unit}" for layer, unit in chosen),
        concepts=tuple(name_unit(scored, layer, unit) for layer, unit in chosen),
        pictures=tuple(pictures),
        seen=tuple(seen),
        masks=tuple(masks),
    )
    if out is not None:
        shown.save(out)
    return shown
