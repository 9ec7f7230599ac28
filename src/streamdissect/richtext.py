"""Tables that notebooks show in place of a `repr`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from numbers import Number


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as HTML: numbers to the right, every text escaped, for names come from files of anyone."""
    body = [list(row) for row in rows]
    sides = [side_of(body[0][i]) if body else "left" for i in range(len(head))]
    names = "".join(
        f"<th style='text-align:{side};padding:0 0.8em'>{escape(name)}</th>"
        for side, name in zip(sides, head, strict=True)
    )
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in body)
    title = f"<caption style='text-align:left;caption-side:top'>{escape(caption)}</caption>"
    return f"<table>{title}<thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"


def side_of(value: object) -> str:
    """Numbers stand to the right."""
    return "right" if isinstance(value, Number) and not isinstance(value, bool) else "left"


def cell(value: object) -> str:
    """One cell."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"<td style='text-align:{side_of(value)};padding:0 0.8em'>{escape(text)}</td>"
