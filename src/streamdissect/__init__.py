"""Network Dissection, streaming and out of core: which concepts single units of a vision network detect.

>>> import streamdissect as sd
>>> run = sd.extract(model, "broden1_227", layers=["layer4"], out="run")  # doctest: +SKIP
>>> result = sd.score(run)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alignmentoptions import PcaOptions, RotateOptions
    from .data.dataset import Concepts, Dataset, ImageLabels
    from .data.opening import open_dataset
    from .errors import BadInput, IncompleteRun, Stopped, StorageFailure, StreamdissectError
    from .measure.comparison import Comparison
    from .measure.composition import Robustness
    from .measure.dissection import Dissection, LayerDissection
    from .measure.perturbations import Draw, Perturbation
    from .measure.warps import Warp
    from .options import ExtractOptions, ScoreOptions
    from .perturboptions import PerturbOptions, ShowOptions
    from .reporting.comparison import compare
    from .reporting.demo import demo
    from .reporting.writing import Report, report
    from .stages.arrays import record
    from .stages.audit import audit
    from .stages.capture import capture
    from .stages.extract import extract
    from .stages.listing import layers
    from .stages.masks import masks
    from .stages.merge import merge
    from .stages.monitor import Monitor
    from .stages.packing import pack
    from .stages.pca import pca
    from .stages.perturb import perturb
    from .stages.rotate import rotate
    from .stages.score import score, score_partial
    from .stages.scoring import Partial
    from .stages.show import Shown, show
    from .stages.synth import synth
    from .stages.upkeep import clean, info, verify
    from .store.rundir import RunDir

HOMES = {
    "BadInput": "errors",
    "Comparison": "measure.comparison",
    "Concepts": "data.dataset",
    "Dataset": "data.dataset",
    "Dissection": "measure.dissection",
    "Draw": "measure.perturbations",
    "ExtractOptions": "options",
    "ImageLabels": "data.dataset",
    "IncompleteRun": "errors",
    "LayerDissection": "measure.dissection",
    "Monitor": "stages.monitor",
    "Partial": "stages.scoring",
    "PcaOptions": "alignmentoptions",
    "PerturbOptions": "perturboptions",
    "Perturbation": "measure.perturbations",
    "Report": "reporting.writing",
    "Robustness": "measure.composition",
    "RotateOptions": "alignmentoptions",
    "RunDir": "store.rundir",
    "ScoreOptions": "options",
    "ShowOptions": "perturboptions",
    "Shown": "stages.show",
    "Stopped": "errors",
    "StorageFailure": "errors",
    "StreamdissectError": "errors",
    "Warp": "measure.warps",
    "audit": "stages.audit",
    "capture": "stages.capture",
    "clean": "stages.upkeep",
    "compare": "reporting.comparison",
    "demo": "reporting.demo",
    "extract": "stages.extract",
    "info": "stages.upkeep",
    "layers": "stages.listing",
    "masks": "stages.masks",
    "merge": "stages.merge",
    "open_dataset": "data.opening",
    "pack": "stages.packing",
    "pca": "stages.pca",
    "perturb": "stages.perturb",
    "record": "stages.arrays",
    "report": "reporting.writing",
    "rotate": "stages.rotate",
    "score": "stages.score",
    "score_partial": "stages.score",
    "show": "stages.show",
    "synth": "stages.synth",
    "verify": "stages.upkeep",
}
"""Module of each public name; torch and the like are imported with the first name that needs them."""

__all__ = [
    "BadInput",
    "Comparison",
    "Concepts",
    "Dataset",
    "Dissection",
    "Draw",
    "ExtractOptions",
    "ImageLabels",
    "IncompleteRun",
    "LayerDissection",
    "Monitor",
    "Partial",
    "PcaOptions",
    "PerturbOptions",
    "Perturbation",
    "Report",
    "Robustness",
    "RotateOptions",
    "RunDir",
    "ScoreOptions",
    "ShowOptions",
    "Shown",
    "Stopped",
    "StorageFailure",
    "StreamdissectError",
    "Warp",
    "audit",
    "capture",
    "clean",
    "compare",
    "demo",
    "extract",
    "info",
    "layers",
    "masks",
    "merge",
    "open_dataset",
    "pack",
    "pca",
    "perturb",
    "record",
    "report",
    "rotate",
    "score",
    "score_partial",
    "show",
    "synth",
    "verify",
]

try:
    __version__ = version("streamdissect")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f".{HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
