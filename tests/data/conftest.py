"""A tiny Broden directory, every part of which a test may replace."""

import numpy as np
import pytest
from PIL import Image

INDEX = """\
image,split,ih,iw,sh,sw,object,part,scene
a.png,train,6,8,3,4,a_object.png;a_group.png,a_part.png,7
sub/b.png,val,6,8,3,4,,,7;300
c.png,,6,8,3,4,,,
"""
LABEL = """\
number,name,category,frequency,coverage,syns
300,night,scene(1),1,1,
2,door,object(1);part(1),1,1.5,
5,wall,object(1),1,0.5,
7,street,scene(2),2,2,
"""
CATEGORY = """\
name,first,last,count,frequency
object,2,5,2,1
part,2,2,1,1
scene,7,300,2,2
"""
OBJECT = np.array([[2, 2, 0, 0], [5, 5, 5, 5], [300, 300, 300, 0]])
GROUP = np.array([[0, 5, 5, 0]] * 3)
PART = np.array([[2, 0, 0, 0]] * 3)


def image(rows=6, columns=8, mode="RGB"):
    """A random picture."""
    pixels = np.random.default_rng(rows).integers(0, 256, (rows, columns, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def label_map(numbers):
    """The picture of (H, W) label numbers: R + 256 G."""
    numbers = np.asarray(numbers)
    return Image.fromarray(np.stack([numbers % 256, numbers // 256, 0 * numbers], -1).astype(np.uint8))


@pytest.fixture
def broden(tmp_path):
    """Write a Broden directory: `broden({"index.csv": text, "images/x.png": picture, "category.csv": None})`.

    Strings, bytes and pictures replace the files of the standard directory or are added to it; None leaves one out.
    """

    def write(changes=(), name="broden"):
        files = {
            "index.csv": INDEX,
            "label.csv": LABEL,
            "category.csv": CATEGORY,
            **{f"images/{name}.png": image() for name in ("a", "sub/b", "c")},
            "images/a_object.png": label_map(OBJECT),
            "images/a_group.png": label_map(GROUP),
            "images/a_part.png": label_map(PART),
        } | dict(changes)
        for path, content in files.items():
            target = tmp_path / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Image.Image):
                content.save(target)
            elif content is not None:
                target.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return write


@pytest.fixture
def picture():
    """`picture(rows, columns, mode)`: a random picture."""
    return image


@pytest.fixture
def encoded():
    """`encoded(numbers)`: the picture of a label map."""
    return label_map
