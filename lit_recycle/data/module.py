"""`TextData`: a text corpus as a LightningDataModule whose training stream resumes at the exact sample."""

import os
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler
from typing_extensions import override

from lit_recycle.data.batches import Batch, EvalBatches, Samples, StreamLoader, TokenBatches
from lit_recycle.data.config import DataDefaults
from lit_recycle.data.corpus import Corpus, prepare_corpus
from lit_recycle.data.sources import PYTHON_STDLIB
from lit_recycle.data.tokenizer import Tokenizer, load_tokenizer

_DEFAULT = DataDefaults()
# What Lightning warns of and does not apply here: gathering a batch takes a fraction of a millisecond, and the
# position of the stream is restored by the data module, not by the loader.
_NOT_APPLICABLE = (".*does not have many workers.*", ".*your dataloader is not resumable.*")


class TextData(LightningDataModule):
    """Tokenises text once and streams it as batches of fixed length.

    Batches are dicts of "input_ids" and "labels", int64 of shape [batch_size, seq_len], labels already shifted by one.
    The training stream is endless: limit a run with `max_steps`, or with `limit_train_batches` and `max_epochs`. Its
    position is the `samples_seen` of the LightningModule: the samples trained on by all replicas, counted before the
    callbacks' `on_train_batch_end` (in `training_step` or `optimizer_step`) and restored from the checkpoint. A run
    may resume with another number of processes or `batch_size`: every sample of an epoch is still seen once. With
    another corpus, `seq_len` or `seed` it goes on at the start of the new stream, and says so.

    Args:
        path: A file, a folder (read recursively), a glob or a list of these; or "python-stdlib", the standard library
            of the running Python. Text and source files are documents; .jsonl (also .gz) and .parquet hold one each
            per line or row.
        tokenizer: "bytes", or the path of a Hugging Face tokenizer.json.
        text_field: Key or column that holds the text in .jsonl and .parquet.
        seq_len: Tokens per sample that the model reads, and predicts.
        batch_size: Samples per process and micro-batch.
        val_fraction: Share of the documents that is kept for validation, chosen by their content; where that chooses
            none, as with one book, this share of the tokens, at the end.
        seed: Of the order of the training samples. The validation split and its order do not depend on it.
        cache_dir: Where tokenised corpora are kept.
        num_workers: Processes that gather batches ahead; 0 gathers in the training process.

    Raises:
        ValueError: an argument is out of range.

    Example::

        data = TextData(path="books/", seq_len=512)
        trainer.fit(model, datamodule=data)
    """

    def __init__(
        self,
        path: str | list[str] = _DEFAULT.path,
        tokenizer: str = _DEFAULT.tokenizer,
        text_field: str = _DEFAULT.text_field,
        seq_len: int = _DEFAULT.seq_len,
        batch_size: int = _DEFAULT.batch_size,
        val_fraction: float = _DEFAULT.val_fraction,
        seed: int = _DEFAULT.seed,
        cache_dir: str = _DEFAULT.cache_dir,
        num_workers: int = _DEFAULT.num_workers,
    ) -> None:
        super().__init__()
        _at_least(1, seq_len=seq_len, batch_size=batch_size)
        _at_least(0, num_workers=num_workers)
        if not 0 < val_fraction < 1:
            raise ValueError(
                f"val_fraction={val_fraction} must lie between 0 and 1; to not validate set limit_val_batches=0."
            )
        self.path, self.tokenizer_spec, self.text_field = path, tokenizer, text_field
        self.seq_len, self.batch_size, self.num_workers = seq_len, batch_size, num_workers
        self.val_fraction, self.seed, self.cache_dir = val_fraction, seed, cache_dir
        self._folder: Path | None = None
        self._samples_seen = 0  # without a trainer, whose module counts
        self._stream_start = 0  # samples_seen when the present stream began
        self._restored: dict[str, Any] | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded on first use; raises ValueError where the file is missing or not a tokenizer."""
        return load_tokenizer(self.tokenizer_spec)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of one micro-batch of one process."""
        return self.batch_size * self.seq_len

    @property
    def bytes_per_token(self) -> float:
        """Of the validation split: bits per byte = loss / ln 2 / bytes_per_token."""
        return self.corpus.val.bytes_per_token

    @override
    def prepare_data(self) -> None:
        self._folder = prepare_corpus(self.path, self.tokenizer, self.cache_dir, self.text_field, self.val_fraction)

    @override
    def setup(self, stage: str | None = None) -> None:
        """Open the corpus that the first process has prepared.

        Raises:
            ValueError: a split is shorter than one sample, or the trainer or its module cannot work with a stream.
        """
        folder = self._folder
        if self.trainer is not None:
            folder = self.trainer.strategy.broadcast(folder)
            if stage == "fit":
                _check_trainer(self.trainer)
        assert folder is not None, "prepare_data comes before setup"
        self.corpus = Corpus.open(folder)
        self._train = Samples(self.corpus.train, self.seq_len)
        self._val = Samples(self.corpus.val, self.seq_len)

    @property
    def _replicas(self) -> dict[str, int]:
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return kwargs or {"num_replicas": 1, "rank": 0}

    @property
    def samples_seen(self) -> int:
        """Samples trained on by the whole run, over all processes."""
        return self._samples_seen if self.trainer is None else cast(int, self.trainer.lightning_module.samples_seen)

    @override
    def train_dataloader(self) -> StreamLoader:
        """The endless stream, from the sample after the last one trained on.

        Raises:
            ValueError: the module has not restored its `samples_seen` from the checkpoint.
        """
        self._adopt_restored_stream()
        replicas = self._replicas
        stream = TokenBatches(
            self._train, self.batch_size, self.seed, rank=replicas["rank"], world_size=replicas["num_replicas"]
        )
        return StreamLoader(stream, lambda: self.samples_seen - self._stream_start, **self._loader_options())

    @override
    def val_dataloader(self) -> DataLoader[Batch]:
        """Every whole batch of the validation split once, as many on each process as on the others.

        Raises:
            ValueError: the split has fewer samples than there are processes.
        """
        replicas = self._replicas
        batch_size = min(self.batch_size, len(self._val) // replicas["num_replicas"])
        if not batch_size:
            raise ValueError(
                f"The validation split has {len(self._val)} samples for {replicas['num_replicas']} processes; raise "
                "val_fraction or lower seq_len."
            )
        batches = EvalBatches(self._val, batch_size)
        # A DistributedSampler of our own, for Lightning would put one here that repeats batches to fill up.
        sampler: DistributedSampler[Batch] = DistributedSampler(batches, **replicas, shuffle=False, drop_last=True)
        keep = self.num_workers > 0
        return DataLoader(batches, batch_size=None, sampler=sampler, persistent_workers=keep, **self._loader_options())

    @override
    def test_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()

    @override
    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.val_dataloader()

    def _loader_options(self) -> dict[str, Any]:
        for message in _NOT_APPLICABLE:
            warnings.filterwarnings("ignore", message)
        return {"num_workers": self.num_workers, "pin_memory": torch.cuda.is_available()}

    def _stream_identity(self) -> dict[str, Any]:
        """What decides which tokens a position of the stream holds."""
        return {"corpus": self.corpus.key, "seq_len": self.seq_len, "seed": self.seed}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain types: the position, the stream that it is a position of, and the whole tokenizer."""
        if self._restored is not None:  # nothing was trained since
            return self._restored
        return {
            "samples_seen": self.samples_seen,
            "stream_start": self._stream_start,
            **self._stream_identity(),
            "tokenizer": self.tokenizer.to_dict(),
            "arguments": self._arguments(),
        }

    def _arguments(self) -> dict[str, Any]:
        """What decides the validation data, so that a checkpoint can be evaluated on it without being told."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        absolute = [p if p == PYTHON_STDLIB else os.path.abspath(os.path.expanduser(p)) for p in paths]
        return {
            "path": absolute[0] if isinstance(self.path, str) else absolute,
            "tokenizer": self.tokenizer_spec,
            "text_field": self.text_field,
            "seq_len": self.seq_len,
            "batch_size": self.batch_size,
            "val_fraction": self.val_fraction,
            "cache_dir": os.path.abspath(self.cache_dir),
        }

    def use_tokenizer(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's own tokenizer, whatever has become of the file that it was made of."""
        self.__dict__["tokenizer"] = Tokenizer.from_dict(state)  # where the cached property keeps it

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the checkpoint's tokenizer is not this one, so that its model would read other ids.
        """
        theirs = Tokenizer.from_dict(state_dict["tokenizer"])
        if theirs.fingerprint != self.tokenizer.fingerprint:
            raise ValueError(
                f"tokenizer={self.tokenizer_spec!r} ({self.vocab_size} ids) is not the tokenizer that the checkpoint "
                f"was trained with ({theirs.vocab_size} ids); set tokenizer to that one."
            )
        self._restored, self._samples_seen = state_dict, state_dict["samples_seen"]

    def _adopt_restored_stream(self) -> None:
        """Go on in the checkpoint's stream where it is ours, and start ours where it is not."""
        if (restored := self._restored) is None:
            return
        if restored["samples_seen"] != self.samples_seen:
            raise ValueError(
                f"The checkpoint was written after {restored['samples_seen']} samples but the model says "
                f"{self.samples_seen}; a LightningModule must restore samples_seen from the checkpoint."
            )
        ours = self._stream_identity()
        changed = [f"{name} was {restored[name]}, is {ours[name]}" for name in ours if restored[name] != ours[name]]
        self._stream_start = restored["samples_seen"] if changed else restored["stream_start"]
        self._restored = None
        if changed:
            rank_zero_warn(f"Training goes on at the start of another stream of samples: {'; '.join(changed)}.")


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}.")


def _check_trainer(trainer: Trainer) -> None:
    module = trainer.lightning_module
    if not isinstance(getattr(module, "samples_seen", None), int):
        raise ValueError(
            f"{type(module).__name__} needs an int attribute samples_seen, the samples trained on so far by all "
            "processes, for TextData to resume at the right sample."
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError("overfit_batches does not work with an endless stream; set path to a small file instead.")
