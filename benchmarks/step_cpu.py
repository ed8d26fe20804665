"""A training step on a CPU beside transformers' OLMoE: the same weights, the same batch, in turns in one process.

    python benchmarks/step_cpu.py [--rounds 5] [--precision 32 bf16]

Prints tokens per second of each, the ratio to the fastest of transformers' expert implementations, and the share of the
machine's measured rate of matrix products. Forward, backward and fused AdamW; 4 layers, width 256, 16 experts of 256,
top-2, vocabulary 512, batch 4 × 256.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
import transformers
from torch.optim import AdamW

from lit_recycle.checkpoints.convert import import_folder
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer

SHAPE = dict(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=16,
    num_experts_per_tok=2,
)
BATCH, SEQ_LEN = 4, 256

Step = Callable[[], float]
"""One training step; returns its loss."""


def models() -> dict[str, torch.nn.Module]:
    """transformers' OLMoE with each expert implementation, and ours, with equal weights."""
    torch.manual_seed(0)
    source = transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**SHAPE))
    with tempfile.TemporaryDirectory() as folder:
        source.save_pretrained(f"{folder}/hf")
        config: MoEConfig = import_folder(f"{folder}/hf", f"{folder}/ours.ckpt")
        saved = load_checkpoint(f"{folder}/ours.ckpt")["state_dict"]
        ours = MoETransformer(config)
        ours.load_state_dict({name.removeprefix("model."): tensor for name, tensor in saved.items()})
        found: dict[str, torch.nn.Module] = {"ours": ours}
        for kind in ("eager", "grouped_mm"):
            found[f"transformers {kind}"] = transformers.OlmoeForCausalLM.from_pretrained(
                f"{folder}/hf", experts_implementation=kind
            )
    return found


def step_of(model: torch.nn.Module, tokens: torch.Tensor, bf16: bool) -> Step:
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            out = model(tokens[:, :-1])
            logits = out[0] if isinstance(out, tuple) else out.logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def matmul_rate(bf16: bool) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16 if bf16 else torch.float32)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["32", "bf16"], choices=["32", "bf16"])
    options = parser.parse_args()
    tokens = torch.randint(0, SHAPE["vocab_size"], (BATCH, SEQ_LEN + 1))
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    for precision in options.precision:
        found = models()
        steps = {name: step_of(model, tokens, precision == "bf16") for name, model in found.items()}
        losses = {name: step() for name, step in steps.items()}  # warm up, and see that they compute the same
        assert max(losses.values()) - min(losses.values()) < (0.02 if precision == "bf16" else 1e-3), losses
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(options.rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
        rate = {name: BATCH * SEQ_LEN / statistics.median(times) for name, times in seconds.items()}
        rival = max(rate[name] for name in rate if name != "ours")
        flops = found["ours"].config.num_flops_per_token(SEQ_LEN) * rate["ours"]
        print(f"\n{precision}: ours / fastest of transformers = {rate['ours'] / rival:.2f}")
        for name, value in rate.items():
            print(f"  {name:<24}{value:>10,.0f} tokens/s")
        print(f"  ours, of the measured matrix-product rate: {flops / matmul_rate(precision == 'bf16'):.0%}")


if __name__ == "__main__":
    main()
