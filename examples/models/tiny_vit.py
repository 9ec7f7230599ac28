r"""A vision transformer with a class token and register tokens before those of the image.

streamdissect layers --model tiny_vit.py:build --input-size 64 64
streamdissect extract --model tiny_vit.py:build --data "synth:?n=16&size=64" \
    --layers "blocks.*.mlp" --prefix-tokens 5 --out vit_run
streamdissect score vit_run
"""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, size: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.prefix = nn.Parameter(0.1 * torch.randn(1, 5, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.blocks(torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1))[:, 0]


def build(size: int = 64, patch: int = 8, width: int = 24, depth: int = 2) -> nn.Module:
    return ViT(size, patch, width, depth)
