"""Single bits flipped, and stretches zeroed, in every kind of file that holds weights, tokens or a run's state."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pico
import torch
from campaign.kills import LIMIT, leave_alone
from campaign.verdicts import Trial
from damage import flip, zero
from hub.test_checksums import fetched, listed
from processes import TEXT, config, start
from runs import assert_equal
from safetensors.torch import load_file

from lit_recycle import checksums
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.data.batches import Samples, batch_of
from lit_recycle.data.corpus import Corpus, prepare_corpus
from lit_recycle.data.digests import SETTLED_NS
from lit_recycle.data.tokenizer import ByteTokenizer
from lit_recycle.growth.event import Width
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.grow import grow_folder

Harm = Callable[[Path, int], object]


def trials(seed: int, count: int, undisturbed: Path) -> Iterator[Trial]:
    """So many pieces of damage, a tenth of them stretches of zeros, round about the kinds of files."""
    file = leave_alone("one device", undisturbed) / "checkpoints/step=6.ckpt"
    folder = leave_alone("FSDP2", undisturbed) / "checkpoints/step=6.ckpt"
    shards = sorted(path.name for path in folder.glob("*.distcp"))
    kinds = [
        partial(_checkpoint, file, ""),
        *(partial(_checkpoint, folder, name) for name in ("meta.pt", ".metadata", *shards)),
        *(partial(_cache, name) for name in CACHED),
        *(partial(_hub, form, use) for form in (listed, fetched) for use in ("grow", "import")),
    ]
    for number in range(count):
        yield kinds[number % len(kinds)](zero if number % 10 == 9 else flip, seed * count + number)
    yield from (_command(file, seed * count + i) for i in range(3))


def _checkpoint(source: Path, name: str, harm: Harm, seed: int) -> Trial:
    def run(work: Path) -> int:
        path = work / source.name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
        harm(path / name if name else path, seed)
        checksums._verified.clear()
        refused_or_the_same(lambda: load_whole_checkpoint(path), lambda: load_whole_checkpoint(source), str(path))
        return 1

    return Trial(f"damage, {(name and 'sharded: ' + name) or 'a checkpoint of one file'}", str(seed), run)


CACHED = ("train.bin", "train.sums", "meta.json", "digests.json", "val.bin")


def _cache(name: str, harm: Harm, seed: int) -> Trial:
    def run(work: Path) -> int:
        text = work / "text"
        shutil.copytree(TEXT, text, ignore=shutil.ignore_patterns("__pycache__"))
        before = _everything(text, work / "cache")
        if name == "digests.json":  # kept of files that are some seconds old
            time.sleep(SETTLED_NS / 1e9 + 0.1)
            _everything(text, work / "cache")
        (found,) = (work / "cache").rglob(name)
        harm(found, seed)
        refused_or_the_same(lambda: _everything(text, work / "cache"), lambda: before, str(work / "cache"))
        return 1

    return Trial(f"damage, token cache: {name}", str(seed), run)


def _everything(text: Path, cache: Path) -> dict[str, Any]:
    """All that a run takes from a cache: every batch of both splits, and the counts."""
    with redirect_stdout(io.StringIO()):  # a progress bar for each of two hundred
        tokenizer = ByteTokenizer()
        corpus = Corpus.open(prepare_corpus(str(text), tokenizer, cache, "text", 0.1))
    found: dict[str, Any] = {}
    for name, split in (("train", corpus.train), ("val", corpus.val)):
        samples = Samples(split.ids(tokenizer.vocab_size), 32, name)
        found[name] = batch_of([samples.ids(i) for i in range(len(samples))])
        found[f"{name} counts"] = [split.tokens, split.documents, split.bytes]
    return found


def _hub(form: Callable[[Path], None], use: str, harm: Harm, seed: int) -> Trial:
    """A Hugging Face folder with checksums, as ``sha256sum`` or ``huggingface_hub`` leaves them."""

    def run(work: Path) -> int:
        pico.save(pico.build("olmoe"), "olmoe", work / "hf")
        form(work / "hf")
        expected = _made(use, work / "hf", work / "before")
        harm(work / "hf/model.safetensors", seed)
        refused_or_the_same(lambda: _made(use, work / "hf", work / "after"), lambda: expected, str(work / "hf"))
        return 1

    return Trial(f"damage, Hugging Face shard ({form.__name__}), {use}", str(seed), run)


def _made(use: str, folder: Path, out: Path) -> dict[str, Any]:
    if use == "grow":
        grow_folder(folder, out, Width(2))
        return load_file(out / "model.safetensors")
    import_folder(folder, out)
    return load_whole_checkpoint(out)["state_dict"]


def _command(source: Path, seed: int) -> Trial:
    """The real thing: a run that is asked to go on from it."""

    def run(work: Path) -> int:
        path = work / "damaged.ckpt"
        shutil.copy(source, path)
        flip(path, seed)
        argv = ("fit", "--config", config(work / "run"), "--ckpt_path", path, "--trainer.max_steps", 8)
        tried = start(*argv, log=work / "log")
        codes = tried.wait(LIMIT)
        assert codes == [2] and "Traceback" not in tried.output and str(path) in tried.errors[0], tried.output
        return 1

    return Trial("damage, `fit --ckpt_path`", str(seed), run)


def refused_or_the_same(read: Callable[[], Any], expected: Callable[[], Any], path: str) -> None:
    """Raises ``AssertionError`` where something else is read, or another exception raised than one for users."""
    try:
        found = read()
    except ValueError as error:
        assert path in str(error), f"does not name the file: {error}"
        assert "weights_only" not in str(error)
        return
    with torch.no_grad():
        assert_equal(found, expected(), "what was read")
