"""A module you have already, dissected in one call each: `python examples/one_call.py DATA OUT`.

DATA is whatever --data takes: a Broden directory, a folder with images/ and labels/, a packed file, or synth:?n=32.
"""

import sys

import torch
from torch import nn

import streamdissect as sd


class Net(nn.Module):
    """Any module; this one is untrained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def main(data: str, out: str) -> None:
    torch.manual_seed(0)
    run = sd.extract(Net(), data, layers=["stem", "body"], out=out, batch_size=16)
    result = sd.score(run)
    for row in result.detectors()[:5]:
        print(f"{row['layer']} unit {row['unit']}: {row['concept']} ({row['category']}), IoU {row['iou']:.3f}")
    strongest = result.units()[result.units()["iou"].argmax()]
    layer, unit = str(strongest["layer"]), int(strongest["unit"])
    image = int(result.layer(layer).top_image[unit, 0])
    mask = result.mask(image, layer, unit)
    print(f"on {result.image_name[image]} unit {unit} of {layer} lights {mask.sum()} pixels")


if __name__ == "__main__":
    main(*sys.argv[1:])
