"""Pages from templates, into a folder that is whole in itself.

Another page is a `Page`: where it lies in the folder, its title, a template in templates/ that extends base.html
(blocks `title`, which is the page's title unless it is overridden, and `content`), and a function that gives the
template's values when its turn comes. A `Site` holds the pages that its navigation links, and writes any page::

    page = Page("perturb.html", "Robustness", "perturb.html", lambda: {"rows": rows}, "Which detectors survive.")
    site = Site(folder, "my run", navigation=[page])
    site.copy_assets()
    site.write(page)

The report's index links every page of `experiments.experiment_pages` with its `about`, so a new experiment has only to
be listed there. In templates every value is escaped; charts are passed through `svg`. Templates find `site`,
`page`, `root` (the way up to the folder: "" or "../") and their own values; what is missing is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..figures.svg import STYLE

HOME = Path(__file__).parent
ASSETS = ("style.css", "report.js")
"""Shared by all pages of a folder."""


@dataclass(frozen=True)
class Page:
    """One file."""

    path: str
    """In the folder, with slashes."""
    title: str
    template: str
    values: Callable[[], Mapping[str, Any]]
    """What the template is given; called when the page is written."""
    about: str = ""
    """A sentence beside the link."""


@dataclass(frozen=True)
class Site:
    """A folder of pages under one name."""

    folder: Path
    name: str
    navigation: Sequence[Page] = ()
    """Linked at the top of every page, after index.html."""
    home: str = "Units"
    """How index.html is called there."""

    def write(self, page: Page) -> None:
        """Render one page into the folder."""
        target = self.folder / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * page.path.count("/")
        text = environment().get_template(page.template).render(site=self, page=page, root=root, **page.values())
        target.write_text(text, encoding="utf-8")

    def copy_assets(self) -> None:
        """Bring the style sheet and the script into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ASSETS:
            text = (HOME / "assets" / name).read_text(encoding="utf-8")
            (self.folder / name).write_text(STYLE + text if name.endswith(".css") else text, encoding="utf-8")


@cache
def environment() -> Environment:
    """Of all templates: everything is escaped, and what is not given is an error."""
    made = Environment(
        loader=FileSystemLoader(HOME / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["version"] = __version__
    made.filters["number"] = number
    made.filters["share"] = share
    return made


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits; whole numbers in groups of three.

    >>> number(1234567), number(0.041666), number(float("nan"))
    ('1,234,567', '0.04167', 'none')
    """
    if value != value:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def share(value: float) -> str:
    """A share as a percentage.

    >>> share(0.12345)
    '12.3 %'
    """
    return "none" if value != value else f"{100 * value:.3g} %"


def svg(text: str) -> Markup:
    """A chart of this package, whose texts are escaped already; its style is in the style sheet."""
    return Markup(text.replace(f"<style>{STYLE}</style>", ""))
