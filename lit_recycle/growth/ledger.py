"""Memory and traffic of operations on tensors, counted while they are carried out, with data or without."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COLLECTIVES = ("c10d", "_c10d_functional")
_MOVE_NOTHING = ("c10d::barrier", "_c10d_functional::wait_tensor")


class Ledger(TorchDispatchMode):
    """Counts the bytes of storages that operations make while it is on, while they live, and those of collectives.

    Attributes:
        held: Bytes alive now.
        peak: Most bytes alive at once, since ``reset_peak``.
        received: Bytes that collectives wrote here, this process's own part included.
        collectives: Number of collectives that move tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = self.received = self.collectives = 0
        self._users: dict[int, int] = {}

    def reset_peak(self) -> None:
        self.peak = self.held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._enter(tensor)
        if func.namespace in _COLLECTIVES and func.name() not in _MOVE_NOTHING:
            self.collectives += 1
            self.received += _tensors(args)[0].nbytes  # by torch's convention the output comes first
        return out

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._users:
            self._users[key] = 0
            self.held += size
            self.peak = max(self.peak, self.held)
        self._users[key] += 1
        weakref.finalize(tensor, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.held -= size


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested containers; of sharded ones, this process's part."""
    tensors = [t for t in tree_leaves(tree) if isinstance(t, Tensor)]
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
