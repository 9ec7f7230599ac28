"""The forward pass through `torch.compile`, trusted once its first batch was compared with the network as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..models.hooks import ActivationHooks

LARGEST_DIFFERENCE = {"off": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Of an activation, as a part of the layer's largest: compiled code rounds in another order."""


class Compiled:
    """A network compiled together with the hooks that record it.

    Parameters
    ----------
    module : nn.Module
    hooks : ActivationHooks
        Of the same network, with `is_compiled`.
    amp : str
        The mixed precision of the forward pass, which says how far rounding may go.
    """

    def __init__(self, module: nn.Module, hooks: ActivationHooks, amp: str) -> None:
        self._module, self._hooks, self._largest = torch.compile(module, dynamic=False), hooks, LARGEST_DIFFERENCE[amp]
        self._is_compared = False

    def forward(self, batch: Tensor, as_it_is: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Activations of a batch, by layer; those of the first one are compared with what `as_it_is` gives.

        Raises
        ------
        BadInput
            The network cannot be compiled here, or its activations come out different.
        """
        expected = {} if self._is_compared else as_it_is(batch)  # first: it tells what is wrong with images or layers
        try:
            with self._hooks as hooks:
                self._module(batch)
                found = hooks.take()
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise BadInput("--compile", reason, "a network that torch.compile takes here", "leave it out") from error
        for name, maps in expected.items():
            is_finite = torch.isfinite(maps)
            difference = float((found[name] - maps).abs().where(is_finite, 0).max())
            largest = float(maps.abs().where(is_finite, 0).max())
            if not difference <= self._largest * largest:  # a NaN that was none is not
                got = f"activations of layer {name} that differ by {difference:.2g}, the largest being {largest:.2g}"
                expectation = f"at most {self._largest:g} of that from rounding"
                raise BadInput("--compile", got, expectation, "leave it out")
        self._is_compared = True
        return found
