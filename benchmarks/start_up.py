"""How long a command takes to start, beside bare imports of what it stands on.

    python benchmarks/start_up.py [--rounds 5]

Every run is a process of its own, and all commands take turns, so that a slow minute of the machine meets all of them.
The folders that `grow` plans for have the config and the safetensors headers of published models, and sparse files of
zeros for weights. Prints medians, goals, and which heavy libraries a command imports.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from table import Row

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "transformers", "matplotlib")
LIGHT_GOAL, TORCH_GOAL = 1.5, 3.0
"""Seconds; the second is for what needs torch."""
OLMOE = dict(
    model_type="olmoe", num_hidden_layers=16, hidden_size=2048, intermediate_size=1024, num_experts=64, head_dim=128
) | dict(num_experts_per_tok=8, num_attention_heads=16, num_key_value_heads=16, vocab_size=50304, norm_topk_prob=False)
QWEN_MOE = dict(
    model_type="qwen3_moe", num_hidden_layers=94, hidden_size=4096, moe_intermediate_size=1536, num_experts=128
) | dict(
    num_experts_per_tok=8,
    num_attention_heads=64,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=151936,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[],
)
QWEN = dict(model_type="qwen3", num_hidden_layers=36, hidden_size=4096, intermediate_size=12288, head_dim=128) | dict(
    num_attention_heads=32, num_key_value_heads=8, vocab_size=151936, hidden_act="silu"
)


class Start(NamedTuple):
    """A command to start: what Python is given, and the seconds that it may take."""

    what: str
    arguments: list[str]
    goal: float | None = None


def tensors(config: dict) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a model with OLMoE's or Qwen3's tensors."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    inner = config.get("moe_intermediate_size", config.get("intermediate_size"))
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in (f"model.layers.{i}." for i in range(config["num_hidden_layers"])):
        for name, shape in (("q", [queries, hidden]), ("k", [keys, hidden]), ("v", [keys, hidden])):
            yield f"{layer}self_attn.{name}_proj.weight", shape
        yield f"{layer}self_attn.o_proj.weight", [hidden, queries]
        full = config["model_type"] == "olmoe"  # its norms of queries and keys span all heads
        yield f"{layer}self_attn.q_norm.weight", [queries if full else head]
        yield f"{layer}self_attn.k_norm.weight", [keys if full else head]
        yield f"{layer}input_layernorm.weight", [hidden]
        yield f"{layer}post_attention_layernorm.weight", [hidden]
        experts = config.get("num_experts", 0)
        if experts:
            yield f"{layer}mlp.gate.weight", [experts, hidden]
        for mlp in [f"{layer}mlp.experts.{e}." for e in range(experts)] or [f"{layer}mlp."]:
            yield f"{mlp}gate_proj.weight", [inner, hidden]
            yield f"{mlp}up_proj.weight", [inner, hidden]
            yield f"{mlp}down_proj.weight", [hidden, inner]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [config["vocab_size"], hidden]


def write_folder(folder: Path, config: dict, shard_bytes: int = 4 * 10**9) -> int:
    """A Hugging Face folder in bfloat16 whose files are sparse; returns the number of its tensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict] = [{}]
    end = 0
    for name, shape in tensors(config):
        begin = end if end < shard_bytes else 0
        if end >= shard_bytes:
            shards.append({})
        end = begin + 2 * shape[0] * (shape[1] if shape[1:] else 1)
        shards[-1][name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        header = json.dumps(shard).encode()
        with open(folder / file, "wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            stream.truncate(8 + len(header) + max(entry["data_offsets"][1] for entry in shard.values()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return len(weight_map)


def starts(scratch: Path) -> list[Start]:
    """All commands, the bare imports first."""

    def command(line: str, goal: float | None = None, what: str | None = None) -> Start:
        return Start(what or line, ["-m", "lit_recycle.cli", *shlex.split(line)], goal)

    counts = {name: write_folder(scratch / name, c) for name, c in (("olmoe", OLMOE), ("moe", QWEN_MOE), ("q", QWEN))}
    grow = f"grow {scratch}/{{}} {scratch}/grown --dry-run "
    quick = "--config configs/quickstart.yaml"
    return [
        *(Start(f'python -c "{code}"', ["-c", code]) for code in ("pass", "import torch", "import lightning")),
        command("--help", LIGHT_GOAL),
        command("families", LIGHT_GOAL),
        command(f"plan {quick}", TORCH_GOAL),
        command("plan --config configs/paper_70b.yaml", TORCH_GOAL),
        command(f"plan {quick} --world-size 8", TORCH_GOAL),
        command(
            grow.format("olmoe") + "--width 2", LIGHT_GOAL, f"grow --dry-run, OLMoE-1B-7B, {counts['olmoe']:,} tensors"
        ),
        command(
            grow.format("moe") + "--depth 2 --width 2",
            LIGHT_GOAL,
            f"grow --dry-run, Qwen3-235B-A22B, {counts['moe']:,} tensors",
        ),
        command(grow.format("q") + "--upcycle 8", TORCH_GOAL, "grow --dry-run --upcycle 8, Qwen3-8B"),
        *(command(f"{name} --help") for name in ("import", "export", "generate", "report", "fit")),
        command(f"fit {quick} --print_config"),
    ]


def heavy_modules(start: Start) -> list[str]:
    """What a command imports of `HEAVY`, from Python's own account of it."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *start.arguments], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"{start.what} failed:\n{run.stderr[-2000:]}")
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in imported]


def race(commands: list[Start], rounds: int) -> list[float]:
    """Seconds of each command, the median of its turns."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds):
        for start, turns in zip(commands, times, strict=True):
            began = time.perf_counter()
            subprocess.run([sys.executable, *start.arguments], cwd=ROOT, check=True, capture_output=True)
            turns.append(time.perf_counter() - began)
    return [statistics.median(turns) for turns in times]


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        commands = starts(Path(scratch))
        imports = [heavy_modules(start) for start in commands]  # this also brings their files into memory
        seconds = race(commands, options.rounds)
    table = Table("command", "seconds", "goal", "imports", title="Start-up")
    slowest: dict[str, tuple[float, str]] = {}
    for start, took, heavy in zip(commands, seconds, imports, strict=True):
        goal = f"< {start.goal} s" if start.goal else ""
        missed = start.goal is not None and took >= start.goal
        table.add_row(start.what, f"{took:.2f}", f"{goal}{' MISSED' if missed else ''}", ", ".join(heavy) or "–")
        if start.goal:
            slowest[goal] = max(slowest.get(goal, (0.0, "")), (took, start.what))
    Console().print(table)
    bare = f"import torch: {seconds[1]:.2f} s"
    return [
        Row(f"start-up, the slowest: {what}", f"{took:.2f} s", bare, f"{took / seconds[1]:.2f} ×", goal)
        for goal, (took, what) in slowest.items()
    ]


if __name__ == "__main__":
    main()
