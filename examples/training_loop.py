"""A training loop that dissects after every epoch: `python examples/training_loop.py OUT`.

It trains a small classifier of the built-in scenes' places; what its units detect grows with the epochs. The validation
loop is the one that was there before, with two more lines.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import streamdissect as sd


class Scenes(Dataset):
    """(index, image, class) of the images that say in which place they are."""

    def __init__(self, data: sd.Dataset) -> None:
        self.data = data
        places = [next((number for _, number in data.labels(i).whole), 0) for i in range(len(data))]
        numbers = sorted(set(places))
        self.classes = [numbers.index(place) for place in places]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, int]:
        return index, torch.from_numpy(self.data.image(index)).permute(2, 0, 1) / 255, self.classes[index]


def main(out: str, epochs: int = 3) -> None:
    torch.manual_seed(0)
    data = sd.open_dataset("synth:?n=64&size=64")
    scenes = Scenes(data)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, max(scenes.classes) + 1)),
    )
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(epochs):
        model.train()
        for _, images, classes in DataLoader(scenes, 8, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), classes).backward()
            optimiser.step()
        model.eval()
        correct = 0
        with sd.capture(model, ["2", "5"], f"{out}/epoch{epoch}", n_images=len(data), data=data) as cap:
            for index, images, classes in DataLoader(scenes, 24, shuffle=True):
                with cap.images(index), torch.inference_mode():
                    correct += int((model(images).argmax(1) == classes).sum())
        result = sd.score(f"{out}/epoch{epoch}", data)
        found = {name: layer.summary["detectors"] for name, layer in result.layers.items()}
        print(f"epoch {epoch}: {correct} of {len(data)} right, detectors {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
