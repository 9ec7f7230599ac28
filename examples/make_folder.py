"""A labelled folder from arrays you have: `python examples/make_folder.py OUT`; then `--data OUT`.

images/ holds the pictures, labels/CATEGORY/ an index PNG of the same name for each, labels.csv what the numbers mean.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = {1: "disc", 2: "square"}
COLOURS = {1: ("red", (220, 50, 40)), 2: ("blue", (40, 80, 210))}


def draw(seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture (size, size, 3), and which shape and which colour each pixel belongs to, 0 = none."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), 235, np.uint8)
    shapes, colours = np.zeros((2, size, size), np.uint8)
    y, x = np.mgrid[:size, :size]
    for _ in range(3):
        shape, colour, radius = rng.integers(1, 3), rng.integers(1, 3), rng.integers(5, 12)
        dy, dx = abs(y - rng.integers(size)), abs(x - rng.integers(size))
        inside = dy**2 + dx**2 < radius**2 if shape == 1 else np.maximum(dy, dx) < radius
        image[inside], shapes[inside], colours[inside] = COLOURS[colour][1], shape, colour
    return image, shapes, colours


def main(out: str, n: int = 24) -> None:
    folder = Path(out)
    for name in ("images", "labels/shape", "labels/colour"):
        (folder / name).mkdir(parents=True)
    for seed in range(n):
        for name, array in zip(("images", "labels/shape", "labels/colour"), draw(seed), strict=True):
            Image.fromarray(array).save(folder / name / f"{seed:03d}.png")
    lines = ["number,name,category"]
    lines += [f"{number},{name},shape" for number, name in SHAPES.items()]
    lines += [f"{number},{name},colour" for number, (name, _) in COLOURS.items()]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    print(f"next: streamdissect extract --data {out} --model ... --layers ...")


if __name__ == "__main__":
    main(*sys.argv[1:])
