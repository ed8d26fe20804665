"""A training step on a CPU beside transformers' OLMoE: the same weights and batches, by turns.

    python benchmarks/step_cpu.py [--rounds 5] [--precision 32 bf16]

Forward, backward and fused AdamW; 4 layers, width 256, 16 experts of 256, top-2, vocabulary 512, batch 4 × 256. Each
contestant has a process of its own, as its users would start it: one's kernels do not push another's out of oneDNN's
cache, and lit-recycle keeps freed memory as `lit-recycle fit` does. What that alone gives transformers is a line
of its own. Prints tokens per second, ratios, and the share of the measured rate of matrix products.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection

import torch
import transformers
from contest import loss_of, matmul_rate
from table import Row
from torch.optim import AdamW

from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.hub.convert import import_folder
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.training.allocator import keep_freed_memory

SHAPE = dict(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=16,
    num_experts_per_tok=2,
    eos_token_id=0,
    pad_token_id=0,
)
BATCH, SEQ_LEN, STEPS, WARM_UP = 4, 256, 5, 50
"""Steps are the number of them in one turn; each has another batch. Kernels are compiled while warming up."""
OURS, KEPT = "lit-recycle", "transformers grouped_mm, memory kept"
CONTESTANTS = (OURS, "transformers eager", "transformers grouped_mm", KEPT)
GOALS = {"32": 1.3, "bf16": 1.5}


def load(name: str, folder: str) -> torch.nn.Module:
    if name == OURS:
        saved = load_checkpoint(f"{folder}/ours.ckpt")
        ours = MoETransformer(MoEConfig.from_dict(saved["hyper_parameters"]["config"]))
        ours.load_state_dict({key.removeprefix("model."): tensor for key, tensor in saved["state_dict"].items()})
        return ours
    kind = "eager" if name.endswith("eager") else "grouped_mm"
    return transformers.OlmoeForCausalLM.from_pretrained(f"{folder}/hf", experts_implementation=kind)


def step_of(model: torch.nn.Module, bf16: bool) -> Callable[[], float]:
    """A training step on the next batch; returns its loss."""
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = torch.Generator().manual_seed(0)

    def step() -> float:
        tokens = torch.randint(0, SHAPE["vocab_size"], (BATCH, SEQ_LEN + 1), generator=batches)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def contestant(name: str, folder: str, bf16: bool, pipe: Connection) -> None:
    """A process: takes its turn whenever it is asked to, and answers with seconds per step and the last loss."""
    transformers.utils.logging.disable_progress_bar()
    if name in (OURS, KEPT):
        keep_freed_memory()
    step = step_of(load(name, folder), bf16)
    while steps := pipe.recv():
        started = time.perf_counter()
        losses = [step() for _ in range(steps)]
        pipe.send(((time.perf_counter() - started) / steps, losses[-1]))


def race(folder: str, bf16: bool, rounds: int) -> dict[str, float]:
    """Tokens per second of each, by the median of its turns after the one that warms up."""
    context, pipes, processes = mp.get_context("spawn"), {}, []
    for name in CONTESTANTS:
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=contestant, args=(name, folder, bf16, theirs), daemon=True))
        processes[-1].start()
    turns: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for turn in range(rounds + 1):
        losses = []  # of the same batches
        for name, pipe in pipes.items():
            pipe.send(STEPS if turn else WARM_UP)
            seconds, loss = pipe.recv()
            turns[name].append(seconds)
            losses.append(loss)
        assert max(losses) - min(losses) < (0.02 if bf16 else 1e-3), losses  # they compute the same
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    return {name: BATCH * SEQ_LEN / statistics.median(times[1:]) for name, times in turns.items()}


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["32", "bf16"], choices=["32", "bf16"])
    options = parser.parse_args(argv)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**SHAPE)).save_pretrained(f"{folder}/hf")
        config = import_folder(f"{folder}/hf", f"{folder}/ours.ckpt")
        for precision in options.precision:
            rates = race(folder, precision == "bf16", options.rounds)
            rival = max(rate for name, rate in rates.items() if name not in (OURS, KEPT))
            products = matmul_rate("cpu", torch.bfloat16 if precision == "bf16" else torch.float32, 2048)
            share = config.num_flops_per_token(SEQ_LEN) * rates[OURS] / products
            print(f"\n{precision}: ours / fastest of transformers = {rates[OURS] / rival:.2f}")
            for name, rate in rates.items():
                print(f"  {name:<40}{rate:>8,.0f} tokens/s{rates[OURS] / rate:>8.2f}")
            print(f"  {OURS}, of the measured rate of matrix products: {share:.0%}")
            rows.append(
                Row(
                    f"training step on a CPU, {precision}",
                    f"{rates[OURS]:,.0f} tokens/s ({share:.0%} of matrix products' rate)",
                    f"transformers: {rival:,.0f} tokens/s",
                    f"{rates[OURS] / rival:.2f} ×",
                    f"≥ {GOALS[precision]} ×",
                )
            )
    return rows


if __name__ == "__main__":
    main()
