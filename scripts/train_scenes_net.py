"""Train the shipped network on built-in scenes of other seeds; writes its weights and how they came about.

Run from the repository root; takes about six minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from streamdissect.data.synthetic import OBJECT, PART, SCENE, SyntheticScenes
from streamdissect.models.shipped import LAYERS, N_PRESENT, N_SCENES, ScenesNet, weights_path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN_SEED, HELD_OUT_SEED = 1, 2  # scenes of seed 0 are for dissection
LEAST_PIXELS = 2  # label pixels from which on a thing counts as present


class Training(ScenesNet):
    """The network with what it has while it learns: batch normalisation, units left out at random, and a say for the
    earlier layers in what is present, so that their units come to stand for things too."""

    def __init__(self) -> None:
        super().__init__()
        self.relu1 = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU())
        self.relu2 = nn.Sequential(nn.BatchNorm2d(48), nn.ReLU())
        self.relu3 = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())
        self.relu4 = nn.Sequential(nn.BatchNorm2d(96), nn.ReLU())
        self.relu5 = nn.Sequential(nn.BatchNorm2d(128), nn.ReLU(), nn.Dropout2d(0.1))
        self.early = nn.ModuleList([nn.Conv2d(64, N_PRESENT, 1), nn.Conv2d(96, N_PRESENT, 1)])

    def folded(self) -> dict[str, Tensor]:
        """State of a `ScenesNet` that computes the same in evaluation mode."""
        state = {key: value for key, value in self.state_dict().items() if not key.startswith(("relu", "early"))}
        for layer in range(1, 6):
            norm = getattr(self, f"relu{layer}")[0]
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight, bias = f"conv{layer}.weight", f"conv{layer}.bias"
            state[bias] = (state[bias] - norm.running_mean) * scale + norm.bias
            state[weight] = state[weight] * scale[:, None, None, None]
        return {key: value.detach().half().contiguous() for key, value in state.items()}


def load(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, 112, 112) uint8, scene index (n) or -1, presence (n, N_PRESENT)."""
    data = SyntheticScenes(n, seed)
    concepts = data.concepts
    scenes = concepts.number[concepts.category == SCENE]
    things = concepts.number[(concepts.category == OBJECT) | (concepts.category == PART)]
    images, where, present = [], np.full(n, -1), np.full((n, len(things)), np.nan, np.float32)
    for index in range(n):
        images.append(torch.from_numpy(data.image(index)).permute(2, 0, 1))
        if data.has_labels(index):
            labels = data.labels(index)
            area = sum(np.bincount(layer.ravel(), minlength=100) for g, layer in labels.layers if g in (OBJECT, PART))
            present[index] = area[things] >= LEAST_PIXELS
            for g, number in labels.whole:
                if g == SCENE:
                    where[index] = np.searchsorted(scenes, number)
    return torch.stack(images), torch.from_numpy(where), torch.from_numpy(present)


def prepare(images: Tensor) -> Tensor:
    """uint8 -> normalised float."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images / 255 - mean) / std


def augment(images: Tensor) -> Tensor:
    """Mirrored half the time, brightness and contrast changed a little, shifted by up to four pixels."""
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    right, down = torch.randint(0, 9, (2,)).tolist()
    images = F.pad(images, (4, 4, 4, 4), mode="replicate")[:, :, down : down + 112, right : right + 112]
    gain = 1 + 0.1 * torch.randn(len(images), 1, 1, 1)
    return images * gain + 0.1 * torch.randn(len(images), 1, 1, 1)


def accuracy(net: nn.Module, data: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Share of right scenes, and of right answers about presence, averaged over the things of both kinds of images."""
    images, where, present = data
    net.eval()
    with torch.no_grad():
        scores = torch.cat([net(prepare(batch)) for batch in images.split(64)])
    right_scene = scores[:, :N_SCENES].argmax(1)[where >= 0] == where[where >= 0]
    labelled = ~present.isnan().any(1)
    truth, answer = present[labelled] > 0, scores[labelled, N_SCENES:] > 0
    found = (truth & answer).sum(0) / truth.sum(0)
    spared = (~truth & ~answer).sum(0) / (~truth).sum(0)
    balanced = (found + spared) / 2
    return {"scene": right_scene.float().mean().item(), "presence_balanced": balanced[~balanced.isnan()].mean().item()}


def train(data: tuple[Tensor, Tensor, Tensor], epochs: int, batch: int, sparsity: float) -> Training:
    """The network after the given epochs of AdamW with a one-cycle learning rate."""
    images, where, present = data
    net = Training()
    optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=1e-3)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps)
    rare = (1 / present.nanmean(0).clamp(0.02, 0.98) - 1).sqrt()
    active: list[Tensor] = []
    for name in LAYERS:
        net.get_submodule(name).register_forward_hook(lambda module, given, output: active.append(output))
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        net.train()
        for chosen in torch.randperm(len(images))[: steps * batch].split(batch):
            active.clear()
            scores = net(augment(prepare(images[chosen])))
            loss = F.cross_entropy(scores[:, :N_SCENES], where[chosen], ignore_index=-1)
            truth = present[chosen]
            labelled = ~truth.isnan().any(1)
            early = [head(output).amax((2, 3)) for head, output in zip(net.early, active[:-1], strict=True)]
            for answers, weight in ((scores[:, N_SCENES:], 4), (early[1], 2), (early[0], 1)):
                wrong = F.binary_cross_entropy_with_logits(answers[labelled], truth[labelled], pos_weight=rare)
                loss = loss + weight * wrong
            loss = loss + sparsity * sum(output.mean() for output in active)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / steps:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return net


def main() -> None:
    """Train, measure on unseen scenes, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--out", type=Path, default=weights_path())
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    started = time.perf_counter()
    net = train(load(args.images, TRAIN_SEED), args.epochs, 32, args.sparsity)
    state = net.folded()
    save_file(state, args.out)
    shipped = ScenesNet()
    shipped.load_state_dict(state)
    concepts = SyntheticScenes(1).concepts
    names = np.array(concepts.name)
    things = (concepts.category == OBJECT) | (concepts.category == PART)
    assert things.sum() == N_PRESENT
    how = {
        "script": "scripts/train_scenes_net.py",
        "data": f"synth:?n={args.images}&seed={TRAIN_SEED}",
        "epochs": args.epochs,
        "batch": 32,
        "sparsity": args.sparsity,
        "torch_seed": 0,
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started),
        "held_out": {"data": f"synth:?n=500&seed={HELD_OUT_SEED}", **accuracy(shipped, load(500, HELD_OUT_SEED))},
        "mean": MEAN,
        "std": STD,
        "layers": LAYERS,
        "scenes": names[concepts.category == SCENE].tolist(),
        "present": names[things].tolist(),
    }
    args.out.with_suffix(".json").write_text(json.dumps(how, indent=1) + "\n")
    print(json.dumps(how["held_out"]))


if __name__ == "__main__":
    main()
