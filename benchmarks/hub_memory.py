"""Memory of reading a Hugging Face folder on two processes, and of exporting what they saved: each process its share.

    python benchmarks/hub_memory.py
    python benchmarks/hub_memory.py --gigabytes 2 --strategies fsdp2 --backends transformers

Writes an OLMoE folder in float32 and lets `lit-recycle fit --model.init_from` bring it up on two processes, without a
step, as our own model and through transformers, under FSDP and FSDP2. The peak of each process, less that of one that
brings up the same model with next to no weights, is held against the share of the weights that it keeps. Then the
sharded checkpoint is exported, in shards of a tenth of it.

What counts is a process's own memory (`RssAnon` and `RssShmem`, looked at every 2 ms). Pages of mapped files are not:
they are the page cache's, shared by all processes that map them, and given up as soon as anybody wants memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from contest import resident
from table import Row

from lit_recycle.hub.reader import open_folder
from lit_recycle.hub.transform import write
from lit_recycle.hub.writer import ShardFiles, Spec, lay_out, write_json

HIDDEN, EXPERT, EXPERTS, HEADS, VOCABULARY = 768, 384, 16, 12, 8192
BYTES_PER_LAYER = 4 * (EXPERTS * 3 * HIDDEN * EXPERT + 4 * HIDDEN * HIDDEN)
PROCESSES = 2
GOAL = 1.3


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("hub-memory-benchmark"))
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--strategies", nargs="+", default=["fsdp", "fsdp2"], choices=("fsdp", "fsdp2"))
    parser.add_argument("--backends", nargs="+", default=["native", "transformers"])
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True)
    try:
        return list(rows(args))
    finally:
        shutil.rmtree(args.folder)


def rows(args: argparse.Namespace) -> Iterator[Row]:
    layers = max(2, round(args.gigabytes * 1e9 / BYTES_PER_LAYER))
    whole, empty = args.folder / "whole", args.folder / "empty"
    synthesize(whole, layers, 1)
    synthesize(empty, layers, 48)
    total = open_folder(whole).nbytes
    share = total / PROCESSES
    print(f"{total / 1e9:.2f} GB of float32 in {layers} layers, {share / 1e6:.0f} MB for each of {PROCESSES} processes")
    for backend in args.backends:
        for strategy in args.strategies:
            checkpoint, without = (
                args.folder / f"{backend}-{strategy}-{folder.name}.ckpt" for folder in (whole, empty)
            )
            base = bring_up(empty, without, backend, strategy)
            peak = bring_up(whole, checkpoint, backend, strategy)
            yield row(f"init_from, {backend}, {strategy}, {PROCESSES} processes", peak - base, base, share, "share")
            if strategy == args.strategies[-1]:
                base, peak = (export(source, args.folder / "out", total) for source in (without, checkpoint))
                yield row(f"export, {backend}, sharded", peak - base, base, total, "model", "< 0.3 ×")
            for path in (checkpoint, without):
                shutil.rmtree(path)


def row(what: str, own: float, base: float, of: float, name: str, goal: str = f"< {GOAL} ×") -> Row:
    """A line of the table: memory beyond that of a process without weights, beside what it is held against."""
    found = Row(
        f"{what}, {of / 1e9:.2g} GB {name}",
        f"{own / 1e6:.0f} MB",
        f"without weights: {base / 1e6:.0f} MB",
        f"{own / of:.2f} × its {name}",
        goal,
    )
    print(" | ".join(found), flush=True)
    return found


def bring_up(folder: Path, checkpoint: Path, backend: str, strategy: str) -> int:
    """The larger peak of two processes that start a run from a folder and save, before the first step."""
    sharding = {"fsdp": "FSDPStrategy", "fsdp2": "FSDP2Strategy"}[strategy]
    config = {
        "trainer": {
            "accelerator": "cpu",
            "devices": PROCESSES,
            "strategy": {"class_path": f"lit_recycle.training.strategies.{sharding}"},
            "max_steps": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(checkpoint.parent / "run"),
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "check_val_every_n_epoch": None,
            "callbacks": [{"class_path": "at_start.SaveAtStart", "init_args": {"path": str(checkpoint)}}],
        },
        "model": {"init_from": str(folder), "backend": backend},
        "data": {
            "path": str(Path(__file__).parent / "*.py"),
            "tokenizer": "bytes",
            "seq_len": 32,
            "batch_size": PROCESSES,
            "cache_dir": str(checkpoint.parent / "cache"),
        },
    }
    file = checkpoint.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES), "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "lit_recycle.cli", "fit", "--config", str(file)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **there, "PYTHONPATH": paths, "RANK": str(i), "LOCAL_RANK": str(i), "NODE_RANK": "0"},
            stdout=(checkpoint.parent / f"log-{i}").open("w"),
            stderr=subprocess.STDOUT,
        )
        for i in range(PROCESSES)
    ]
    return peak_of(ranks, checkpoint.parent / "log-0", Path(f"{checkpoint}.stands"))


def export(checkpoint: Path, folder: Path, total: int) -> int:
    """The peak of a process that writes a folder of a sharded checkpoint."""
    log = folder.parent / "log-export"
    command = [sys.executable, "-m", "lit_recycle.cli", "export", str(checkpoint), str(folder)]
    options = ["--max-shard-size", f"{total // 10**7}MB"]
    with log.open("w") as output:
        peak = peak_of([subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT)], log)
    shutil.rmtree(folder)
    return peak


def peak_of(processes: list[subprocess.Popen[bytes]], log: Path, until: Path | None = None) -> int:
    """The largest memory of their own that any of these processes had, before a file appears."""
    assert until is None or not until.exists(), f"{until} is of another run"
    peak = 0
    while any(process.poll() is None for process in processes):
        held = max(resident("RssAnon", p.pid) + resident("RssShmem", p.pid) for p in processes)
        if until is None or not until.exists():  # looked for afterwards: on a busy machine time passes in between
            peak = max(peak, held)
        if any(process.poll() for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.002)
    if any(process.returncode for process in processes):
        raise SystemExit(f"failed: {log.read_text()[-2000:]}")
    return peak


def synthesize(folder: Path, layers: int, divisor: int) -> None:
    """An OLMoE folder of random float32 weights, all sizes divided."""
    hidden, expert, heads = HIDDEN // divisor, EXPERT // divisor, max(1, HEADS // divisor)
    folder.mkdir()
    config = dict(
        architectures=["OlmoeForCausalLM"], model_type="olmoe", vocab_size=VOCABULARY // divisor, hidden_size=hidden,
        intermediate_size=expert, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        num_experts=EXPERTS, num_experts_per_tok=2, norm_topk_prob=False, rms_norm_eps=1e-5, rope_theta=1e4,
        torch_dtype="float32", tie_word_embeddings=False, max_position_embeddings=4096, hidden_act="silu",
    )  # fmt: skip
    config["vocab_size"] = max(config["vocab_size"], 320)
    write_json(folder / "config.json", config)
    specs = [Spec(name, "F32", shape) for name, shape in tensors(layers, hidden, expert, int(config["vocab_size"]))]
    pool = torch.randn(max(spec.nbytes for spec in specs) // 4).mul_(0.02)
    with ShardFiles(folder, lay_out(specs, 2 * 10**8)) as files:
        for spec in specs:
            write(pool[: spec.nbytes // 4], "F32", files[spec.name])


def tensors(layers: int, hidden: int, expert: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        at = f"model.layers.{i}"
        yield f"{at}.mlp.gate.weight", (EXPERTS, hidden)
        for e in range(EXPERTS):
            for name, shape in (("gate", (expert, hidden)), ("up", (expert, hidden)), ("down", (hidden, expert))):
                yield f"{at}.mlp.experts.{e}.{name}_proj.weight", shape
        for name in "qkvo":
            yield f"{at}.self_attn.{name}_proj.weight", (hidden, hidden)
        for name in ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


if __name__ == "__main__":
    main()
