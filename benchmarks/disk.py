"""Growing a checkpoint on disk: memory and speed against ``cp`` of as many bytes, and against mergekit.

    python benchmarks/disk.py --gigabytes 8 --repeat 3 --mergekit VENV/bin/mergekit-yaml

Writes a synthetic Mixtral checkpoint in bfloat16 and grows it ×2 in depth and ×2 in width. Before and after each growth
``cp`` copies the source twice, which is as many bytes, read and written on the same disk; the source is put out of the
page cache before each. A ratio is that of a growth to the mean of the ``cp`` before and after it; of several rounds the
one with the middle ratio is reported. Times end when the process ends, as ``cp`` is
usually timed, and when the disk has everything (``sync``). CPU seconds tell what a busy machine hides. Memory is the
largest resident set. mergekit, in an environment of its own, merges the same slices; its tensors must be ours.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open

from lit_recycle.checkpoints.reader import open_folder
from lit_recycle.checkpoints.treat import write
from lit_recycle.checkpoints.writer import ShardFiles, Spec, lay_out, write_json

HIDDEN, EXPERT, EXPERTS = 2048, 2560, 16
BYTES_PER_LAYER = 2 * EXPERTS * 3 * HIDDEN * EXPERT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("disk-benchmark"), help="on the disk to be measured")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the source")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the best of each is reported")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of an environment that has mergekit")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    try:
        run(args.folder, args.gigabytes, args.repeat, args.mergekit)
    finally:
        shutil.rmtree(args.folder)


def run(folder: Path, gigabytes: float, repeat: int, mergekit: Path | None) -> None:
    source = folder / "source"
    layers = synthesize(source, max(2, round(gigabytes * 1e9 / BYTES_PER_LAYER)))
    nbytes = open_folder(source).nbytes
    print(f"source: {nbytes / 1e9:.2f} GB, {layers} layers of {EXPERTS} experts, bfloat16, {os.cpu_count()} cores")
    print(f"{'':32}{'GB':>8}{'s':>8}{'GB/s':>8}{'s synced':>11}{'CPU s':>8}{'MB resident':>13}{'x cp':>7}{'synced':>9}")
    copy_source(folder, source)  # so that nobody is the first to touch the machine's memory
    commands = {"depth x2": ["--depth", "2"], "width x2, noise 0.01": ["--width", "2"]}
    for name, options in commands.items():
        rounds, before = [], copy_source(folder, source)
        for _ in range(repeat):
            ours, after = grow(folder, source, options), copy_source(folder, source)
            rounds.append((ours, mean(before, after)))
            before = after
        ours, cp = sorted(rounds, key=lambda pair: pair[1]["seconds"] / pair[0]["seconds"])[repeat // 2]
        report("cp, twice the source", 2 * nbytes, cp, cp)
        report(f"lit-recycle {name}", open_folder(folder / "grown").nbytes, ours, cp)
        if name.startswith("depth") and mergekit is not None:
            compare_with_mergekit(folder, source, layers, mergekit, cp)


def mean(a: dict, b: dict) -> dict:
    return {key: (a[key] + b[key]) / 2 for key in a}


def grow(folder: Path, source: Path, options: list[str]) -> dict:
    grown = folder / "grown"
    shutil.rmtree(grown, ignore_errors=True)
    forget(source)
    return measure([sys.executable, "-m", "lit_recycle.cli", "grow", str(source), str(grown), *options])


def copy_source(folder: Path, source: Path) -> dict:
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


def measure(command: list[str]) -> dict:
    os.sync()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    resident = 0
    while (status := process.poll()) is None:
        resident = max(resident, peak_memory(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    os.sync()
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "synced": time.perf_counter() - start, "cpu": cpu, "resident": resident / 1e6}


def peak_memory(pid: int) -> int:
    """Bytes, since the program began: ``getrusage`` would count the process that started it too."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def report(name: str, nbytes: int, found: dict, cp: dict) -> None:
    """A line of the table; the ratios are of rates, in bytes per second."""
    rate, size = nbytes / 1e9 / found["seconds"], nbytes / 1e9
    ratios = [cp[key] / found[key] for key in ("seconds", "synced")]
    print(
        f"{name:32}{size:8.2f}{found['seconds']:8.1f}{rate:8.2f}{found['synced']:11.1f}{found['cpu']:8.1f}"
        f"{found['resident']:13.0f}{ratios[0]:7.2f}{ratios[1]:9.2f}",
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


def tensors(layers: int):
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


def compare_with_mergekit(folder: Path, source: Path, layers: int, mergekit: Path, cp: dict) -> None:
    """The same slices by passthrough: speed, memory, and every tensor held against ours."""
    slices = [{"sources": [{"model": str(source), "layer_range": [i, i + 1]}]} for i in range(layers) for _ in "ab"]
    recipe = {"merge_method": "passthrough", "dtype": "bfloat16", "slices": slices}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    theirs = folder / "mergekit"
    found = measure([str(mergekit), str(folder / "recipe.yaml"), str(theirs), "--lazy-unpickle"])
    report("mergekit passthrough", open_folder(theirs).nbytes, found, cp)
    ours, other, used = open_folder(folder / "grown").tensors, open_folder(theirs).tensors, set()
    for name in other:
        parts = our_names(name)
        whole = [torch.cat([read(ours[part]) for part in row]) for row in parts]
        mine = torch.stack(whole) if "experts." in name else whole[0]
        assert torch.equal(mine, read(other[name])), name
        used |= {part for row in parts for part in row}
    assert used == ours.keys(), sorted(used ^ ours.keys())[:5]
    print(f"mergekit: {len(ours):,} tensors, all equal to ours bit for bit")
    shutil.rmtree(theirs)


def our_names(name: str) -> list[list[str]]:
    """mergekit writes experts fused, as transformers holds them: the names of the parts, expert by expert."""
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
