"""Does regularising a network raise its interpretability? Two small networks, plain and regularised, each from several
seeds, are trained on the built-in scenes, dissected and compared.

Both learn which things and parts an image shows. They differ in one term of the loss, in the spirit of Goo, Kim, Kim
and Hwang, "Taxonomy-Regularized Semantic Deep CNNs" (ECCV 2016): the classes form super-categories, and the weights
from the units of the last layer to the classes are penalised so that classes of one super-category share units, and
units belong to one super-category. `penalty` says how. This is code of our own after that idea, and not their method.

Run from anywhere: python scripts/train_regularised_nets.py OUT. On one core it takes about fifteen minutes; OUT then
holds the weights, the runs, and the comparison. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import streamdissect as sd
from streamdissect.data.synthetic import OBJECT, PART, SyntheticScenes

TAXONOMY = {
    "air": ("cloud", "sun", "moon", "bird"),
    "ground": ("mountain", "meadow", "water", "sand", "road", "pavement", "snowcap"),
    "building": ("house", "tower", "lighthouse", "roof", "door", "window", "chimney"),
    "vehicle": ("boat", "car", "balloon", "wheel", "headlight", "sail", "hull", "basket"),
    "plant": ("tree", "flower", "trunk", "crown", "blossom", "stem"),
    "street furniture": ("parasol", "lamp", "lantern"),
}
"""Super-categories and their classes."""
CLASSES = tuple(name for names in TAXONOMY.values() for name in names)
ARMS = ("plain", "grouped")
LAYER = "relu4"
N_UNITS = 64
SIZE = 64
"""Pixels along each side of an image."""
TRAIN_SEED, HELD_OUT_SEED = 1, 2
"""Of the scenes; those of seed 0 are dissected."""
LEAST_PIXELS = 2
"""Label pixels from which on a thing counts as present."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32
SHARING, COMPETITION = 0.02, 0.1
"""Weights of the two parts of the penalty: chosen so that the accuracy on unseen scenes stays, without a look at what
is dissected."""


class TaxonomyNet(nn.Module):
    """Four convolutions, then which classes are present: the largest score of each over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 5, stride=2, padding=2, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(24), nn.ReLU()
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(32), nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1, bias=False)
        self.norm3, self.relu3 = nn.BatchNorm2d(48), nn.ReLU()
        self.conv4 = nn.Conv2d(48, N_UNITS, 3, padding=1, bias=False)
        self.norm4, self.relu4 = nn.BatchNorm2d(N_UNITS), nn.ReLU()
        self.norm4.weight.requires_grad_(False)  # a louder unit would make its weights cheaper
        self.present = nn.Conv2d(N_UNITS, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, rows, columns), normalised -> (B, classes) scores for the sigmoid."""
        x = self.relu1(self.norm1(self.conv1(images)))
        x = self.pool2(self.relu2(self.norm2(self.conv2(x))))
        x = self.relu4(self.norm4(self.conv4(self.relu3(self.norm3(self.conv3(x))))))
        scores: Tensor = self.present(x).amax(dim=(2, 3))
        return scores


def build() -> TaxonomyNet:
    """The network as `extract --model` builds it, before its weights are loaded."""
    return TaxonomyNet().eval()


def penalty(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What the grouped network pays for its classifier's weights (classes, units).

    n_sk is the Euclidean norm of the weights from unit k to the classes of super-category s. `sharing` is the sum of
    n_sk over units and super-categories, each times the square root of its number of classes: a group lasso, under
    which whole groups of weights vanish, so that a unit serves all classes of a super-category or none of them.
    `competition` is the sum over units of n_sk n_tk for all pairs s < t: a unit pays for serving two super-categories.
    """
    sizes = [len(names) for names in TAXONOMY.values()]
    norms = torch.stack([part.square().sum(0).add(1e-12).sqrt() for part in weight.split(sizes)])  # (groups, units)
    sharing = (norms * torch.tensor(sizes).sqrt()[:, None]).sum()
    competition = (norms.sum(0).square() - norms.square().sum(0)).sum() / 2
    return sharing, competition


@cache
def load(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, SIZE, SIZE) uint8, and presence (n, classes); unlabelled images are left out."""
    data = SyntheticScenes(n, seed, SIZE)
    concepts = data.concepts
    numbers = [concepts.number[concepts.name.index(name)] for name in CLASSES]
    images, present = [], []
    for index in range(n):
        if data.has_labels(index):
            labels = data.labels(index)
            area = sum(np.bincount(layer.ravel(), minlength=100) for g, layer in labels.layers if g in (OBJECT, PART))
            images.append(torch.from_numpy(data.image(index)).permute(2, 0, 1))
            present.append(torch.from_numpy(area[numbers] >= LEAST_PIXELS).float())
    return torch.stack(images), torch.stack(present)


def prepare(images: Tensor) -> Tensor:
    """uint8 -> normalised float."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images / 255 - mean) / std


def augment(images: Tensor) -> Tensor:
    """Mirrored half the time, brightness and contrast changed a little, shifted by up to two pixels."""
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    right, down = torch.randint(0, 5, (2,)).tolist()
    images = F.pad(images, (2, 2, 2, 2), mode="replicate")[:, :, down : down + SIZE, right : right + SIZE]
    gain = 1 + 0.1 * torch.randn(len(images), 1, 1, 1)
    return images * gain + 0.1 * torch.randn(len(images), 1, 1, 1)


def accuracy(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of right answers about presence, averaged over the images that show a class and those that do not, then
    over classes."""
    images, present = data
    net.eval()
    with torch.no_grad():
        answer = torch.cat([net(prepare(batch)) for batch in images.split(64)]) > 0
    truth = present > 0
    found = (truth & answer).sum(0) / truth.sum(0)
    spared = (~truth & ~answer).sum(0) / (~truth).sum(0)
    balanced = (found + spared) / 2
    return float(balanced[~balanced.isnan()].mean())


def groups_served(weight: Tensor) -> float:
    """Super-categories to a unit: 1 / sum of squared shares of its weights' squares, averaged over units."""
    sizes = [len(names) for names in TAXONOMY.values()]
    squares = torch.stack([part.square().sum(0) for part in weight.split(sizes)])
    shares = squares / squares.sum(0).clamp_min(1e-12)
    return float((1 / shares.square().sum(0).clamp_min(1e-12)).mean())


def train(data: tuple[Tensor, Tensor], epochs: int, seed: int, is_grouped: bool) -> TaxonomyNet:
    """A network after the given epochs of AdamW, one-cycle learning rate; on one thread a seed gives one network."""
    torch.manual_seed(seed)
    images, present = data
    net = TaxonomyNet()
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 4e-3, weight_decay=1e-3)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps)
    rare = (1 / present.mean(0).clamp(0.02, 0.98) - 1).sqrt()
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            scores = net(augment(prepare(images[chosen])))
            loss = F.binary_cross_entropy_with_logits(scores, present[chosen], pos_weight=rare)
            if is_grouped:
                sharing, competition = penalty(net.present.weight.flatten(1))
                loss = loss + (SHARING * sharing + COMPETITION * competition) / N_UNITS
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def train_one(out: Path, name: str, n_images: int, epochs: int, seed: int) -> None:
    """Train one network of an arm and a seed, unless its weights are there; its facts are written last."""
    facts = out / "weights" / f"{name}.json"
    if facts.exists():
        return
    data = load(n_images, TRAIN_SEED)
    started = time.perf_counter()
    net = train(data, epochs, seed, is_grouped=name.startswith("grouped"))
    seconds = time.perf_counter() - started
    save_file(net.state_dict(), facts.with_suffix(".safetensors"))
    found = {
        "accuracy": accuracy(net, load(n_images // 4, HELD_OUT_SEED)),
        "groups_served": groups_served(net.present.weight.detach().flatten(1)),
        "seconds": round(seconds, 1),
    }
    facts.write_text(json.dumps(found) + "\n")
    print(f"{name}: {found}", flush=True)


def dissect(out: Path, name: str, n_images: int, rotations: int) -> None:
    """Extract, score, rotate and pca of one network, as far as they are not made yet."""
    run, weights = out / "runs" / name, out / "weights" / f"{name}.safetensors"
    data = f"synth:?n={n_images}&seed=0&size={SIZE}"
    sd.extract(f"{os.path.abspath(__file__)}:build", data, [LAYER], run, weights=str(weights))
    sd.score(run)
    sd.rotate(run, alphas=(0.0, 1.0), seeds=rotations)
    sd.pca(run)


def main() -> None:
    """Train, dissect, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--images", type=int, default=3000, help="scenes to train on [3000]")
    parser.add_argument("--epochs", type=int, default=16, help="[16]")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind [3]")
    parser.add_argument("--dissect", type=int, default=1000, help="scenes to dissect on [1000]")
    parser.add_argument("--rotations", type=int, default=10, help="of each network's space [10]")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums of several threads round otherwise
    (args.out / "weights").mkdir(parents=True, exist_ok=True)
    names = [f"{arm}-{seed}" for seed in range(args.seeds) for arm in ARMS]
    for name in names:
        train_one(args.out, name, args.images, args.epochs, int(name.partition("-")[2]))
    for name in names:
        dissect(args.out, name, args.dissect, args.rotations)
    groups = {arm: [args.out / "runs" / f"{arm}-{seed}" for seed in range(args.seeds)] for arm in ARMS}
    sd.compare(groups, out=args.out / "compare")
    print(f"compared: {args.out / 'compare' / 'index.html'}")


if __name__ == "__main__":
    main()
