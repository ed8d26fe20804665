"""Tokenising a corpus beside the bare tokenizers library, and the share of a training step spent waiting for data.

    python benchmarks/data.py [--megabytes 100] [--rounds 2] [--steps 80] [--vocab-size 32000]

The corpus is real text, the Python sources on this machine, one document per file. lit-recycle's time is that of its
whole way from the folder to the files that a run maps into memory: find, hash, read, tokenise, split, write. The bare
library gets all texts in memory and makes ids of them in one call on all cores; for bytes there is no rival but
reading and writing the files. The wait is Lightning's own measurement in a run of `configs/quickstart.yaml` without
its growths.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers
import yaml
from lightning.pytorch.profilers import SimpleProfiler
from table import Row
from tokenizers import decoders, models, pre_tokenizers, trainers

from lit_recycle.commands.trainer import RecycleCLI
from lit_recycle.data.corpus import prepare_corpus
from lit_recycle.data.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
TOKENISING_GOAL, WAITING_GOAL = 0.9, 0.01


def write_corpus(folder: Path, megabytes: float) -> list[str]:
    """Copy the sources of Python and its packages, in random order, until there are enough; returns their texts."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    found = sorted({path for root in roots for path in root.rglob("*.py")})
    random.Random(0).shuffle(found)
    texts, size = [], 0
    for path in found:
        data = path.read_bytes()
        try:
            texts.append(data.decode())
        except UnicodeDecodeError:  # Python's own tests of other encodings
            continue
        (folder / f"{len(texts):06}.py").write_bytes(data)
        size += len(data)
        if size >= megabytes * 1e6:
            return texts
    return texts


def train_bpe(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level BPE as GPT-2's, trained on the first 10 MB."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    sizes = itertools.accumulate(map(len, texts))
    sample = [text for text, size in zip(texts, sizes, strict=True) if size < 10**7]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sample, trainer)
    return backend


def tokenising(megabytes: float, rounds: int, vocab_size: int) -> list[Row]:
    """Megabytes per second of each, by the median of its turns."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "corpus")
        source.mkdir()
        texts = write_corpus(source, megabytes)
        size = sum(path.stat().st_size for path in source.iterdir()) / 1e6
        bare = train_bpe(texts, vocab_size)

        def prepare(tokenizer: Tokenizer) -> None:
            with tempfile.TemporaryDirectory(dir=scratch) as cache:
                prepare_corpus(str(source), tokenizer, cache, "text", 0.02)

        def copy() -> None:
            with open(Path(scratch, "copy"), "wb") as stream:
                for path in source.iterdir():
                    stream.write(path.read_bytes())

        contestants: dict[str, Callable[[], object]] = {
            "lit-recycle, BPE": lambda: prepare(JsonTokenizer(bare.to_str())),
            "tokenizers, BPE, encode_batch_fast": lambda: bare.encode_batch_fast(texts, add_special_tokens=False),
            "tokenizers, BPE, encode_batch": lambda: bare.encode_batch(texts, add_special_tokens=False),
            "lit-recycle, bytes": lambda: prepare(ByteTokenizer()),
            "reading and writing the files": copy,
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, run in contestants.items():
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    rates = {name: size / statistics.median(turns) for name, turns in times.items()}
    print(f"tokenising {len(texts):,} documents, {size:.0f} MB, on {os.cpu_count()} cores")
    for name, rate in rates.items():
        print(f"  {name:<40}{rate:>8.1f} MB/s")
    rows = []
    for (ours, rival), kind, goal in (
        (list(rates.items())[:2], "BPE", f"≥ {TOKENISING_GOAL} ×"),
        (list(rates.items())[3:], "bytes", ""),
    ):
        ratio = f"{ours[1] / rival[1]:.2f} ×"
        print(f"  {kind}: {ratio}{goal and f', goal {goal}'}")
        rows.append(Row(f"tokenising, {kind}", f"{ours[1]:.1f} MB/s", f"{rival[0]}: {rival[1]:.1f} MB/s", ratio, goal))
    return rows


def waiting(steps: int) -> Row:
    """The share of a run's training time that the loop spends asking for the next batch."""
    config = yaml.safe_load(CONFIG.read_text())
    trainer, schedule = config["trainer"], config["model"]["lr_scheduler"]["init_args"]
    trainer["callbacks"] = [c for c in trainer["callbacks"] if not c["class_path"].endswith("GrowthCallback")]
    schedule |= {"warmup_steps": 0, "decay_steps": 0}  # nor would these fit into a short run
    with tempfile.TemporaryDirectory() as root:
        trainer |= {"max_steps": steps, "default_root_dir": root, "profiler": "simple", "accelerator": "cpu"}
        config["data"]["cache_dir"] = f"{root}/cache"
        Path(root, "config.yaml").write_text(yaml.safe_dump(config))
        cli = RecycleCLI("fit", ["--config", f"{root}/config.yaml"])
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        profiler = cli.trainer.profiler
        assert isinstance(profiler, SimpleProfiler)
    durations = profiler.recorded_durations
    waits = durations["[_TrainingEpochLoop].train_dataloader_next"]
    whole = sum(durations["run_training_epoch"])
    share, step = sum(waits) / whole, whole / steps
    print(f"waiting for data: {share:.3%} of {steps} steps of {step * 1e3:.0f} ms, goal < {WAITING_GOAL:.0%}")
    print(f"  a batch: {statistics.median(waits) * 1e3:.2f} ms in the median, {max(waits) * 1e3:.2f} ms at the most")
    ours = f"{sum(waits) / steps * 1e3:.2f} ms per step"
    return Row("waiting for data", ours, f"a step: {step * 1e3:.0f} ms", f"{share:.2%}", f"< {WAITING_GOAL:.0%}")


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--vocab-size", type=int, default=32000)
    options = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = tokenising(options.megabytes, options.rounds, options.vocab_size)
    return [*rows, waiting(options.steps)]


if __name__ == "__main__":
    main()
