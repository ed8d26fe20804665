"""Cost follows active parameters: a training step without the optimizer, from 8 to 64 experts at fixed top-k.

    python benchmarks/active.py [--rounds 7] [--batch 8] [--precision 32 bf16]

Forward and backward of the model of step_cpu.py, by turns, with ever more experts of which two are active; and bytes
that autograd keeps for the backward pass, parameters left out. transformers' grouped_mm does the same beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext

import torch
import transformers
from contest import loss_of
from step_cpu import SHAPE
from table import Row
from torch import Tensor, nn

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.training.allocator import keep_freed_memory

EXPERTS = (8, 16, 32, 64)
SEQ_LEN = 256


def ours(experts: int) -> MoETransformer:
    config = MoEConfig(num_experts=experts, qk_norm="full", normalize_top_k=False)
    model = MoETransformer(config)
    model.init_weights(0)
    return model


def theirs(experts: int) -> nn.Module:
    config = transformers.OlmoeConfig(**SHAPE | {"num_experts": experts}, experts_implementation="grouped_mm")
    return transformers.OlmoeForCausalLM(config)


def autocast_loss(model: nn.Module, tokens: Tensor, bf16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        return loss_of(model, tokens)


def seconds(model: nn.Module, tokens: Tensor, bf16: bool) -> float:
    started = time.perf_counter()
    autocast_loss(model, tokens, bf16).backward()
    elapsed = time.perf_counter() - started
    model.zero_grad()
    return elapsed


def kept_bytes(model: nn.Module, tokens: Tensor, bf16: bool) -> int:
    """Bytes that are kept for the backward pass; copies of parameters in another type count, parameters do not."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        autocast_loss(model, tokens, bf16)
    return sum(kept.values())


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8, help="sequences of 256 tokens")
    parser.add_argument("--precision", nargs="+", default=["32", "bf16"], choices=["32", "bf16"])
    options = parser.parse_args(argv)
    keep_freed_memory()
    tokens = torch.randint(0, SHAPE["vocab_size"], (options.batch, SEQ_LEN + 1))
    rows = []
    for precision in options.precision:
        bf16 = precision == "bf16"
        ratios = {}
        for name, build in (("lit-recycle", ours), ("transformers", theirs)):
            models = {experts: build(experts) for experts in EXPERTS}
            turns = [[seconds(model, tokens, bf16) for model in models.values()] for _ in range(options.rounds + 2)][2:]
            times = [statistics.median(turn) for turn in zip(*turns, strict=True)]
            kept = [kept_bytes(model, tokens, bf16) for model in models.values()]
            ratios[name] = times[-1] / times[0]
            print(f"{precision}, {name}: {EXPERTS[-1]} / {EXPERTS[0]} experts = {ratios[name]:.2f} × the time")
            for experts, elapsed, nbytes in zip(EXPERTS, times, kept, strict=True):
                print(
                    f"  {experts:>3} experts{elapsed * 1e3:>8.0f} ms{nbytes / 1e6:>8.1f} MB kept for the backward pass"
                )
        rows.append(
            Row(
                f"8 → 64 experts, 2 active, {precision}",
                f"{ratios['lit-recycle']:.2f} × the time",
                f"transformers: {ratios['transformers']:.2f} ×",
                f"{ratios['lit-recycle']:.2f} ×",
                "≤ 1.5 ×",
            )
        )
    return rows


if __name__ == "__main__":
    main()
