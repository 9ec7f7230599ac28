"""Tables and charts as the pages of experiments show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .pages import svg


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    is_number: bool


@dataclass(frozen=True)
class Table:
    """Cells as texts, under the names of their columns."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A chart of this package, and what it is called."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """A part of a page: a headline, tables, charts."""

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: tuple[Figure, ...] = ()
    """Charts that are shown when asked for."""


def make_table(caption: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table of values; a column of numbers, or of numbers that are texts already, stands to the right."""
    found = [tuple(row) for row in rows]
    columns = tuple(Column(name, all(is_numeric(row[i]) for row in found)) for i, name in enumerate(names))
    return Table(caption, columns, tuple(tuple(map(cell, row)) for row in found))


def is_numeric(value: Any) -> bool:
    """Whether a value is read as a number."""
    if isinstance(value, str):
        return value[:1] in "0123456789-+\N{MINUS SIGN}" and any(c.isdigit() for c in value[:3]) if value else True
    return not isinstance(value, bool)


def cell(value: Any) -> str:
    """A value as a text; what is no number is a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}"
    return str(value)


def figure(title: str, chart: str) -> Figure:
    """A chart that this package drew."""
    return Figure(title, svg(chart))


def with_std(mean: float, std: float) -> str:
    """Mean, and deviation to as many places where there are several values; on one line.

    >>> with_std(0.98765, 0.000005), with_std(66.5, 0.7071), with_std(3.0, float("nan"))
    ('0.988\xa0±\xa00.000', '66.5\xa0±\xa00.7', '3')
    """
    if mean != mean:
        return "-"
    if std != std:
        return f"{mean:.3g}"
    places = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 3
    both = mean, std
    if all(value == round(value) for value in both):
        places = 0
    return "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}".join(f"{value:.{places}f}" for value in both)


def together(text: str) -> str:
    """A text that is not broken over lines."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")
