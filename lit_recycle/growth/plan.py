"""The one idea: a growth is a source map, made from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.operators import append, duplicate
from lit_recycle.model.config import MoEConfig


@dataclass(frozen=True)
class GrowthPlan:
    """For every layer and expert of the grown model, which one of the source it comes from.

    The first place where a source appears is the original, every later one is a copy.

    Args:
        layers: ``layers[j]`` is the source layer of grown layer j.
        experts: ``experts[j][e]`` is the source expert of expert e in grown layer j; empty for a dense layer.
        zero_output: Zero the output projections of copied layers.
        noise: Relative standard deviation α of the noise on copied experts and router rows.
        reset_balance: Zero the balancing bias.
        balance_factor: Factor on the balancing bias where experts are duplicated. Softmax shares are divided among
            the duplicates, so a bias that is added to them must shrink along for the choice to stay the same.
        seed: Seed of the noise.
        event: Number of this growth in the life of the model, from 0; a part of the noise's seed.
    """

    layers: tuple[int, ...]
    experts: tuple[tuple[int, ...], ...]
    zero_output: bool = False
    noise: float = 0.0
    reset_balance: bool = False
    balance_factor: float = 1.0
    seed: int = 0
    event: int = 0

    def __post_init__(self) -> None:
        assert len(self.layers) == len(self.experts)

    def is_layer_copy(self, layer: int) -> bool:
        return self.layers[layer] in self.layers[:layer]

    def is_expert_copy(self, layer: int, expert: int) -> bool:
        return self.experts[layer][expert] in self.experts[layer][:expert]

    def grows_experts(self, layer: int) -> bool:
        return self.experts[layer] != tuple(range(len(self.experts[layer])))

    def multiplicity(self, layer: int, expert: int) -> int:
        """How many experts of a grown layer share this one's source. Each has that fraction of its gradient."""
        return self.experts[layer].count(self.experts[layer][expert])


def plan_growth(
    experts_per_layer: Sequence[int],
    depth: Depth | None,
    width: Width | None,
    seed: int = 0,
    event: int = 0,
    *,
    whole_groups: bool = False,
    softmax_bias: bool = False,
) -> GrowthPlan:
    """The plan for a model of any family.

    Args:
        experts_per_layer: Routed experts of each layer, 0 for a dense one.
        depth: Growth in depth, if any.
        width: Growth in width, if any.
        seed: Seed of the noise.
        event: Number of this growth in the life of the model.
        whole_groups: Routing is limited to groups of experts, so that only whole groups may be added.
        softmax_bias: A balancing bias is added to softmax scores, not to sigmoid ones.
    """
    num_layers = len(experts_per_layer)
    layers = depth.source_layers(num_layers) if depth else tuple(range(num_layers))
    factor = width.factor if width else 1
    if width and not any(experts_per_layer):
        raise ValueError("width growth duplicates routed experts, and this model has none")
    repeat = append if whole_groups else duplicate
    return GrowthPlan(
        layers=layers,
        experts=tuple(repeat(experts_per_layer[i], factor) for i in layers),
        zero_output=depth.zero_output if depth else False,
        noise=width.noise if width else 0.0,
        reset_balance=width.reset_balance if width else False,
        balance_factor=1 / factor if softmax_bias else 1.0,
        seed=seed,
        event=event,
    )


def grow_config(
    config: MoEConfig, depth: Depth | None, width: Width | None, seed: int = 0, event: int = 0
) -> tuple[MoEConfig, GrowthPlan]:
    """The grown model's shape and the plan that leads to it."""
    experts = [0 if config.is_dense(i) else config.num_experts for i in range(config.num_layers)]
    plan = plan_growth(experts, depth, width, seed, event, softmax_bias=config.router_score == "softmax")
    target = config.replace(
        num_layers=len(plan.layers),
        dense_layers=tuple(j for j, source in enumerate(plan.layers) if config.is_dense(source)),
    )
    if width is None:
        return target, plan
    scaled = width.factor if width.top_k == "scale" else 1
    # Sigmoid scores that are not renormalised add up over the duplicates; all other weights sum to what they did.
    adds_up = config.router_score == "sigmoid" and not config.normalize_top_k
    return (
        target.replace(
            num_experts=config.num_experts * width.factor,
            top_k=config.top_k * scaled,
            routed_scaling=config.routed_scaling / (scaled if adds_up else 1),
        ),
        plan,
    )
