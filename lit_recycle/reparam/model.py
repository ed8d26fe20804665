"""This project's own model with branches, as a growth and a run see it. torch is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lit_recycle.growth.names import Naming
from lit_recycle.growth.native import NativeModel
from lit_recycle.reparam.names import LEFT, ORIGINAL, RIGHT, Part, Reparam, branch_axes

if TYPE_CHECKING:
    from torch import Size, Tensor

    from lit_recycle.model.transformer import MoETransformer


@dataclass(frozen=True)
class BranchedModel(NativeModel):
    """A shape whose chosen matrices are sums of branches. Parameters and FLOPs are those of the merged model.

    Args:
        config: Shape of the merged model.
        reparam: The branches.

    Raises:
        ValueError: For a pattern that chooses no matrix of the model.
    """

    reparam: Reparam

    def __post_init__(self) -> None:
        if not self.chosen:
            raise ValueError(
                f"model.reparam.pattern {self.reparam.pattern!r} chooses no matrix of this model: it is looked for in "
                f"{', '.join(self._matrices)}"
            )

    @property
    def _matrices(self) -> list[str]:
        """Names of the matrices of layers."""
        has = {"moe": bool(self.config.num_moe_layers), "mlp": bool(self.config.dense_layers), "attn": True}
        has |= {"moe.shared": has["moe"] and self.config.shared_expert_size > 0}
        has |= {"moe.shared_gate": has["moe"] and self.config.shared_expert_gate}
        return [
            suffix
            for suffix, axes in super().naming.axes.items()
            if axes.endswith("*") and all(held for part, held in has.items() if suffix.startswith(f"{part}."))
        ]

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        """Names within a layer of the matrices that have branches."""
        axes = super().naming.axes
        return tuple(suffix for suffix in self._matrices if self.reparam.chooses(suffix, axes[suffix]))

    @cached_property
    def naming(self) -> Naming:  # type: ignore[override]  # worked out once
        plain = super().naming
        return replace(plain, axes=branch_axes(plain.axes, self.reparam))

    def upcycled(self, layers: Sequence[int], num_experts: int, top_k: int, granularity: int) -> NativeModel:
        """See :class:`GrowableModel`. Branches of a dense network are no branches of its slices."""
        if [suffix for suffix in super().naming.axes if suffix.startswith(("mlp.", "moe.")) and self._finds(suffix)]:
            raise ValueError(
                "feed-forward matrices that are trained as branches cannot become experts: merge them first with "
                "`lit-recycle merge-branches`, or let model.reparam.pattern choose matrices of attention alone"
            )
        return super().upcycled(layers, num_experts, top_k, granularity)

    def _finds(self, suffix: str) -> bool:
        return self.reparam.chooses(suffix, super().naming.axes[suffix])

    def to_dict(self) -> dict[str, Any]:
        """See :class:`Shape`."""
        return super().to_dict() | {"reparam": asdict(self.reparam)}

    # --- with torch --------------------------------------------------------------------------------------------------

    def prepared(self, model: MoETransformer) -> MoETransformer:
        """See :class:`NativeModel`."""
        from lit_recycle.reparam.branches import attach

        attach(model.layers, self.chosen, self.reparam)
        return model

    def initial_value(self, name: str, shape: Size, plain: Callable[[str, Size], Tensor], seed: int) -> Tensor:
        """See :class:`NativeModel`. The first branch is the matrix; others are drawn and have scales of zero.

        So the function is exactly that of the plain model, and branches part from the first step on.
        """
        import torch

        from lit_recycle.model.transformer import initial_value
        from lit_recycle.seeding import generator_of

        found = Part.of(name)
        if found is None or found.part == ORIGINAL:
            return plain(found.matrix if found else name, shape)
        if found.part.startswith("0.scale"):
            return torch.full(shape, float(found.part == "0.scale_0"), device="cpu")
        if found.part == RIGHT:  # its product with the left one has the variance of the left one
            empty = torch.empty(shape, dtype=torch.float32, device="cpu")
            return empty.normal_(0.0, self.reparam.product_rank**-0.5, generator=generator_of(seed, name))
        assert found.part == LEFT or found.part.startswith("0.matrix")
        return initial_value(self.config, f"{found.part}.{found.matrix}", shape, seed)

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`NativeModel`: each matrix is what the model in training has made of its branches."""
        from lit_recycle.reparam.branches import squeeze

        plain: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            found = Part.of(name)
            if found is None:
                plain[name] = tensor
            elif found.part == ORIGINAL:
                names = {part: Part(found.matrix, part).name for part in self.reparam.parts()}
                parts = {part.removeprefix("0."): weights[n] for part, n in names.items() if part != ORIGINAL}
                plain[found.matrix] = squeeze(tensor, parts, self.reparam)
        return plain
