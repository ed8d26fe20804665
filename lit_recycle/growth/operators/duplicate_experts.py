"""Expert duplication: routed experts copied together with their router rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import Cell, GrowableModel, Operator, times
from lit_recycle.growth.operators.random_layers import initial
from lit_recycle.growth.sources import AxisMap, SourceMap
from lit_recycle.growth.treatments import Jitter, Noise, Redraw, Scale, SpreadCopies, Treatment, Zero

Utility = Literal["norm", "gradient", "norm_gradient"]
UTILITIES = ("norm", "gradient", "norm_gradient")
EXPERT_MATRICES = {"gate", "up", "down"}


@dataclass(frozen=True)
class DuplicateExperts(Operator):
    """Copy routed experts and their rows of the router. Shared experts are not copied.

    Args:
        factor: How often each expert stands in the grown model; 2 when neither this nor ``num_experts`` is given.
        num_experts: Experts per layer of the grown model instead, any number from the present one on.
        noise: Standard deviation of the Gaussian noise on copies, relative to that of the matrix copied (α).
        symmetry_break: Tell copies apart where their outputs are summed: the m copies of an expert get the output
            matrices (1 + δ)·w, with random δ of this standard deviation less its mean over the copies. Where all m are
            chosen together the function stays what it was, up to rounding; set ``noise`` to zero.
        top_k: Experts per token: ``scale`` multiplies them as the experts, ``keep`` leaves them, a number sets them.
        order: ``interleaved`` puts copies next to their source (0 0 1 1), ``appended`` behind all others (0 1 0 1),
            which groups of experts need; ``auto`` chooses.
        by: Give more copies to experts of greater utility: ``norm`` of their weights, ``gradient`` (its square), or
            the product ``norm_gradient``. When not given, copies are spread evenly.
        max_copies: How often one expert may stand in the grown model, when they are chosen by utility.
        reset_balance: Zero the balancing bias instead of copying it.
        bias_noise: Greatest uniform change of the copies' balancing bias.
        redraw: Share of a copy's inner channels that is drawn anew (Drop-Upcycling).
        copies: ``copy`` the weights of the source, or ``draw`` new experts at random, as a baseline.
        router: ``copy`` the rows of the router, ``draw`` those of copies, or ``draw_all``.
    """

    origin = "Beyond Sunk Costs, arXiv 2510.08008; Expert Upcycling, arXiv 2604.19835"
    keeps = "without noise, redraw and uneven copies, with top_k scaled"
    axes = "E"
    needs = "shapes alone, or what `by` names"
    factor: int | None = None
    num_experts: int | None = None
    noise: float = 0.01
    symmetry_break: float = 0.0
    top_k: Literal["scale", "keep"] | int = "scale"
    order: Literal["auto", "interleaved", "appended"] = "auto"
    by: Utility | None = None
    max_copies: int = 3
    reset_balance: bool = False
    bias_noise: float = 0.0
    redraw: float = 0.0
    copies: Literal["copy", "draw"] = "copy"
    router: Literal["copy", "draw", "draw_all"] = "copy"

    def __post_init__(self) -> None:
        if self.factor is None and self.num_experts is None:
            object.__setattr__(self, "factor", 2)
        if self.factor is not None and (self.num_experts is not None or self.factor < 2):
            raise ValueError(f"factor must be at least 2, got {self.factor}, and stand without num_experts")
        if not (self.top_k in ("scale", "keep") or isinstance(self.top_k, int)):
            raise ValueError(f"top_k must be scale, keep or a number, got {self.top_k!r}")
        for name in ("noise", "symmetry_break", "bias_noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number and not negative, got {getattr(self, name)}")
        if self.symmetry_break and self.copies == "draw":
            raise ValueError("symmetry_break tells copies apart, and copies: draw makes none: leave one of them out")
        if not 0 <= self.redraw <= 1:
            raise ValueError(f"redraw is a share of channels in 0..1, got {self.redraw}")
        choices = {"order": ("auto", "interleaved", "appended"), "by": (None, *UTILITIES), "copies": ("copy", "draw")}
        for name, allowed in (choices | {"router": ("copy", "draw", "draw_all")}).items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")

    @property
    def asks(self) -> Sequence[str]:
        return (self.by,) if self.by else ()

    # --- the map -----------------------------------------------------------------------------------------------------

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        count = model.num_layers + model.num_tail_layers
        experts = [model.size(EXPERTS, layer) for layer in range(count)]
        if not any(experts):
            raise ValueError("the model has no routed experts to copy: make some with Upcycle")
        utility = facts(self.by) if self.by else None
        maps = tuple(
            AxisMap(n, self._map(model, n, utility[layer] if utility else None)) if n else None
            for layer, n in enumerate(experts)
        )
        return SourceMap.identity(count, {EXPERTS: maps})

    def _map(self, model: GrowableModel, count: int, utility: Sequence[float] | None) -> tuple[int, ...]:
        target = self._target(count)
        times = spread(count, target) if utility is None else by_utility(utility, target, self.max_copies)
        appended = self.order == "appended" or (self.order == "auto" and "grouped routing" in model.traits)
        if "grouped routing" in model.traits and (not appended or len(set(times)) > 1):
            raise ValueError("experts that are chosen from groups are added as whole groups: order appended, a factor")
        if not appended:
            return tuple(e for e in range(count) for _ in range(times[e]))
        return tuple(e for turn in range(max(times)) for e in range(count) if times[e] > turn)

    def _target(self, count: int) -> int:
        target = self.num_experts if self.num_experts is not None else count * (self.factor or 1)
        if target < count:
            raise ValueError(f"num_experts {target} is less than the model's {count}: use PruneExperts")
        return target

    def _top_k(self, model: GrowableModel) -> int | None:
        if self.top_k == "keep":
            return None
        if isinstance(self.top_k, int):
            return self.top_k
        count = model.size(EXPERTS)
        top_k, rest = divmod(model.top_k * self._target(count), count)
        if rest:
            raise ValueError(
                f"{model.top_k} of {count} experts per token are no whole number of {self._target(count)}: give top_k"
            )
        return top_k

    def resized(self, model: GrowableModel, sources: SourceMap) -> GrowableModel:
        top_k = self._top_k(model)
        if "two experts" in model.traits and top_k not in (None, 2):
            raise ValueError("the router of this model always takes two experts: give top_k: keep (--top-k keep)")
        fewest = min(len(m.sources) for m in sources.axes[EXPERTS] if m is not None)  # type: ignore[union-attr]
        if top_k is not None and not 1 <= top_k <= fewest:
            raise ValueError(f"top_k must lie in 1..{fewest}, the number of experts, got {top_k}")
        return model.resized(sources, top_k)

    # --- what is done to copies --------------------------------------------------------------------------------------

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        matrices, mapped = set(cell.place.axes.matrices), cell.experts
        if mapped is None or not matrices:
            return ()
        if "balance" in matrices:
            return self._balance(cell, len(mapped.sources) / mapped.size)
        if "router" in matrices and (self.router == "draw_all" or (self.router == "draw" and cell.is_expert_copy)):
            return (initial(cell),)
        found: list[Treatment] = []
        before, after = cell.change.before, cell.change.after
        if "scores add up" in before.traits and "down" in matrices and after.top_k != before.top_k:
            found.append(Scale(before.top_k / after.top_k))
        if self.symmetry_break and "down" in matrices:
            found += self._told_apart(cell, mapped)
        if not cell.is_expert_copy:
            return found
        if self.copies == "draw" and matrices & EXPERT_MATRICES:
            return (initial(cell),)
        found += [Noise(self.noise)] if self.noise > 0 else []
        return [*found, Redraw("F", self.redraw)] if self.redraw and matrices & EXPERT_MATRICES else found

    def _told_apart(self, cell: Cell, mapped: AxisMap) -> list[Treatment]:
        assert cell.expert is not None
        source = mapped.sources[cell.expert]
        count = mapped.sources.count(source)
        turn = mapped.sources[: cell.expert].count(source)
        return [SpreadCopies(source, turn, count, self.symmetry_break)] if count > 1 else []

    def _balance(self, cell: Cell, times: float) -> Sequence[Treatment]:
        if self.reset_balance:
            return (Zero(),)
        # Softmax shares are divided among duplicates: a bias that is added to them must shrink along.
        shrunk = [Scale(1 / times)] if "softmax bias" in cell.change.before.traits else []
        return [*shrunk, Jitter(self.bias_noise)] if self.bias_noise and cell.is_expert_copy else shrunk

    def preserves(self, model: GrowableModel) -> bool:
        count = model.size(EXPERTS)
        even = self._target(count) % count == 0 and self.by is None
        quiet = not (self.noise or self.redraw or self.bias_noise or self.reset_balance)
        copied = self.copies == "copy" and self.router == "copy"
        scaled = self._top_k(model) == model.top_k * self._target(count) // count
        return even and quiet and copied and scaled and "two experts" not in model.traits

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        said = f"experts {times(model.size(EXPERTS), after.size(EXPERTS))}"
        return said + (f" by {self.by}" if self.by else "")


def spread(count: int, target: int) -> list[int]:
    """How often each of ``count`` experts stands among ``target``, as evenly as can be."""
    return [(e + 1) * target // count - e * target // count for e in range(count)]


def by_utility(utility: Sequence[float], target: int, most: int) -> list[int]:
    """Copies one by one to the expert whose present copies have the most utility each, at most so many of one."""
    times = [1] * len(utility)
    if target > most * len(utility):
        raise ValueError(f"{target} experts of {len(utility)} need more than max_copies {most} of one")
    for _ in range(target - len(utility)):
        open_experts = [e for e in range(len(utility)) if times[e] < most]
        times[max(open_experts, key=lambda e: (utility[e] / times[e], -e))] += 1
    return times
