"""A residual network. Its blocks end in `act`, after the sum with the shortcut.

streamdissect layers --model tiny_resnet.py:build --input-size 64 64
streamdissect extract --model tiny_resnet.py:build --data "synth:?n=16&size=64" --layers "stage*.act" --out resnet_run
streamdissect score resnet_run
"""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Sequential):
    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.stage1, self.stage2 = Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(4 * width, n_classes)


def build(width: int = 8, n_classes: int = 10) -> nn.Module:
    return ResNet(width, n_classes)
