"""A training that is watched: `python examples/training_monitor.py OUT.jsonl`.

It trains the network of `training_loop.py` and adds a line to the file after every epoch: how many detectors there are
and which units are the best ones. No activation is stored. The validation loop is the one that was there before, with
two more lines; at the end it runs with and without them, to tell what they cost.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from training_loop import Scenes

import streamdissect as sd


def validate(model: nn.Module, loader: list, monitor: sd.Monitor | None = None, epoch: int = 0) -> float:
    """Seconds of a pass over the images."""
    begin = time.perf_counter()
    if monitor is None:
        for _, images, _ in loader:
            with torch.inference_mode():
                model(images)
    else:
        with monitor.step(epoch):
            for index, images, _ in loader:
                with monitor.images(index), torch.inference_mode():
                    model(images)
    return time.perf_counter() - begin


def main(out: str, epochs: int = 4, n: int = 64) -> None:
    torch.manual_seed(0)
    data = sd.open_dataset(f"synth:?n={n}&size=64")
    scenes = Scenes(data)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, max(scenes.classes) + 1)),
    )
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    loader = list(DataLoader(scenes, 16))  # decoded once, so that at the end the network alone is timed
    monitor = sd.capture(model, ["2", "5"], out, n_images=len(data), data=data, spill="none", thresholds="running")
    for epoch in range(epochs):
        model.train()
        for _, images, classes in DataLoader(scenes, 8, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), classes).backward()
            optimiser.step()
        model.eval()
        validate(model, loader, monitor, epoch)
        line = json.loads(Path(out).read_text().splitlines()[-1])
        found = {name: layer["detectors"] for name, layer in line["layers"].items()}
        print(f"epoch {epoch}: detectors {found or 'unknown, as thresholds were only found'}")
    watched, alone = (min(validate(model, loader, each, epochs) for _ in range(3)) for each in (monitor, None))
    print(f"a pass over {n} images: {alone:.3f} s alone, {watched:.3f} s watched")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
