"""What docs/hpc.md lists is what there is."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from .conftest import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "hpc.md").read_text(encoding="utf-8")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def required(beyond):
    """Names of all packages that this one wants installed, without `beyond` and what only those want."""
    waiting = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = set()
    while waiting:
        wanted = Requirement(waiting.pop())
        name = plain(wanted.name)
        if (wanted.marker is None or wanted.marker.evaluate({"extra": ""})) and name not in found | beyond:
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def test_the_packages_to_add_to_a_sites_pytorch():
    (line,) = re.findall(r"^pip install --no-deps (?!\.$)(.*)$", PAGE, flags=re.M)
    wanted = required(beyond={"torch", "numpy"})
    assert "zarr" in wanted
    assert {plain(name) for name in line.split()} == wanted - {"msgspec"}


def test_every_script_is_named():
    names = {
        f"examples/{path.parent.name}/{path.name}" for kind in ("hpc", "slurm") for path in (EXAMPLES / kind).iterdir()
    }
    assert {name for name in names if f"(../{name})" not in PAGE and "__pycache__" not in name} == set()
