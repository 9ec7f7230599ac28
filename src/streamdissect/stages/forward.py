"""Images into a network, activations out: decoding ahead, preprocessing, the forward pass, the stored form."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..errors import BadInput
from ..models.hooks import ActivationHooks, run_model
from ..models.layers import LayerRef
from ..options import BATCH, ExtractOptions
from ..ranks import find_rank
from .compiled import Compiled
from .livebytes import LiveBytes

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST_FLOAT16 = 65504.0
Launched = Callable[[], dict[str, NDArray[np.generic]]]
"""Gives the activations of a batch, once they are there."""


def choose_device(name: str) -> torch.device:
    """`auto`: CUDA, else Apple's GPU, else the CPU; BadInput for a device that is not there.

    Ranks on one machine share its CUDA devices out among themselves, unless one is named by its number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and (rank := find_rank()) is not None and (n_devices := torch.cuda.device_count()):
        name = f"cuda:{rank.local_index % n_devices}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput("--device", repr(name), f"a device of this machine ({reason})", "use auto or cpu") from error
    return device


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """PyTorch on n threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def iter_images(
    data: Dataset, images: Sequence[int], size: tuple[int, int], workers: int
) -> Iterator[NDArray[np.uint8]]:
    """Images (rows, columns, 3) in order, resized bilinearly by Pillow, decoded ahead by threads.

    Decoding and resizing leave the interpreter's lock alone, so threads do, and an error comes out where it happened.
    """

    def load(index: int) -> NDArray[np.uint8]:
        return resized(data.image(index), size)

    if workers == 0:
        yield from map(load, images)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[NDArray[np.uint8]]] = deque()
        try:
            for index in images:
                ahead.append(pool.submit(load, index))
                if len(ahead) > 2 * workers + 2:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (rows, columns, 3) as it enters the network: at its size, bilinearly."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


class Network:
    """A model on a device with hooks on the layers that are recorded.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; moved to the device.
    refs : list of LayerRef
    options : ExtractOptions
    """

    def __init__(self, module: nn.Module, refs: list[LayerRef], options: ExtractOptions) -> None:
        self.device = choose_device(options.device)
        self.module = module.to(self.device)
        self.names = [ref.name for ref in refs]
        self.options = options
        self.batch_size = options.batch_size or BATCH
        """Images in a whole batch; what the memory allows is settled with the plan."""
        hooks = partial(ActivationHooks, self.module, refs, options.layout, options.prefix_tokens, options.grid)
        self._hooks = hooks()
        self._compiled: Compiled | None = None
        if options.compile:
            self._compiled = Compiled(self.module, hooks(is_compiled=True), options.amp)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(options.mean, device=self.device).reshape(shape)
        self._std = torch.tensor(options.std, device=self.device).reshape(shape)
        self._order = torch.channels_last if is_channels_last(self.module) else torch.contiguous_format
        self._copies: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.n_ahead = 0 if self._copies is None else 1
        """Batches worth launching before the activations of one are asked for."""

    def prepare(self, images: Sequence[NDArray[np.uint8] | NDArray[np.float32]]) -> Tensor:
        """Images (rows, columns, 3) of 0..255 as the network takes them, normalised; float32 need not be whole."""
        host = torch.from_numpy(np.stack(images))
        if self._copies is not None:
            host = host.pin_memory()
        batch = host.to(self.device, non_blocking=self._copies is not None).permute(0, 3, 1, 2)
        return (batch.to(torch.float32) / 255 - self._mean) / self._std

    def activations(self, images: Sequence[NDArray[np.uint8] | NDArray[np.float32]]) -> dict[str, NDArray[np.generic]]:
        """Stored form of every layer's activations (B, K, h, w) for B images of one size, see `prepare`."""
        return self.launch(images)()

    def launch(self, images: Sequence[NDArray[np.uint8] | NDArray[np.float32]]) -> Launched:
        """Begin what `activations` does; the rest is done by calling what is given back.

        On CUDA the device is then still at work, and copies to pinned memory on a stream of its own, so that the next
        batch can be given to it first. Elsewhere all but the copy is done.
        """
        options = self.options
        amp = AMP_DTYPES.get(options.amp)
        casting = nullcontext() if amp is None else torch.autocast(self.device.type, dtype=amp)
        with torch.inference_mode(), casting:
            batch = self.prepare(images).contiguous(memory_format=self._order)
            if self._compiled is not None and len(batch) == self.batch_size:  # another size would compile anew
                found = self._compiled.forward(batch, self._forward)
            else:
                found = self._forward(batch)
        coming = {
            name: Stored(found[name], name, options.dtype, options.allow_nonfinite, options.amp, self._copies)
            for name in self.names
        }
        return lambda: {name: each.take() for name, each in coming.items()}

    def measure(self, images: Sequence[NDArray[np.uint8]]) -> tuple[dict[str, NDArray[np.generic]], int]:
        """What `activations` gives, about, and the bytes of the host that the tensors of it take at the most."""
        compiled, self._compiled = self._compiled, None
        try:
            with LiveBytes() as live:
                found = self.activations(images)
        finally:
            self._compiled = compiled
        return found, live.peak_bytes

    def _forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Activations of a batch, by layer."""
        with self._hooks as hooks:
            run_model(self.module, batch)
            if hooks.unsettled():
                run_model(self.module, batch[1:])
                hooks.take()
                run_model(self.module, batch)
            return hooks.take()

    def ascents(self, images: Sequence[NDArray[np.uint8] | NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Signs (rows, columns, 3) of the gradient, at each image, of the cross-entropy of its own first class.

        BadInput where the network gives no logits, or has no gradient.
        """
        remedy = "fgsm needs a network that ends in a classifier; leave --fgsm out"
        expected = "logits (images, classes), differentiable"
        with torch.inference_mode(False), torch.enable_grad():
            batch = self.prepare(images).contiguous(memory_format=self._order).requires_grad_()
            found = self.module(batch)
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images) or found.shape[1] < 2:
                got = str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
                raise BadInput("--fgsm", f"a network whose output is {got}", expected, remedy)
            try:
                loss = torch.nn.functional.cross_entropy(found.float(), found.argmax(1), reduction="sum")
                (gradient,) = torch.autograd.grad(loss, batch)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                raise BadInput("--fgsm", f"a network without a gradient ({reason})", expected, remedy) from error
        return list(gradient.sign().permute(0, 2, 3, 1).float().cpu().numpy())


def is_channels_last(module: nn.Module) -> bool:
    """Whether a network was put into PyTorch's channels-last memory format, as the weights of its convolutions tell."""
    weights = [p for p in module.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def to_stored(maps: Tensor, layer: str, dtype: str, allow_nonfinite: bool, amp: str = "off") -> NDArray[np.generic]:
    """Activations (B, K, h, w) as they are stored; see `Stored`."""
    return Stored(maps, layer, dtype, allow_nonfinite, amp).take()


class Stored:
    """Activations (B, K, h, w) on their way to what is stored: rounded to `dtype`, -0.0 as +0.0, in C order.

    Parameters
    ----------
    maps : Tensor
    layer, amp : str
        For messages: the layer's name, and the mixed precision of the forward pass.
    dtype : str
        float16 or float32.
    allow_nonfinite : bool
    copies : torch.cuda.Stream, optional
        On which they are copied to pinned memory; without one they are copied when they are taken.

    Raises
    ------
    BadInput
        Values are complex. On taking: a finite one overflows float16, or one is not finite where that is not allowed.
    """

    def __init__(
        self,
        maps: Tensor,
        layer: str,
        dtype: str,
        allow_nonfinite: bool,
        amp: str = "off",
        copies: torch.cuda.Stream | None = None,
    ) -> None:
        if maps.is_complex():
            remedy = "choose a layer behind it, or put a module there that returns .abs() or .real"
            raise BadInput(f"layer {layer}", "complex activations", "real numbers", remedy)
        self._maps, self._layer, self._allow_nonfinite, self._amp = maps, layer, allow_nonfinite, amp
        self._stored = maps.to(torch.float16 if dtype == "float16" else torch.float32)
        self._stored = (self._stored + 0.0).contiguous()  # -0.0 + 0.0 is +0.0
        self._is_finite = torch.isfinite(self._stored).all()
        self._event: torch.cuda.Event | None = None
        if copies is not None:
            self._host = torch.empty(self._stored.shape, dtype=self._stored.dtype, pin_memory=True)
            copies.wait_stream(torch.cuda.current_stream(self._stored.device))
            with torch.cuda.stream(copies):
                self._host.copy_(self._stored, non_blocking=True)
                self._stored.record_stream(copies)
                self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._event.record(copies)

    def take(self) -> NDArray[np.generic]:
        """The array, once it is there and was looked at."""
        if not bool(self._is_finite):
            self._refuse()
        if self._event is not None:
            self._event.synchronize()
        result: NDArray[np.generic] = (self._stored.cpu() if self._event is None else self._host).numpy()
        return result

    def _refuse(self) -> None:
        """BadInput for values that cannot be stored, or are not finite where that is not allowed."""
        was_finite = torch.isfinite(self._maps)
        overflowed = was_finite & ~torch.isfinite(self._stored)
        if bool(overflowed.any()):
            unit, value = first_of(self._maps, overflowed)
            raise BadInput(
                f"layer {self._layer}, unit {unit}",
                f"the activation {value:g}",
                f"at most {LARGEST_FLOAT16:g} in float16",
                "store it with --dtype float32",
            )
        if not self._allow_nonfinite:
            unit, value = first_of(self._maps, ~was_finite)
            remedy = "check the model and its weights, or give --allow-nonfinite"
            if self._amp == "fp16":
                remedy = f"--amp fp16 may be too narrow for it: give --amp bf16 or off; else {remedy}"
            raise BadInput(f"layer {self._layer}, unit {unit}", f"the activation {value:g}", "a finite number", remedy)


def first_of(maps: Tensor, where: Tensor) -> tuple[int, float]:
    """Unit and value of the first map value that a mask marks."""
    at = tuple(where.nonzero()[0].tolist())
    return at[1], float(maps[at])
