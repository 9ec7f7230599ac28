"""The small network that comes with the package, trained on the built-in scenes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

LAYERS = ("relu3", "relu4", "relu5")
"""Layers worth dissecting: 64 units at 28 x 28, 96 and 128 units at 14 x 14 for an input of 112 x 112."""

N_SCENES = 5
N_PRESENT = 40


class ScenesNet(nn.Module):
    """Five convolutions, then which scene it is and which things, groups and parts are present.

    Batch normalisation was folded into the convolutions after training. The output has `N_SCENES` scores, to be
    compared by softmax, then `N_PRESENT` independent ones, for the sigmoid; `scenes_net.json` names them in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 48, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(48, 64, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.conv4 = nn.Conv2d(64, 96, 3, padding=1)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(96, 128, 3, padding=1)
        self.relu5 = nn.ReLU()
        self.scene = nn.Linear(128, N_SCENES)
        self.present = nn.Conv2d(128, N_PRESENT, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, rows, columns), scaled to 0..1 and normalised by ImageNet's mean and deviation -> (B, scores)."""
        x: Tensor = self.relu1(self.conv1(images))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        x = self.relu5(self.conv5(self.relu4(self.conv4(x))))
        return torch.cat([self.scene(x.mean(dim=(2, 3))), self.present(x).amax(dim=(2, 3))], dim=1)


def scenes_net(trained: bool = True) -> ScenesNet:
    """The shipped network, in evaluation mode.

    Parameters
    ----------
    trained : bool
        Whether to load the shipped weights; otherwise PyTorch's random initialisation.

    Returns
    -------
    nn.Module
        float32, on the CPU.

    Notes
    -----
    Trained by `scripts/train_scenes_net.py`; `scenes_net.json` tells how, and how well it does on unseen scenes.

    >>> scenes_net()(torch.zeros(1, 3, 112, 112)).shape
    torch.Size([1, 45])
    """
    net = ScenesNet()
    if trained:
        net.load_state_dict(load_file(weights_path()))
    return net.eval()


def weights_path() -> Path:
    """Where the shipped weights lie, float16 in safetensors format."""
    return Path(__file__).with_name("scenes_net.safetensors")
