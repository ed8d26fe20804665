"""Growing a checkpoint on disk: memory and speed against ``cp`` of as many bytes, and against two other ways to do it.

    python benchmarks/disk.py
    python benchmarks/disk.py --gigabytes 8 --repeat 3 --mergekit VENV/bin/mergekit-yaml

Writes a synthetic Mixtral checkpoint in bfloat16 and grows it ×2 in depth and ×2 in width. Before and after each growth
``cp`` copies the source twice, which is as many bytes, read and written on the same disk; the source is put out of the
page cache before each. A ratio is that of a growth to the mean of the ``cp`` before and after it; of several rounds the
one with the middle ratio is reported. Times end when the process ends, as ``cp`` is
usually timed, and when the disk has everything (``sync``). CPU seconds tell what a busy machine hides. Memory is the
largest resident set. The rivals of depth growth: transformers loads the model, copies its layers and saves it, where
the machine has the memory; mergekit, in an environment of its own, merges the same slices. Their tensors must be ours.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from contest import resident
from safetensors import safe_open
from table import Row

from lit_recycle.hub.reader import open_folder
from lit_recycle.hub.transform import write
from lit_recycle.hub.writer import ShardFiles, Spec, lay_out, write_json

HIDDEN, EXPERT, EXPERTS = 2048, 2560, 16
BYTES_PER_LAYER = 2 * EXPERTS * 3 * HIDDEN * EXPERT

IN_MEMORY = """
import copy, sys
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
layers = [layer for old in model.model.layers for layer in (old, copy.deepcopy(old))]
for i, layer in enumerate(layers):
    layer.self_attn.layer_idx = i
model.model.layers = torch.nn.ModuleList(layers)
model.config.num_hidden_layers = len(layers)
model.save_pretrained(sys.argv[2])
"""


class Found(NamedTuple):
    """What a command took."""

    seconds: float
    synced: float
    cpu: float
    resident: float
    """MB."""


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("disk-benchmark"), help="on the disk to be measured")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the source")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the middle one is reported")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of an environment that has mergekit")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True)
    try:
        return run(args.folder, args.gigabytes, args.repeat, args.mergekit)
    finally:
        shutil.rmtree(args.folder)


def run(folder: Path, gigabytes: float, repeat: int, mergekit: Path | None) -> list[Row]:
    source = folder / "source"
    layers = synthesize(source, max(2, round(gigabytes * 1e9 / BYTES_PER_LAYER)))
    nbytes = open_folder(source).nbytes
    print(f"source: {nbytes / 1e9:.2f} GB, {layers} layers of {EXPERTS} experts, bfloat16, {os.cpu_count()} cores")
    print(f"{'':32}{'GB':>8}{'s':>8}{'GB/s':>8}{'s synced':>11}{'CPU s':>8}{'MB resident':>13}{'x cp':>7}{'synced':>9}")
    copy_source(folder, source)  # so that nobody is the first to touch the machine's memory
    rows, commands = [], {"depth x2": ["--depth", "2"], "width x2, noise 0.01": ["--width", "2"]}
    for name, options in commands.items():
        ours, cp = against_cp(folder, source, options, repeat)
        written = open_folder(folder / "grown").nbytes
        report("cp, twice the source", 2 * nbytes, cp, cp)
        report(f"lit-recycle {name}", written, ours, cp)
        rates = written / 1e9 / ours.seconds, 2 * nbytes / 1e9 / cp.seconds
        mine = f"{rates[0]:.2f} GB/s, {ours.resident:.0f} MB"
        what = f"grow {name} on disk, {nbytes / 1e9:.0f} GB"
        rows.append(Row(what, mine, f"cp {rates[1]:.2f} GB/s", f"{rates[0] / rates[1]:.2f} ×", "≥ 0.6 ×, < 1500 MB"))
        if name.startswith("depth"):
            for rival, found in rivals(folder, source, layers, mergekit):
                report(rival, written, found, cp)
                theirs, ratio = f"{rival} {found.seconds:.0f} s, {found.resident:.0f} MB", found.seconds / ours.seconds
                mine = f"{ours.seconds:.0f} s, {ours.resident:.0f} MB"
                rows.append(Row(what, mine, theirs, f"{ratio:.1f} × faster", "> 1 ×"))
    return rows


def against_cp(folder: Path, source: Path, options: list[str], repeat: int) -> tuple[Found, Found]:
    """The round with the middle ratio: ours, and the mean of ``cp`` before and after it."""
    rounds, before = [], copy_source(folder, source)
    for _ in range(repeat):
        ours, after = grow(folder, source, options), copy_source(folder, source)
        cp = Found(*((a + b) / 2 for a, b in zip(before, after, strict=True)))
        rounds.append((ours, cp))
        before = after
    return sorted(rounds, key=lambda pair: pair[1].seconds / pair[0].seconds)[repeat // 2]


def grow(folder: Path, source: Path, options: list[str]) -> Found:
    grown = folder / "grown"
    shutil.rmtree(grown, ignore_errors=True)
    forget(source)
    return measure([sys.executable, "-m", "lit_recycle.cli", "grow", str(source), str(grown), *options])


def copy_source(folder: Path, source: Path) -> Found:
    forget(source)
    files = " ".join(str(path) for path in sorted(source.glob("*.safetensors")))
    a, b = folder / "a", folder / "b"
    found = measure(["sh", "-c", f"mkdir {a} {b} && cp {files} {a} && cp {files} {b}"])
    shutil.rmtree(a)
    shutil.rmtree(b)
    return found


def forget(source: Path) -> None:
    """Put the source out of the page cache."""
    os.sync()
    for path in source.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(command: list[str]) -> Found:
    os.sync()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while (status := process.poll()) is None:
        peak = max(peak, resident("VmHWM", process.pid))  # getrusage would count the process that started it too
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    os.sync()
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Found(seconds, time.perf_counter() - start, cpu, peak / 1e6)


def report(name: str, nbytes: int, found: Found, cp: Found) -> None:
    """A line of the table; the ratios are of rates, in bytes per second."""
    rate, size = nbytes / 1e9 / found.seconds, nbytes / 1e9
    print(
        f"{name:32}{size:8.2f}{found.seconds:8.1f}{rate:8.2f}{found.synced:11.1f}{found.cpu:8.1f}"
        f"{found.resident:13.0f}{cp.seconds / found.seconds:7.2f}{cp.synced / found.synced:9.2f}",
        flush=True,
    )


def synthesize(folder: Path, layers: int) -> int:
    """A Mixtral checkpoint of random bfloat16 weights, as the hub would have it."""
    folder.mkdir()
    config = dict(
        architectures=["MixtralForCausalLM"], model_type="mixtral", vocab_size=1024, hidden_size=HIDDEN,
        intermediate_size=EXPERT, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=4,
        num_local_experts=EXPERTS, num_experts_per_tok=2, rms_norm_eps=1e-5, rope_theta=1e6, torch_dtype="bfloat16",
        tie_word_embeddings=False, max_position_embeddings=4096, hidden_act="silu", sliding_window=None,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    vocabulary = {f"w{i}": i for i in range(1024)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
    write_json(folder / "tokenizer.json", {"version": "1.0", "model": model, "added_tokens": []})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    specs = [Spec(name, "BF16", shape) for name, shape in tensors(layers)]
    pool = torch.randn(HIDDEN * EXPERT * 2).mul_(0.02).bfloat16()
    with ShardFiles(folder, shards := lay_out(specs, 2 * 10**9)) as files:
        assert shards
        for i, spec in enumerate(specs):
            count = spec.nbytes // 2
            start = i * 997 % (len(pool) - count + 1)
            write(pool[start : start + count], "BF16", files[spec.name])
    return layers


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    kv = HIDDEN // 4
    yield "model.embed_tokens.weight", (1024, HIDDEN)
    for i in range(layers):
        at = f"model.layers.{i}"
        yield f"{at}.block_sparse_moe.gate.weight", (EXPERTS, HIDDEN)
        for e in range(EXPERTS):
            for name, shape in (("w1", (EXPERT, HIDDEN)), ("w2", (HIDDEN, EXPERT)), ("w3", (EXPERT, HIDDEN))):
                yield f"{at}.block_sparse_moe.experts.{e}.{name}.weight", shape
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv), ("o", HIDDEN)):
            yield f"{at}.self_attn.{name}_proj.weight", (rows, HIDDEN)
        yield f"{at}.input_layernorm.weight", (HIDDEN,)
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (1024, HIDDEN)


def rivals(folder: Path, source: Path, layers: int, mergekit: Path | None) -> Iterator[tuple[str, Found]]:
    """Other ways to what stands in ``grown``, each checked against it."""
    theirs, needed = folder / "theirs", 4.5 * open_folder(source).nbytes
    if needed < (free := os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        forget(source)
        yield "transformers", measure([sys.executable, "-c", IN_MEMORY, str(source), str(theirs)])
        check(folder / "grown", theirs)
    else:
        print(f"transformers left out: needs {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} are free")
    if mergekit is not None:
        model = str(source.resolve())  # mergekit may take a relative path for a name on the hub, and ask there
        slices = [{"sources": [{"model": model, "layer_range": [i, i + 1]}]} for i in range(layers) for _ in "ab"]
        recipe = {"merge_method": "passthrough", "dtype": "bfloat16", "slices": slices}
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        forget(source)
        yield "mergekit", measure([str(mergekit), str(folder / "recipe.yaml"), str(theirs), "--lazy-unpickle"])
        check(folder / "grown", theirs)


def check(grown: Path, theirs: Path) -> None:
    """Hold every tensor of theirs against ours, and remove theirs."""
    ours, other, used = open_folder(grown).tensors, open_folder(theirs).tensors, set()
    for name in other:
        parts = our_names(name)
        whole = [torch.cat([read(ours[part]) for part in row]) for row in parts]
        assert torch.equal(whole[0] if len(parts) == 1 else torch.stack(whole), read(other[name])), name
        used |= {part for row in parts for part in row}
    assert used == ours.keys(), sorted(used ^ ours.keys())[:5]
    shutil.rmtree(theirs)


def our_names(name: str) -> list[list[str]]:
    """Others may write experts fused, as transformers holds them: the names of the parts, expert by expert."""
    at = name.replace(".mlp.", ".block_sparse_moe.")
    for fused, matrices in (("experts.gate_up_proj", ("w1", "w3")), ("experts.down_proj", ("w2",))):
        if at.endswith(fused):
            at = at.removesuffix(fused)
            return [[f"{at}experts.{e}.{m}.weight" for m in matrices] for e in range(EXPERTS)]
    return [[at]]


def read(tensor) -> torch.Tensor:
    with safe_open(tensor.path, "pt") as file:
        return file.get_tensor(tensor.name)


if __name__ == "__main__":
    main()
