"""What the tests of the report share: pictures whose names try to break pages, and what reads pages."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

NETS = Path(__file__).resolve().parents[1] / "stages" / "nets.py"
LAYERS = ["block1.act", "block2.conv"]
EVIL = '<script>alert("x")</script>'
CONCEPTS = [(1, "shape", EVIL), (2, "shape", "square & co"), (3, "colour", "</script><b>red"), (7, "colour", "blue")]
PICTURE = "<img src=x> & 'co' \"1\".png"


def write_folder(folder, n=14, size=48):
    """Pictures of squares and discs; the labels are half as large, the last picture has none."""
    for name in ("images", "labels/shape", "labels/colour"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size]
    for i in range(n):
        image = rng.integers(90, 140, (size, size, 3)).astype(np.uint8)
        shapes, colours = np.zeros((2, size, size), np.uint8)
        for _ in range(2):
            kind, (number, rgb) = rng.integers(1, 3), [(3, (230, 30, 30)), (7, (30, 30, 230))][rng.integers(2)]
            dy, dx, radius = abs(y - rng.integers(size)), abs(x - rng.integers(size)), rng.integers(6, 14)
            inside = dy**2 + dx**2 < radius**2 if kind == 1 else np.maximum(dy, dx) < radius
            image[inside], shapes[inside], colours[inside] = rgb, kind, number
        name = PICTURE if i == 0 else f"{i:03d}.png"
        Image.fromarray(image).save(folder / "images" / name)
        if i < n - 1:
            Image.fromarray(shapes[::2, ::2]).save(folder / "labels/shape" / name)
            Image.fromarray(colours[::2, ::2]).save(folder / "labels/colour" / name)
    rows = [f'{number},"{name.replace(chr(34), 2 * chr(34))}",{category}' for number, category, name in CONCEPTS]
    (folder / "labels.csv").write_text("\n".join(["number,name,category", *rows]) + "\n")
    return folder


@dataclass
class Element:
    """An HTML element."""

    name: str
    attributes: dict
    text: str = ""
    children: list = field(default_factory=list)

    def all(self, name, of_class=None):
        """Elements below it, in order."""
        for child in self.children:
            if child.name == name and (of_class is None or of_class in child.attributes.get("class", "").split()):
                yield child
            yield from child.all(name, of_class)

    def words(self):
        """All text."""
        return " ".join([self.text, *(child.words() for child in self.children)])


VOID = {"meta", "link", "img", "input", "br"}


class Tree(HTMLParser):
    """Elements of a page; every one is closed in its place."""

    def __init__(self, text):
        super().__init__()
        self.root = Element("document", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], [element.name for element in self.open]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        assert len(attrs) == len(element.attributes), f"an attribute twice: {attrs}"
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop().name == tag

    def handle_data(self, data):
        self.open[-1].text += data


def parse(text):
    """The root of a page."""
    return Tree(text).root


def read_script(path):
    """What a script of the report is called with."""
    text = Path(path).read_text(encoding="utf-8")
    assert text.endswith(");\n") and "<" not in text
    return json.loads(text[text.index("(") + 1 : -3])


def fill(path, shape):
    """The pixels inside a path of steps that start at `M`, each `h`, `v` or `z`, by the even-odd rule: bool (H, W).

    Pixels outside the grid are left out, so a frame about it counts as one crossing for every pixel.
    """
    height, width = shape
    odd = np.zeros((height, width), bool)
    for loop in filter(None, path.split("M")):
        assert re.fullmatch(r"-?\d+ -?\d+(h-?\d+v-?\d+)*h-?\d+z", loop), loop
        x, y = map(int, re.match(r"(-?\d+) (-?\d+)", loop).groups())
        first = y
        for way, text in re.findall(r"([hv])(-?\d+)", loop):
            assert text != "0"
            if way == "h":
                x += int(text)
                continue
            toggle(odd, x, y, y + int(text))
            y += int(text)
        toggle(odd, x, y, first)
    return odd


def toggle(odd, x, y, end):
    """Cross a vertical edge: everything right of it changes sides."""
    rows = slice(max(0, min(y, end)), max(0, max(y, end)))
    odd[rows, max(0, x) :] ^= True
