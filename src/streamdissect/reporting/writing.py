"""The report of a scored run: everything is gathered, written aside, and takes its place when it is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_json
from ..data.dataset import Dataset
from ..data.labellers import Labels
from ..errors import BadInput
from ..measure.dissection import Dissection
from ..options import RUN, ScoreOptions, with_options
from ..stages.control import Control
from ..stages.settings import check_name, saved_settings, settings_to_options
from ..store.results import load_dissection
from ..store.rundir import RunDir, size_of
from .album import open_album
from .choices import ReportOptions
from .experiments import experiment_pages
from .folders import check_folder, replacing_folder
from .gathering import MaskOf, Shown
from .masks import KeptMasks, StoredMasks, find_masks
from .outlines import outline
from .pictures import Pictures, draw_pictures
from .run_pages import write_pages
from .sizes import plan_pictures

ABOUT = "report.json"
"""What a report is of, for other programs."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    """index.html"""
    pages: int
    bytes: int
    """Of the whole folder."""
    seconds: float


def report(
    run: RunDir | str | os.PathLike[str] = RUN,
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    labels: Labels | None = None,
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    options: ReportOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> Report:
    """Write pages that show what units detect, and where.

    Parameters
    ----------
    run : RunDir or path
        Scored.
    data : Dataset, str or path, optional
        The images, where they are not where the run says; those that are missing are shown as missing.
    labels : as for `score`, optional
        What labelled the images, where that is not as the scoring says.
    out : path, optional
        The folder; by default `report` beside the results. One that this made before is replaced.
    figures : path, optional
        Where to write the charts once more for a paper, as PDF and PNG.
    options : ReportOptions, optional
    control : Control, optional
    **named
        Fields of `ReportOptions`, over those of `options`.

    Returns
    -------
    Report

    Raises
    ------
    BadInput
        The run is not scored, something given cannot be used, the folder holds something else, or `figures` are asked
        for without Matplotlib.
    IncompleteRun
        The run is damaged.
    Stopped
        `control` asked for it; nothing is left.
    """
    begin, control = time.perf_counter(), control or Control()
    options = with_options(options or ReportOptions(), named)
    opened = run if isinstance(run, RunDir) else RunDir(run)
    settings, scored = open_settings(opened, options)
    results = opened.results_path(options.name)
    folder = check_folder(results / "report" if out is None else out, "report", options.overwrite)
    if figures is not None:
        from .paper import require_matplotlib

        require_matplotlib()
        if Path(figures).exists() and not Path(figures).is_dir():
            raise BadInput("--figures", f"{str(figures)!r}, a file", "a folder", "name another")
    result = load_dissection(results / "dissection.h5")
    album = open_album(opened, result, settings, scored, data, labels)
    tops = [layer.top_image for layer in result.layers.values()]
    plan = plan_pictures(tops, options.images, len(result.concept_name))
    wanted = wanted_concepts(tops, [layer.best_concept for layer in result.layers.values()], plan.n_images)
    with replacing_folder(folder, "report") as aside:
        pictures = draw_pictures(album, result.image_name, plan, wanted, aside, options.threads, control)
        notices = list(album.notices)
        if album.data is not None and pictures.n_missing:
            notices.append(
                f"{pictures.n_missing} of {len(plan.rows)} images could not be read and are shown as missing."
            )
        source, notice = find_masks(opened, result, settings, scored)
        notices += [notice] if notice else []
        paths, n_pixels = trace_masks(result, pictures, source, plan.n_images, control)
        shown = Shown(result, pictures, plan.n_images, paths, n_pixels)
        extras, without = experiment_pages(opened, options.name, result)
        notices += without
        charts = write_pages(aside, opened, settings, options.name, shown, notices, extras, control)
        n_pages = sum(1 for _ in aside.rglob("*.html"))
        write_json(aside / ABOUT, {"run": str(opened.path), "scoring": options.name, "pages": n_pages})
    if figures is not None:
        from .paper import save_figures

        save_figures(charts, Path(figures))
    return Report(folder / "index.html", n_pages, size_of(folder), time.perf_counter() - begin)


def open_settings(run: RunDir, options: ReportOptions) -> tuple[dict[str, Any], ScoreOptions]:
    """The settings of a finished scoring, also as options. BadInput where there is none."""
    check_name(options.name)
    settings = saved_settings(run, options.name)
    if settings is None or not (run.results_path(options.name) / "summary.json").exists():
        got = f"{str(run.path)!r}, not scored{' under that name' * bool(options.name)}"
        name = f" --name {options.name}" if options.name else ""
        raise BadInput("run", got, "one that is", f"run: streamdissect score {run.path}{name}")
    if settings.get("until_stable") is not None:
        got = "a scoring that stopped early (--until-stable)"
        raise BadInput("--name", got, "one of all images", "score plainly under another --name")
    common = ScoreOptions(name=options.name, threads=options.threads, memory=options.memory)
    return settings, settings_to_options(settings, common)


def wanted_concepts(tops: list[NDArray[np.int64]], best: list[NDArray[np.int32]], n_images: int) -> dict[int, set[int]]:
    """Row -> the best concepts of the units whose top images it is among."""
    wanted: dict[int, set[int]] = {}
    for top, concepts in zip(tops, best, strict=True):
        for row, units in units_by_row(top[:, :n_images]).items():
            wanted.setdefault(row, set()).update(c for c in concepts[units].tolist() if c >= 0)
    return wanted


def trace_masks(
    result: Dissection, pictures: Pictures, source: StoredMasks | KeptMasks | None, n_images: int, control: Control
) -> tuple[dict[MaskOf, str], dict[MaskOf, int]]:
    """Outlines of the masks on the pictures that are there, and their pixels; none without a source."""
    paths: dict[MaskOf, str] = {}
    n_pixels: dict[MaskOf, int] = {}
    grids = {row: shape for row, shape in pictures.grids().items() if pictures.of_row[row].file}
    if source is None:
        return paths, n_pixels
    for name, layer in result.layers.items():
        control.check()
        for row, unit, mask in source.iter_masks(name, units_by_row(layer.top_image[:, :n_images]), grids):
            paths[name, unit, row], n_pixels[name, unit, row] = outline(mask), int(mask.sum())
    return paths, n_pixels


def units_by_row(top: NDArray[np.int64]) -> Mapping[int, list[int]]:
    """Row -> the units that have it among their top images (K, T)."""
    found: dict[int, list[int]] = {}
    for unit, rows in enumerate(top.tolist()):
        for row in rows:
            if row >= 0:
                found.setdefault(row, []).append(unit)
    return found
