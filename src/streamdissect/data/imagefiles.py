"""Pictures and label maps as files, from anyone: decoded without surprises, refused by name where they are damaged."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from struct import error as StructError
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import BadInput, StorageFailure

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What a picture may be, whatever its name ends in."""
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Of the names of pictures, in a folder that no table describes."""

GREY_MAPS = {(8, 0): "8-bit greyscale", (16, 0): "16-bit greyscale"}
BRODEN_MAPS = GREY_MAPS | {(8, 2): "8-bit RGB"}
INDEX_MAPS = GREY_MAPS | {(depth, 3): f"{depth}-bit palette" for depth in (8, 4, 2, 1)}
"""(bit depth, colour type) of a label map's PNG file; decoding would rescale or translate the numbers of others."""


COLOUR_TYPES = {0: "greyscale", 2: "an RGB picture", 3: "a palette", 4: "greyscale with alpha", 6: "RGB with alpha"}
"""What a PNG file says of itself."""


@contextmanager
def refusing_damage(place: str, listed: str = "index.csv") -> Iterator[None]:
    """Turn what Pillow and the system raise about a file into errors that name it; `listed`: who promises the file."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BadInput(place, "no such file", f"a file that {listed} lists", "restore it, or drop its line") from error
    except (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageFailure(f"{place}: {error.strerror}") from error
        forms = "a JPEG, PNG, WebP or BMP picture; a label map is PNG"
        raise BadInput(place, f"damaged content ({error})", forms, "restore it") from error


def read_bytes(path: str, listed: str = "index.csv") -> bytes:
    """A file's content."""
    with refusing_damage(path, listed), open(path, "rb") as file:
        return file.read()


def read_image(source: str | bytes, place: str, listed: str = "index.csv") -> NDArray[np.uint8]:
    """(rows, columns, 3) RGB of a picture, given as its path or content; alpha dropped, EXIF orientation ignored."""
    with refusing_damage(place, listed), Image.open(opened(source), formats=FORMATS) as image:
        return decode_rgb(image)


def read_size(source: str | bytes, place: str, listed: str = "index.csv") -> tuple[int, int]:
    """(rows, columns) of a picture from its header."""
    with refusing_damage(place, listed), Image.open(opened(source), formats=FORMATS) as image:
        return image.height, image.width


def opened(source: str | bytes) -> str | IO[bytes]:
    """What Pillow opens."""
    return io.BytesIO(source) if isinstance(source, bytes) else source


def decode_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(rows, columns, 3) RGB of an opened image, alpha dropped."""
    if image.mode.startswith("I"):  # 16-bit greyscale: Pillow would clip to 255 instead of dividing by 256
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # a palette with transparency warns when it goes straight to RGB
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def read_map(
    path: str, kinds: Mapping[tuple[int, int], str] = BRODEN_MAPS, listed: str = "index.csv"
) -> NDArray[np.uint16]:
    """(H, W) label numbers of a PNG file: the value of a single channel, the index into a palette, or R + 256 G."""
    values, kind = read_png(path, listed)
    if kind not in kinds:
        raise BadInput(
            path, describe_kind(kind), " or ".join(kinds.values()), "save the label map in one of these forms"
        )
    numbers = values.astype(np.uint16)
    return numbers if numbers.ndim == 2 else numbers[..., 0] + np.uint16(256) * numbers[..., 1]


def describe_kind(kind: tuple[int, int]) -> str:
    """A PNG file's (bit depth, colour type) in words."""
    return f"{COLOUR_TYPES.get(kind[1], 'a picture of another kind')} with {kind[0]} bits"


def read_png(path: str, listed: str = "index.csv") -> tuple[NDArray[np.generic], tuple[int, int]]:
    """Values of a PNG file as stored, (H, W) or (H, W, channels), and its (bit depth, colour type)."""
    with refusing_damage(path, listed), open(path, "rb") as file:
        header = file.read(26)  # it ends with the bit depth and the colour type
        with Image.open(file, formats=("PNG",)) as image:
            values: NDArray[np.generic] = np.asarray(image)
    return values, (header[24], header[25])


def check_size(path: str, got: Sequence[int], expected: Sequence[int] | None, source: str) -> None:
    """Refuse a file whose (rows, columns) are not those expected; None expects nothing."""
    if expected is not None and tuple(got) != tuple(expected):
        size = f"{expected[0]} x {expected[1]}, {source}"
        raise BadInput(path, f"{got[0]} rows x {got[1]} columns", size, "correct the file or the table")


def digest_files(files: Iterable[tuple[str, str]], tables: bytes = b"", listed: str = "index.csv") -> str:
    """blake2b hex digest of tables, and of the names and present sizes of files, given as (name, path)."""
    digest = blake2b(tables)
    for name, path in files:
        with refusing_damage(path, listed):
            digest.update(f"{name}\0{os.stat(path).st_size}\0".encode())
    return digest.hexdigest()


def inside(place: str, name: str) -> str:
    """A file name, checked to be relative and to stay below its folder."""
    if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise outside(place, name)
    return name


def path_inside(root: str, name: str, place: str) -> str:
    """Where a file below a directory really lies; BadInput where links lead out of it."""
    path = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath((root, path)) != root:
        raise outside(place, name)
    return path


def outside(place: str, name: str) -> BadInput:
    """The refusal of a path that leaves its folder."""
    return BadInput(place, f"file {name!r}", "a path that stays below its folder, images/ or labels/", "move it there")
