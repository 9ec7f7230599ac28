"""What every quantity summed over images offers: it is saved, merged and tested in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@runtime_checkable
class Tally(Protocol):
    """Anything accumulated over images, mergeable in any order."""

    def merge(self, other: Self) -> None:
        """Add what `other` has seen; ValueError if it is of another kind."""

    def to_arrays(self) -> Arrays:
        """The state as plain arrays."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`; ValueError for a state that is cut or of another version."""
        ...
