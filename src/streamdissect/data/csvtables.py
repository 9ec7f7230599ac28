"""Tables as CSV files: read whole, checked, with the place of each line for messages."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from ..errors import BadInput, StorageFailure

MOST_DIGITS = 20
LARGEST_NUMBER = 65535
"""The largest label number a map can hold: R + 256 G."""


class Cells(NamedTuple):
    """One line of a table, and where it stands."""

    place: str
    by_column: dict[str, str]

    def get(self, column: str) -> str:
        """Text of a cell; empty where the table has no such column."""
        return self.by_column.get(column, "")

    def whole_number(self, column: str, smallest: int, largest: int) -> int:
        """The number in a cell, checked."""
        text = self.get(column)
        if not is_number(text) or not smallest <= int(text) <= largest:
            expected = f"a whole number from {smallest} to {largest}"
            raise BadInput(f"{self.place}, column {column}", repr(text), expected, "correct the table")
        return int(text)

    def size(self, rows: str, columns: str) -> tuple[int, int] | None:
        """(rows, columns) from two cells; None unless both are filled."""
        if not self.get(rows) or not self.get(columns):
            return None
        return self.whole_number(rows, 1, 2**31 - 1), self.whole_number(columns, 1, 2**31 - 1)

    def coverage(self) -> float:
        """The number in the column `coverage`, checked."""
        text = self.get("coverage")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf:
            raise BadInput(f"{self.place}, column coverage", repr(text), "a number >= 0", "correct the table")
        return value


@dataclass(frozen=True)
class Table:
    """A CSV file as read."""

    path: str
    content: bytes
    columns: tuple[str, ...]
    rows: list[Cells]


def open_table(directory: str, name: str, required: Sequence[str]) -> Table | None:
    """A CSV file with a header line, or None where there is no such file; blank lines and a BOM are skipped."""
    path = os.path.join(directory, name)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageFailure(f"{path}: {error.strerror}") from error
    try:
        if b"\0" in content:
            raise csv.Error("it holds NUL characters")
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(path, str(error), "a CSV table in UTF-8", "save the table again") from error
    (_, header), *lines = [line for line in lines if any(line[1])] or [(1, [])]
    if missing := [column for column in required if column not in header]:
        is_split_otherwise = len(header) == 1 and any(sign in header[0] for sign in ";\t")
        remedy = "separate the cells by commas" if is_split_otherwise else "add the header line or the column"
        raise BadInput(path, f"columns {header}", f"a column {missing[0]!r}", remedy)
    if repeated := [column for column in header if header.count(column) > 1]:
        raise BadInput(path, f"column {repeated[0]!r} twice", "each column once", "rename or remove one")
    rows = []
    for line, cells in lines:
        place = f"{path} line {line}"
        if len(cells) != len(header):
            raise BadInput(place, f"{len(cells)} cells", f"{len(header)} as in its header", "check the file is whole")
        rows.append(Cells(place, dict(zip(header, cells, strict=True))))
    return Table(path, content, tuple(header), rows)


def require_table(directory: str, name: str, required: Sequence[str], expected: str) -> Table:
    """A table without which the directory is not what is `expected`."""
    table = open_table(directory, name, required)
    if table is None:
        raise BadInput(directory, f"no file {name}", expected, "add it")
    return table


def digest_tables(tables: Sequence[Table | None]) -> bytes:
    """blake2b digest of the names and bytes of the tables present."""
    digest = blake2b()
    for table in tables:
        if table is not None:
            digest.update(f"{os.path.basename(table.path)}\0{len(table.content)}\0".encode() + table.content)
    return digest.digest()


def is_number(text: str) -> bool:
    """Whether a text consists of the digits 0 to 9."""
    return text.isascii() and text.isdigit() and len(text) < MOST_DIGITS
