"""Is everything in the sdist and the wheel that belongs there, and nothing else?"""

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGED = (".py", ".pyi", ".safetensors", ".json", ".html", ".css", ".js")
dist = Path(sys.argv[1])
(wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
in_wheel = set(zipfile.ZipFile(wheel).namelist())
with tarfile.open(sdist) as archive:
    in_sdist = {name.partition("/")[2] for name in archive.getnames()}
sources = {str(p.relative_to("src")) for p in Path("src").rglob("*") if p.suffix in PACKAGED}
sources = {name for name in sources if ".egg-info" not in name}
missing = sources - in_wheel | {"streamdissect/py.typed"} - in_wheel
kernels = {name for name in in_wheel if name.startswith("streamdissect/kernels/_") and name.endswith((".so", ".pyd"))}
assert not missing, f"the wheel lacks {sorted(missing)}"
assert len(kernels) == 4, f"the wheel has the kernels {sorted(kernels)}"
strays = {name for name in in_wheel if not name.startswith("streamdissect/") and ".dist-info/" not in name}
assert not strays, f"the wheel holds {sorted(strays)}"
folders = ("csrc", "bench", "tests", "scripts", "docs", "examples")
tracked = {str(p) for folder in folders for p in Path(folder).rglob("*") if p.is_file()}
tracked = {name for name in tracked if "__pycache__" not in name and not name.endswith(".so")}
tracked |= {
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "constraints-cpu.txt",
}
assert not tracked - in_sdist, f"the sdist lacks {sorted(tracked - in_sdist)}"
print(f"{wheel.name}: {len(in_wheel)} files; {sdist.name}: {len(in_sdist)} files; complete")
