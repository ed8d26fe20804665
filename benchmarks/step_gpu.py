"""A training step on a GPU beside transformers' OLMoE, in bfloat16: tokens per second, share of the chip, memory.

    python benchmarks/step_gpu.py                  # OLMoE-1B-7B's shape: 1.3B active of 6.9B parameters
    python benchmarks/step_gpu.py --dry-run        # the same program, tiny, on a CPU

Forward, backward and fused AdamW; weights, gradients and moments in bfloat16, so that all of it fits on one GPU beside
the activations. Each contestant has a process of its own, one after the other; ours also with compiled blocks. Rates
of FLOPs count active parameters (six per weight, and attention) and are held against the chip's measured rate of large
matrix products in bfloat16. A dry run takes the way of GPUs through the experts (torch's grouped product, no padding),
compiles without generating code, and tells no speeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import transformers
from contest import loss_of, matmul_rate, synchronize
from table import Row
from torch import nn
from torch.optim import AdamW

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.kernels import grouped
from lit_recycle.model.transformer import MoETransformer

CONTESTANTS = ("lit-recycle", "lit-recycle compiled", "transformers grouped_mm", "transformers eager")
LARGE = dict(vocab=50304, hidden=2048, layers=16, heads=16, experts=64, top_k=8, inner=1024, batch=8, length=2048)
TINY = dict(vocab=512, hidden=64, layers=2, heads=2, experts=4, top_k=2, inner=64, batch=2, length=64)


def ours(size: dict[str, int], device: str) -> MoETransformer:
    config = MoEConfig(
        vocab_size=size["vocab"], hidden_size=size["hidden"], num_layers=size["layers"], num_heads=size["heads"],
        num_experts=size["experts"], top_k=size["top_k"], expert_size=size["inner"], qk_norm="full",
        normalize_top_k=False,
    )  # fmt: skip
    with torch.device(device):
        model = MoETransformer(config).bfloat16()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.ones_(parameter)
    return model


def theirs(size: dict[str, int], device: str, experts: str) -> nn.Module:
    config = transformers.OlmoeConfig(
        vocab_size=size["vocab"], hidden_size=size["hidden"], intermediate_size=size["inner"],
        num_hidden_layers=size["layers"], num_attention_heads=size["heads"], num_key_value_heads=size["heads"],
        num_experts=size["experts"], num_experts_per_tok=size["top_k"], max_position_embeddings=size["length"],
        eos_token_id=0, pad_token_id=0, experts_implementation=experts, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    with torch.device(device):
        return transformers.OlmoeForCausalLM(config).bfloat16()


def contest(name: str, dry: bool, steps: int) -> dict[str, float]:
    """Seconds per step, peak memory in bytes and the last loss of one contestant."""
    size, device = (TINY, "cpu") if dry else (LARGE, "cuda")
    if dry:
        grouped.has_grouped_product = lambda device, dtype: True
    model = ours(size, device) if name.startswith("lit-recycle") else theirs(size, device, name.split()[-1])
    if name.endswith("compiled"):
        for block in model.layers:
            block.compile(fullgraph=True, backend="aot_eager" if dry else "inductor")
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(steps + 5):
        tokens = torch.randint(size["vocab"], (size["batch"], size["length"] + 1), generator=generator).to(device)
        synchronize(device)
        started = time.perf_counter()
        loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        times.append(time.perf_counter() - started)
    peak = 0 if dry else torch.cuda.max_memory_allocated()
    return {"seconds": statistics.median(times[5:]), "peak": peak, "loss": loss.item()}


def apart(call: Callable[[str], list[str]], name: str) -> dict[str, float] | None:
    """Run a contestant in a process of its own; None if it fails, with the last line of what it said."""
    done = subprocess.run(call(name), capture_output=True, text=True)
    if done.returncode:
        print(f"{name:<26} failed: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--contestant", choices=CONTESTANTS, help="this one alone, its figures as JSON")
    options = parser.parse_args(argv)
    if options.contestant:
        print(json.dumps(contest(options.contestant, options.dry_run, options.steps)))
        return []
    if not (options.dry_run or torch.cuda.is_available()):
        raise SystemExit("no GPU is here; --dry-run runs the same program, tiny, on a CPU")
    size = TINY if options.dry_run else LARGE
    device = "cpu" if options.dry_run else "cuda"
    with torch.device("meta"):
        config = ours(size, "meta").config
    rate = matmul_rate(device, torch.bfloat16, 8192 if device == "cuda" else 1024)
    print(f"{config.num_active_params() / 1e6:,.1f}M active of {config.num_params() / 1e6:,.1f}M parameters, torch")
    print(f"{torch.__version__}, transformers {transformers.__version__}, matrix products {rate / 1e12:,.1f} TFLOP/s")
    flags = ["--steps", str(options.steps), *(["--dry-run"] if options.dry_run else [])]
    found = {
        name: figures
        for name in CONTESTANTS
        if (figures := apart(lambda name: [sys.executable, __file__, "--contestant", name, *flags], name))
    }
    if options.dry_run:
        for name, figures in found.items():
            print(f"{name:<26}runs; loss {figures['loss']:.3f}")
        if len(found) < len(CONTESTANTS):
            raise SystemExit("the dry run failed")
        return [Row("training step on a GPU, bf16", "no GPU here: dry run passed", "", "", "≥ 2 ×, ≥ 40 % of the chip")]
    tokens, flops = size["batch"] * size["length"], config.num_flops_per_token(size["length"])
    rates = {name: tokens / figures["seconds"] for name, figures in found.items()}
    for name, speed in rates.items():
        share, peak = speed * flops / rate, found[name]["peak"] / 1e9
        print(f"{name:<26}{speed:>12,.0f} tokens/s{share:>7.0%} of matrix products{peak:>8.1f} GB")
    own = max(speed for name, speed in rates.items() if name.startswith("lit-recycle"))
    rival = max((speed for name, speed in rates.items() if name.startswith("transformers")), default=float("nan"))
    return [
        Row(
            "training step on a GPU, bf16",
            f"{own:,.0f} tokens/s ({own * flops / rate:.0%} of matrix products' rate)",
            f"transformers: {rival:,.0f} tokens/s",
            f"{own / rival:.2f} ×",
            "≥ 2 ×, ≥ 40 % of the chip",
        )
    ]


if __name__ == "__main__":
    main()
