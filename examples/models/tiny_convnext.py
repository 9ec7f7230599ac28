r"""A ConvNeXt: inside its blocks the units come last, (B, h, w, K), which is found out for each layer.

streamdissect layers --model tiny_convnext.py:build --input-size 64 64
streamdissect extract --model tiny_convnext.py:build --data "synth:?n=16&size=64" \
    --layers "stage*.gelu,stage*.depthwise" --out convnext_run
streamdissect score convnext_run
"""

from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.gelu, self.reduce = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.reduce(self.gelu(self.expand(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Sequential):
    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.stage1 = Block(width)
        self.down = nn.Conv2d(width, 2 * width, 2, 2)
        self.stage2 = Block(2 * width)
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(2 * width, n_classes)


def build(width: int = 8, n_classes: int = 10) -> nn.Module:
    return ConvNeXt(width, n_classes)
