"""Small networks for the tests, named on the command line as nets.py:build."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.conv(x))


class Net(nn.Module):
    """Two blocks with off-centre fields and a head."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.block1 = Block(3, width, 2)
        self.pool = nn.MaxPool2d(2)
        self.block2 = Block(width, width + 3, 2)
        self.head = nn.Linear(width + 3, 4)
        self.scale = scale

    def forward(self, x):
        x = self.block2(self.pool(self.block1(x))) * self.scale
        return self.head(x.mean((2, 3)))


def build(width: int = 5, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """A network with random weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(width, scale)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
    return net


def loud(factor: float = 1e6) -> nn.Module:
    """Activations beyond float16."""
    net = build()
    with torch.no_grad():
        net.block1.conv.weight.mul_(factor)
    return net


def flat() -> nn.Module:
    """A network for one input size, another than the test images have."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))


def alike() -> nn.Module:
    """Layers whose names differ by a sign that no file name has."""
    net = nn.Sequential()
    net.add_module("a", nn.Conv2d(3, 2, 3))
    net.add_module("a_relu", nn.ReLU())
    return net


def broken() -> nn.Module:
    """Activations that are no numbers."""
    net = build()
    with torch.no_grad():
        net.block1.conv.bias.fill_(float("nan"))
    return net
