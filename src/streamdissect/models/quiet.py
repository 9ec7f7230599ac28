"""Running a network for our own purposes without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from .wrappers import eagerly


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every part is in its mode again, and so is the generator."""
    before = [(part, part.training) for part in module.modules()]
    put_into_evaluation(module)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]), eagerly():
            yield
    finally:
        for part, training in before:
            part.training = training


def put_into_evaluation(module: nn.Module) -> None:
    """Every part into evaluation mode. An exported program has its mode for good, and may say so by an error."""
    with suppress(NotImplementedError):
        module.eval()


def blank_images(module: nn.Module, n: int, size: tuple[int, int]) -> Tensor:
    """(n, 3, rows, columns) zeros where the module is, of its own floating type."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(n, 3, *size, dtype=like.dtype, device=like.device)


@contextmanager
def native_kernels() -> Iterator[None]:
    """PyTorch's own convolutions instead of oneDNN's and cuDNN's.

    The public context managers set TF32 flags along the way, which warns on machines that have no such thing.
    """
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])
