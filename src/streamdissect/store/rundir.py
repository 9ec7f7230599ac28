"""A run directory: where everything in it lies, and run.json, which says what it is."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from ..atomic import ASIDE, create_json, remove_tree
from ..errors import BadInput, IncompleteRun
from ..objects import ObjectPath, place
from ..richtext import html_table
from .partials import Ledger

SCHEMA_VERSION = 1
RESULTS = ("dissection.h5", "tables", "summary.json", "scores", "masks", "audit.json", "perturb", "rotate", "pca",
           "report")  # fmt: skip
PARTS_ON_DISK = ("activations.zarr", "partial", *RESULTS)
"""What a run's directory holds beside run.json."""
PARTS = {"identity": dict, "plan": dict, "layers": list, "model": dict, "data": dict, "versions": dict}
"""What run.json holds at least."""


class RunDir:
    """An existing run.

    Parameters
    ----------
    path : path
        Holds run.json.

    Raises
    ------
    BadInput
        There is no run, or one of another format.
    IncompleteRun
        run.json cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = place(path)
        file = self.path / "run.json"
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            got = "no run.json there" if self.path.exists() else "no such directory"
            remedy = f"make one with: streamdissect extract --out {path}"
            raise BadInput("run", f"{str(path)!r} ({got})", "the directory of a run", remedy) from error
        except ValueError as error:
            if isinstance(error, BadInput):  # there is no such bucket
                raise
            raise IncompleteRun(f"{file}: damaged; extract again with --overwrite") from error
        if not isinstance(manifest, dict):
            raise IncompleteRun(f"{file}: damaged; extract again with --overwrite")
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            remedy = "open it with the version that made it, or extract again with --overwrite"
            raise BadInput(str(file), f"format {version!r}", f"format {SCHEMA_VERSION}", remedy)
        if not all(isinstance(manifest.get(part), kind) for part, kind in PARTS.items()):
            raise IncompleteRun(f"{file}: damaged; extract again with --overwrite")
        self.manifest: dict[str, Any] = manifest

    def __repr__(self) -> str:
        return f"<RunDir {str(self.path)!r}: {self.manifest['plan']['n_images']} images, {self.n_shards} shards>"

    def _repr_html_(self) -> str:
        """For notebooks: what is in the run."""
        manifest = self.manifest
        arrays = [(layer["array"], layer["field"]) for layer in manifest["layers"]]
        rows = [
            (
                a["name"],
                a["n_units"],
                " x ".join(map(str, a["grid"])),
                a["dtype"],
                field["text"] if field else "unknown",
            )
            for a, field in arrays
        ]
        plan, model, data = manifest["plan"], manifest["model"]["spec"], manifest["data"]["spec"]
        caption = f"{self.path}: {plan['n_images']} images of {data}, {self.n_shards} shards, model {model}"
        return html_table(caption, ("layer", "units", "grid", "dtype", "field map"), rows)

    @classmethod
    def create(cls, path: str | os.PathLike[str], manifest: dict[str, Any]) -> Self:
        """Make a run; where another process was first, its run is opened."""
        folder = place(path)
        folder.mkdir(parents=True, exist_ok=True)
        create_json(folder / "run.json", {"schema_version": SCHEMA_VERSION, **manifest})
        return cls(folder)

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether a directory holds a run."""
        return (place(path) / "run.json").exists()

    @staticmethod
    def remove(path: str | os.PathLike[str]) -> None:
        """Delete a run of any format, and nothing beside it; a killed removal leaves one without any finished shard.

        BadInput where the directory's run.json is something else's.
        """
        folder = place(path)
        try:
            manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            is_run = isinstance(manifest, dict) and "schema_version" in manifest
        except ValueError:
            is_run = False
        if not is_run and not (folder / "partial" / "extract").is_dir():  # ours could be damaged
            raise BadInput("run", f"{str(path)!r}, whose run.json is no run's", "a run", "choose another directory")
        (folder / "summary.json").unlink(missing_ok=True)
        remove_tree(folder / "partial")
        for entry in list(folder.iterdir()):
            if entry.name in PARTS_ON_DISK or any(entry.name.startswith(f"{part}{ASIDE}") for part in PARTS_ON_DISK):
                remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (folder / "run.json").unlink()

    @property
    def full_name(self) -> str:
        """Where it lies, from wherever one looks."""
        return str(self.path) if isinstance(self.path, ObjectPath) else os.path.abspath(self.path)

    @property
    def activations_path(self) -> Path:
        return self.path / "activations.zarr"

    @property
    def planes_path(self) -> Path:
        """Label planes that were built before."""
        return self.path / "partial" / "planes"

    def results_path(self, name: str | None) -> Path:
        """Where a scoring's results go."""
        return self.path if name is None else self.path / "scores" / name

    @property
    def spill(self) -> str:
        """What of the activations is stored: full, candidates or none."""
        return str(self.manifest["identity"].get("spill", "full"))

    @property
    def is_spilled(self) -> bool:
        """Whether activations are stored, all or those of maps that may exceed a threshold."""
        return self.spill != "none"

    @property
    def tails(self) -> list[Fraction]:
        """Those that were extracted, in order."""
        return [Fraction(text) for text in self.manifest["identity"]["tails"]]

    @property
    def is_captured(self) -> bool:
        """Whether a loop of somebody's own made it, and not `extract`."""
        return bool(self.manifest["identity"].get("captured"))

    @property
    def is_recorded(self) -> bool:
        """Whether its activations came as arrays, from another program."""
        return bool(self.manifest["identity"].get("recorded"))

    @property
    def n_shards(self) -> int:
        return int(self.manifest["plan"]["n_shards"])

    def ledger(self, stage: str) -> Ledger:
        """Commits of a stage: `extract`, `score` or `score-NAME`."""
        return Ledger(self.path / "partial" / stage, self.n_shards)

    def scorings(self) -> list[str | None]:
        """Names of the scorings that were begun; None is the main one."""
        stages = sorted(path.name for path in (self.path / "partial").glob("score*") if ASIDE not in path.name)
        return [stage.partition("-")[2] or None for stage in stages]

    def rows(self, shard: int) -> range:
        """Rows of the store that a shard holds."""
        size, n_images = int(self.manifest["plan"]["shard_images"]), int(self.manifest["plan"]["n_images"])
        return range(shard * size, min((shard + 1) * size, n_images))


def stage_of(name: str | None) -> str:
    """The stage of a scoring."""
    return "score" if name is None else f"score-{name}"


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a directory."""
    if isinstance(path, ObjectPath):
        return path.n_bytes() or (path.stat().st_size if path.is_file() else 0)
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
