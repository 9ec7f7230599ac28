"""The memory that a forward pass takes, by the tensors that live at once: the same in every process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that keeps count of the host memory of tensors made within it, views of others' aside.

    The peak of the resident memory would tell less: whatever a process took before and gave back hides a smaller peak.
    Tensors pass through Python here, which may choose other kernels; what is computed within is not to be kept.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, int] = {}
        self._now = 0
        self.peak_bytes = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id_of(each) for each in tree_leaves((args, kwargs)) if is_on_host(each)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if is_on_host(each) and (key := id_of(each)) not in given and key not in self._live:
                storage = each.untyped_storage()
                self._live[key] = storage.nbytes()
                self._now += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self._now)
                weakref.finalize(storage, self._forget, key).atexit = False
        return result

    def _forget(self, key: int) -> None:
        self._now -= self._live.pop(key)


def is_on_host(value: object) -> bool:
    """Whether a value is a plain tensor in the host's memory."""
    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.layout == torch.strided


def id_of(tensor: torch.Tensor) -> int:
    """What tells a tensor's memory from that of others, while it lives."""
    return int(tensor.untyped_storage()._cdata)
