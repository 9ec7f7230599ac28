"""An evaluation loop on several processes: `torchrun --nproc-per-node 2 examples/capture_ddp.py DATA OUT`.

All of them capture into one run. DistributedSampler repeats a few images so that every process has equally many; they
count once. A run that was cut goes on when the same command is given again. Then: `streamdissect score OUT`.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import streamdissect as sd


class Images(Dataset):
    """(index, image)"""

    def __init__(self, data: sd.Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.from_numpy(self.data.image(index)).permute(2, 0, 1) / 255


def main(path: str, out: str) -> None:
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")
    data = sd.open_dataset(path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU())
    model = DistributedDataParallel(net.to(device)).eval()
    loader = DataLoader(Images(data), batch_size=8, sampler=DistributedSampler(data, shuffle=True))
    with sd.capture(model, ["1", "3"], out, n_images=len(data), data=data) as cap:
        for index, images in loader:
            if cap.skip(index):
                continue
            with cap.images(index), torch.inference_mode():
                model(images.to(device))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
