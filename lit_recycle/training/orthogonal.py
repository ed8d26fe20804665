"""Newton–Schulz orthogonalisation of many matrices at once.

Axes: N matrices of a batch, A rows, B columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_recycle.growth.axes import TensorAxes

BATCH_ELEMENTS, CPU_BATCH_ELEMENTS = 2**24, 2**20
"""Elements up to which matrices of several tensors are copied into one batch; on a CPU, what its cache holds."""


@dataclass(frozen=True)
class Matrices:
    """Where the matrices of a tensor are: in its last two dimensions, and in parts of them.

    Args:
        stacked: Dimension along which matrices are stacked, counted from the end; None for none.
        count: Number of stacked matrices.
        alternating: Rows (or columns) of the stacked matrices take turns.
        transposed: Inputs are rows, and outputs columns.
    """

    stacked: int | None = None
    count: int = 1
    alternating: bool = False
    transposed: bool = False

    @staticmethod
    def of(axes: TensorAxes) -> Matrices:
        """Those of a tensor with these axes; of an unknown one, one matrix in its last two dimensions."""
        if not axes.known:
            return Matrices()
        rows, columns = axes.dimensions[-2:]
        transposed = rows.summed and not columns.summed
        if axes.stack is None:
            return Matrices(transposed=transposed)
        dimension, alternating = axes.stack
        return Matrices(dimension - len(axes.dimensions), len(axes.matrices), alternating, transposed)

    def apart(self, tensor: Tensor) -> Tensor:
        """The matrices ``[N, A, B]`` of a tensor, sharing its memory where they can."""
        if self.stacked is not None:
            sizes = (-1, self.count) if self.alternating else (self.count, -1)
            # Dimensions are counted from the end: of the two that one has become, the second keeps its number.
            tensor = tensor.unflatten(self.stacked, sizes)
            tensor = tensor.movedim(self.stacked - (0 if self.alternating else 1), 0)
        return tensor.flatten(0, -3) if tensor.dim() > 2 else tensor[None]

    def together(self, matrices_NAB: Tensor, shape: torch.Size) -> Tensor:
        """The way back, to a tensor of ``shape``."""
        if self.stacked is None:
            return matrices_NAB.view(shape)
        *batch, _, _ = shape
        tensor = matrices_NAB.unflatten(0, (self.count, *batch))
        tensor = tensor.movedim(0, self.stacked - (0 if self.alternating else 1))
        return tensor.reshape(shape)

    def rate(self, shape: torch.Size, adjust: str | None) -> float:
        """What the learning rate is multiplied by for matrices of a tensor of ``shape``."""
        sizes = [n // self.count if i == self.stacked else n for i, n in ((-2, shape[-2]), (-1, shape[-1]))]
        outputs, inputs = reversed(sizes) if self.transposed else sizes
        if adjust == "match_rms_adamw":
            return 0.2 * math.sqrt(max(outputs, inputs))
        return math.sqrt(max(1, outputs / inputs))


@dataclass(frozen=True)
class NewtonSchulz:
    """Brings the singular values of matrices near one by a quintic iteration in bfloat16 (Jordan 2024).

    Args:
        coefficients: a, b, c of X ← aX + b(XXᵀ)X + c(XXᵀ)²X.
        steps: Number of iterations.
        eps: Least norm that a matrix is divided by.
    """

    coefficients: tuple[float, float, float]
    steps: int
    eps: float

    def __call__(self, tensors: Sequence[Tensor], layouts: Sequence[Matrices]) -> list[Tensor]:
        """Tensors of the same shapes with orthogonalised matrices, in bfloat16; equal matrices go in batches."""
        apart = [layout.apart(tensor) for tensor, layout in zip(tensors, layouts, strict=True)]
        done: dict[int, Tensor] = {}
        for batch in batches(apart):
            whole_NAB = torch.cat([apart[i] for i in batch]) if len(batch) > 1 else apart[batch[0]]
            done |= zip(batch, self.orthogonal(whole_NAB).split([len(apart[i]) for i in batch]), strict=True)
        return [layouts[i].together(done[i], tensor.shape) for i, tensor in enumerate(tensors)]

    def orthogonal(self, matrices_NAB: Tensor) -> Tensor:
        """``[N, A, B]`` in bfloat16. The operations of ``torch.optim.Muon``, so that its bits come out."""
        a, b, c = self.coefficients
        x_NAB = matrices_NAB.bfloat16()
        if not x_NAB.numel():
            return x_NAB
        is_tall = x_NAB.shape[-2] > x_NAB.shape[-1]
        x_NAB = x_NAB.mT if is_tall else x_NAB
        x_NAB = x_NAB / torch.linalg.vector_norm(x_NAB, dim=(-2, -1), keepdim=True).clamp(min=self.eps)
        alone = len(x_NAB) == 1
        x, product = (x_NAB[0], torch.addmm) if alone else (x_NAB, torch.baddbmm)  # a batch of one is slower
        for _ in range(self.steps):
            gram = x @ x.mT
            x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        x_NAB = x[None] if alone else x
        return x_NAB.mT.contiguous() if is_tall else x_NAB


def batches(tensors_NAB: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of tensors whose matrices are equal in shape, up to a number of elements."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors_NAB):
        limit = CPU_BATCH_ELEMENTS if tensor.device.type == "cpu" else BATCH_ELEMENTS
        batch = by_shape[tensor.shape[1:]]
        if batch and sum(tensors_NAB[j].numel() for j in batch) + tensor.numel() > limit:
            yield batch
            batch = by_shape[tensor.shape[1:]] = []
        batch.append(i)
    yield from by_shape.values()
