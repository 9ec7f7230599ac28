"""A segmentation network that labels images without labels, so that any folder of pictures will do.

    streamdissect extract --model shipped --layers relu5 --data photos --labels label_with_network.py:Surfaces --out run
    streamdissect score run
    streamdissect score run --labels "colors,label_with_network.py:Surfaces?sure=0.6" --name both

The network here is a stand-in of four hand-set filters; put your own in its place: what matters is the class around it.
"""

import numpy as np
import torch
from torch import nn

NAMES = ["sky", "plants", "road", "snow"]


class Segmenter(nn.Module):
    """(B, 3, H, W), 0 to 1 -> (B, 4, H / 2, W / 2) scores: how blue, green, grey and bright a place is."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.AvgPool2d(4, stride=2, padding=1)
        self.score = nn.Conv2d(3, len(NAMES), 1)
        weights = [[-9.0, 0, 9], [-9, 18, -9], [-6, -6, -6], [9, 9, 9]]
        self.score.weight.data = torch.tensor(weights)[..., None, None]
        self.score.bias.data = torch.tensor([0, 0, 8.0, -20])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(self.smooth(x))


class Surfaces:
    """Called with images (B, H, W, 3) uint8, returns label maps {category: (B, layers, h, w) uint16}; 0 is no label."""

    batch = 16  # images in one call

    def __init__(self, sure: float = 0.5) -> None:
        self.concepts = {"surface": NAMES}  # the name of 1, of 2, ...
        self.sure = sure
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = Segmenter().eval().to(self.device)
        # where weights come from a file, let `version` change with it: scores are kept for as long as it is the same
        self.version = "hand-set 1"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            share, best = self.network(batch).softmax(1).max(1)
        numbers = torch.where(share > self.sure, best + 1, 0)
        return {"surface": numbers.cpu().numpy().astype(np.uint16)[:, None]}
