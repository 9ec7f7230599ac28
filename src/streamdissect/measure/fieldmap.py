"""Receptive fields: which input pixels each cell of a layer's grid sees (methods 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class AxisField:
    """One axis: cell i sees input pixels offset + step * i ... offset + step * i + size - 1; all rational."""

    offset: Fraction = Fraction(0)
    size: Fraction = Fraction(1)
    step: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        for name in ("offset", "size", "step"):
            object.__setattr__(self, name, Fraction(getattr(self, name)))
        if self.step <= 0 or self.size <= 0:
            raise ValueError(f"a field of size {self.size} and step {self.step}: both must be positive")

    @property
    def centre(self) -> Fraction:
        """Centre of cell 0's field in input pixels, pixel centres at integers."""
        return self.offset + (self.size - 1) / 2

    def window(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> AxisField:
        """The field behind a convolution or pooling window on this layer's output; `padding` is that before it."""
        reach = dilation * (kernel - 1)
        return AxisField(self.offset - padding * self.step, self.size + reach * self.step, self.step * stride)

    def to_json(self) -> list[str]:
        """[offset, size, step] as texts such as `-214` or `31/2`."""
        return [str(self.offset), str(self.size), str(self.step)]

    @classmethod
    def from_json(cls, texts: list[str]) -> AxisField:
        """Inverse of `to_json`."""
        offset, size, step = (Fraction(text) for text in texts)
        return cls(offset, size, step)


@dataclass(frozen=True)
class FieldMap:
    """Both axes of a layer, and how they were found."""

    rows: AxisField
    columns: AxisField
    source: str
    """`trace`: by the rules of methods 2.2, operation by operation; `probe`: by the NaN probe; `user`."""
    is_global: bool = False
    """Something on the way sees the whole image (squeeze-excite, attention): geometry of the main path."""

    def __str__(self) -> str:
        axes = [self.rows] if self.rows == self.columns else [self.rows, self.columns]
        text = " x ".join(f"({axis.offset},{axis.size},{axis.step})" for axis in axes)
        return text + (" global" if self.is_global else "")
