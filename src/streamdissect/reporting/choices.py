"""The options of `report` as a frozen object."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import CommonOptions, check_number

IMAGES = 10


@dataclass(frozen=True)
class ReportOptions(CommonOptions):
    """Options of `report`."""

    name: str | None = None
    """Of the scoring."""
    images: int = IMAGES
    """Top images of a unit at most; fewer where so many pictures would not fit into their room."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("images", self.images, 1)
