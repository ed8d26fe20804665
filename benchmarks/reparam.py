"""A training step of a model whose matrices are sums of branches, squeezed into one, beside plain and unsqueezed ones.

    python benchmarks/reparam.py [--branches 3] [--rounds 7]

Unsqueezed, each branch has a product of its own and the outputs are added up. Contestants take turns, and the median
of ratios counts. Memory is what autograd keeps between the forward and the backward pass, besides parameters.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from contest import loss_of, synchronize
from table import Row
from torch import Tensor, nn

from lit_recycle.hub.shape import shape_of
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.reparam.model import BranchedModel
from lit_recycle.seeding import generator_of

SHAPE = MoEConfig(
    vocab_size=512, hidden_size=256, num_layers=4, num_heads=4, num_experts=0, dense_layers=range(4), dense_size=512
)
GOAL_OVERHEAD, GOAL_FASTER = 1.3, 1.0


class SumOfProducts(nn.Module):
    """A linear layer of branches, each with a product of its own."""

    def __init__(self, layer: nn.Linear, branches: int) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([layer.weight, *(torch.randn_like(layer.weight) for _ in range(branches - 1))])
        self.scales = nn.ParameterList([torch.full(layer.weight.shape[:1], float(i == 0)) for i in range(branches)])

    def forward(self, x: Tensor) -> Tensor:
        terms: Iterator[Tensor] = (F.linear(x, w) * s for w, s in zip(self.matrices, self.scales, strict=True))
        return sum(terms, start=torch.zeros((), device=x.device))


def models(branches: int, device: str) -> dict[str, nn.Module]:
    values = {**SHAPE.to_dict(), "reparam": {"pattern": ".", "branches": branches}}
    shape = shape_of(values)
    assert isinstance(shape, BranchedModel)
    plain, unsqueezed = MoETransformer(SHAPE), MoETransformer(SHAPE)
    plain.init_weights(0)
    unsqueezed.init_weights(0)
    squeezed, weights = shape.prepared(MoETransformer(SHAPE)), plain.state_dict()
    with torch.no_grad():
        for name, tensor in squeezed.state_dict().items():
            tensor.copy_(shape.initial_value(name, tensor.shape, lambda own, _: weights[own], 0))
    for block in unsqueezed.layers:
        for name, layer in [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear)]:
            owner, _, attribute = name.rpartition(".")
            setattr(block.get_submodule(owner), attribute, SumOfProducts(layer, branches))
    return {name: m.to(device) for name, m in (("plain", plain), ("squeezed", squeezed), ("unsqueezed", unsqueezed))}


def kept(model: nn.Module, tokens: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, tokens)
    del loss
    return sum(storages.values())


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    contestants = models(options.branches, device)
    tokens = torch.randint(SHAPE.vocab_size, (4, 257), generator=generator_of(0, "tokens")).to(device)
    losses = [loss_of(model, tokens).item() for model in contestants.values()]
    assert max(losses) - min(losses) < 1e-4, losses
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(options.rounds + 1):  # the first warms up
        for name, model in contestants.items():
            model.zero_grad()
            synchronize(device)
            started = time.perf_counter()
            loss_of(model, tokens).backward()
            synchronize(device)
            if round_:
                times[name].append(time.perf_counter() - started)
    memory = {name: kept(model, tokens) / 1e6 for name, model in contestants.items()}
    seconds = {name: statistics.median(values) * 1e3 for name, values in times.items()}

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

    what = f"forward and backward, {options.branches} branches of each matrix"
    rows = []
    for rival, goal in (("plain", f"≤ {GOAL_OVERHEAD:g} ×"), ("unsqueezed", f"< {GOAL_FASTER:g} ×")):
        own, other = (f"{seconds[name]:.0f} ms" for name in ("squeezed", rival))
        rows.append(Row(what, own, f"{rival}: {other}", f"{ratio('squeezed', rival):.2f} × the time", goal))
    for rival, goal in (("plain", ""), ("unsqueezed", "< 1 ×")):
        own, other = (f"{memory[name]:.0f} MB" for name in ("squeezed", rival))
        memory_ratio = memory["squeezed"] / memory[rival]
        rows.append(Row(f"{what}, kept between", own, f"{rival}: {other}", f"{memory_ratio:.2f} ×", goal))
    print(*rows, sep="\n")
    return rows


if __name__ == "__main__":
    main()
