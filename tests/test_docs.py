"""What the pages below docs/ say holds: links lead somewhere, options exist, recipes run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamdissect.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def anchors(text):
    """What GitHub makes of headings."""
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_commands_exist(page):
    _, modules = build_parser()
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^(?:\$ )?(?:python -m )?streamdissect (.*)$", text, flags=re.M):
        command, *words = line.split()
        assert command in modules, line
        known = {option.flag for option in modules[command].OPTIONS} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, line


def blocks(page, heading, language):
    """The fenced blocks of a language below a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (body,) = [part for part in re.split(r"^## ", text, flags=re.M) if part.startswith(heading)]
    return re.findall(rf"^```{language}\n(.*?)^```", body, flags=re.M | re.S)


def test_packing_and_reading_what_is_packed(tmp_path):
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "streamdissect"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streamdissect "$@"\n')
    script.chmod(0o755)
    (tmp_path / "my_model.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.block1 = nn.Sequential()\n        self.block1.add_module('act', nn.MaxPool2d(4))\n\n"
        "    def forward(self, x):\n        return self.block1(x)\n\n\ndef build():\n    return Net()\n"
    )
    subprocess.run([sys.executable, ROOT / "examples" / "make_folder.py", "shapes"], cwd=tmp_path, check=True)
    table = (tmp_path / "shapes" / "labels.csv").read_text()
    (listed,) = [text for text in blocks("data.md", "A labelled folder", "") if text.startswith("number")]
    assert table == listed
    (recipe,) = blocks("data.md", "A packed file", "bash")
    done = subprocess.run(["bash", "-euc", recipe], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([script, "score", "packed_run", "--data", "shapes"], cwd=tmp_path, env=environment, check=True)
    (snippet,) = blocks("data.md", "A packed file", "python")
    check = "\n    with open('shapes/images/003.png', 'rb') as png:\n        assert png.read() == picture\n"
    check += "    assert numbers.shape == (64, 64) and category == 'colour'\n"
    subprocess.run([sys.executable, "-c", snippet + check], cwd=tmp_path, check=True)


def test_a_dataset_of_ones_own(tmp_path):
    (script,) = blocks("data.md", "A dataset of your own", "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Dissection of 40 images" in done.stdout, done.stderr


def test_quantiles_of_many_streams():
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "quantile.md").read_text(), flags=re.M | re.S)
    exec(compile(code, "quantile.md", "exec"), {})
