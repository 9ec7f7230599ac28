"""The house: imports point down, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import streamdissect

PACKAGE = Path(streamdissect.__file__).parent
FLOORS = [
    {"errors", "tally", "ranks", "richtext"},
    {"objects"},
    {"atomic", "granted"},
    {"callables", "hdf5files", "options"},
    {"alignmentoptions", "perturboptions"},
    {"kernels"},
    {"quantile"},
    {"measure"},
    {"data", "figures", "models", "store"},
    {"stages"},
    {"reporting"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 420
"""Lines of a module; a longer one wants to be two."""


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(source: str, path: Path):
    """Rooms of this package that a module imports, those inside functions too."""
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module or "").split(".")) if node.module else base
            if target and target[0]:
                yield target[0]
            else:
                yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "streamdissect":
            yield "(absolute import)"
        elif isinstance(node, ast.Import):
            yield from ("(absolute import)" for alias in node.names if alias.name.split(".")[0] == "streamdissect")


def violations(source: str, path: Path):
    room = room_of(path)
    for target in imports_of(source, path):
        if target == room or target in ("__doc__", "__version__"):
            continue
        if target not in FLOOR_OF:
            yield f"{path.name}: {target}"
        elif FLOOR_OF[target] >= FLOOR_OF[room]:
            yield f"{room} must not import {target} ({path.name})"


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_floor():
    assert {room_of(path) for path in MODULES} == FLOOR_OF.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    source = path.read_text(encoding="utf-8")
    if path.parent == PACKAGE and path.name == "__init__.py":
        return  # the public names live on every floor
    assert list(violations(source, path)) == []


def test_a_planted_violation_is_caught():
    inside = PACKAGE / "measure" / "planted.py"
    assert list(violations("from ..store import rundir", inside)) == ["measure must not import store (planted.py)"]
    assert list(violations("def f():\n    from ..cli.output import show", inside))
    assert list(violations("import streamdissect.store", inside))
    assert not list(violations("from ..kernels import words_of\nfrom .iou import Scores", inside))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_fit_in_a_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["extract", "--help"], ["score", "--help"], ["info"]])
def test_light_commands_import_nothing_heavy(arguments):
    script = (
        "import sys\nfrom streamdissect.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numba', 'zarr', 'h5py', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scoring_needs_no_torch():
    script = "import sys, streamdissect.stages.score\nassert not {'torch', 'numba'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there():
    for name in streamdissect.__all__:
        assert getattr(streamdissect, name).__doc__, name
    assert sorted(streamdissect.__all__) == sorted(streamdissect.HOMES)
