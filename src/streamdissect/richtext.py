"""Tables that notebooks show in place of a `repr`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from numbers import Number


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as HTML: numbers to the right, every text escaped, for names come from files of anyone."""
    names = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    title = f"<caption style='text-align:left;caption-side:top'>{escape(caption)}</caption>"
    return f"<table>{title}<thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"


def cell(value: object) -> str:
    """One cell."""
    is_number = isinstance(value, Number) and not isinstance(value, bool)
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"<td style='text-align:{'right' if is_number else 'left'}'>{escape(text)}</td>"
