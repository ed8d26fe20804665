"""`TextData`: text and tokens as a LightningDataModule whose training stream resumes at the exact sample."""

import warnings
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader
from typing_extensions import override

from lit_recycle.data.arguments import check_sizes, kept_arguments
from lit_recycle.data.batches import ORIGIN, Batch, Reading, Samples, TokenBatches
from lit_recycle.data.config import CORPUS, DataDefaults, DataStage, Source, check_sources, check_val
from lit_recycle.data.cut import Cut
from lit_recycle.data.loader import StreamLoader
from lit_recycle.data.opened import OpenSource, Preparation, refuse_twins
from lit_recycle.data.pace import micro_batches_of, pace_of, rows_of
from lit_recycle.data.remote import is_remote
from lit_recycle.data.stream import Stream, StreamSource, check_repetitions
from lit_recycle.data.tokenizer import Tokenizer, load_tokenizer
from lit_recycle.data.validation import ValidationSet

_DEFAULT = DataDefaults()
# What Lightning warns of and does not apply here: gathering a batch takes a fraction of a millisecond, and the
# position of the stream is restored by the data module, not by the loader.
_NOT_APPLICABLE = (".*does not have many workers.*", ".*your dataloader is not resumable.*")


class TextData(LightningDataModule):
    """Tokenises text once and streams it as batches of fixed length.

    Batches are dicts of "input_ids" and "labels", int64 of shape [batch_size, seq_len], labels already shifted by one.
    The training stream is endless: limit a run with `max_steps`, or with `limit_train_batches` and `max_epochs`. Its
    rows may be shorter for a time, see `set_length`; validation is of `seq_len` throughout. Its position is the
    `samples_seen` of the LightningModule: the samples trained on by all replicas, counted before the
    callbacks' `on_train_batch_end` (in `training_step` or `optimizer_step`) and restored from the checkpoint. A run
    may resume with another number of processes or `batch_size`: every sample of an epoch is still seen once. With
    other sources or weights each source goes on after its last sample; with another `seq_len`, `seed` or
    `shuffle_window` all begin anew; either is said.

    Args:
        path: A file, a folder (read recursively), a glob or a list of these, on disk or at an address that fsspec knows
            (`s3://…`); or "python-stdlib", the standard library
            of the running Python. Text and source files are documents; .jsonl (also .gz) and .parquet hold one each
            per line or row, and the array in a .json file one per element. Or tokenised data: see
            `lit_recycle.data.formats`. "python-stdlib" when neither this nor `sources` is given.
        sources: Several sources and their weights, instead of `path`.
        stages: Weights that change during the run; see `DataStage`.
        val: Further validation sets by name, each a path; all of it is for validation. Files without a header are of
            the type that the tokenizer suggests.
        tokenizer: "bytes", or the path of a Hugging Face tokenizer.json.
        text_field: Key or column that holds the text in .jsonl, .json and .parquet.
        documents: "pack" lets the documents in a sample see those before them; "mask" keeps attention and positions
            inside each document, and leaves out the label after its end.
        seq_len: Tokens per sample that the model reads, and predicts.
        batch_size: Samples per process and micro-batch.
        val_fraction: Share of the documents that is kept for validation, chosen by their content; where that chooses
            none, as with one book, this share of the tokens, at the end. 0 keeps none, where `val` names all.
        seed: Of the order of the training samples. The validation split and its order do not depend on it.
        shuffle_window: Shuffle stretches of neighbouring samples, and then so many samples at a time, rather than all
            samples of a source, so that files on a server are read a few blocks at a time; None to shuffle all.
        cache_dir: Where tokenised corpora are kept, and what was fetched of files on servers.
        num_workers: Processes that gather batches ahead; 0 gathers in the training process.

    Raises:
        ValueError: an argument is out of range.

    Example::

        data = TextData(path="books/", seq_len=512)
        trainer.fit(model, datamodule=data)
    """

    def __init__(
        self,
        path: str | list[str] | None = None,
        sources: list[Source] | None = None,
        stages: list[DataStage] | None = None,
        val: dict[str, str | list[str]] | None = None,
        tokenizer: str = _DEFAULT.tokenizer,
        text_field: str = _DEFAULT.text_field,
        documents: Literal["pack", "mask"] = _DEFAULT.documents,
        seq_len: int = _DEFAULT.seq_len,
        batch_size: int = _DEFAULT.batch_size,
        val_fraction: float = _DEFAULT.val_fraction,
        seed: int = _DEFAULT.seed,
        shuffle_window: int | None = _DEFAULT.shuffle_window,
        cache_dir: str = _DEFAULT.cache_dir,
        num_workers: int = _DEFAULT.num_workers,
    ) -> None:
        super().__init__()
        check_sizes(seq_len, batch_size, val_fraction, shuffle_window, num_workers)
        if is_remote(cache_dir):
            raise ValueError(f"data.cache_dir {cache_dir} is an address: give a folder on a disk of this machine")
        if documents not in ("pack", "mask"):
            raise ValueError(f"data.documents must be pack or mask, got {documents!r}")
        if path is not None and sources is not None:
            raise ValueError("data.path and data.sources exclude each other: set data.path to null")
        if tokenizer is None:
            raise ValueError(
                "data.tokenizer is null: give bytes, or a tokenizer.json or its folder; where it is that of "
                "model.init_from, give that"
            )
        only = Source(CORPUS, _DEFAULT.path if path is None else path)
        self.sources: list[Source] = [only] if sources is None else sources
        self.stages = check_sources(self.sources, stages or [])
        self.val = check_val(val or {}, self.sources)
        self.tokenizer_spec, self.text_field = tokenizer, text_field
        self.documents = documents
        self.seq_len, self.batch_size, self.num_workers = seq_len, batch_size, num_workers
        self.val_fraction, self.seed, self.cache_dir = float(val_fraction), seed, cache_dir
        self.shuffle_window = shuffle_window
        self._folders: list[Path | None] = []
        self._samples_seen = 0  # without a trainer, whose module counts
        self._cut = Cut(seq_len, seq_len)
        self._rows = batch_size
        self._batches: TokenBatches | None = None
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
        """Tokens of one micro-batch of one process, at full length."""
        return self.batch_size * self.seq_len

    @property
    def _preparation(self) -> Preparation:
        apart = self.documents == "mask"
        return Preparation(self.tokenizer, self.cache_dir, self.text_field, self.val_fraction, apart)

    @override
    def prepare_data(self) -> None:
        self._folders = [how.prepare(source) for source, how in self._everything]

    @property
    def _everything(self) -> list[tuple[Source, Preparation]]:
        """What is opened: sources, then validation sets."""
        how = self._preparation
        return [(source, how) for source in self.sources] + [how.whole(*item) for item in self.val.items()]

    @override
    def setup(self, stage: str | None = None) -> None:
        """Open what the first process has prepared.

        Raises:
            ValueError: a split is shorter than one sample, or the trainer or its module cannot work with a stream.
        """
        folders = self._folders
        if self.trainer is not None:
            folders = self.trainer.strategy.broadcast(folders)
            if stage == "fit":
                _check_module(self.trainer.lightning_module)
                self.check_trainer(self.trainer)
        assert folders, "prepare_data comes before setup"
        self._batches, self._cut, self._rows = None, Cut(self.seq_len, self.seq_len), self.batch_size
        found = [how.open(source, folder) for (source, how), folder in zip(self._everything, folders, strict=True)]
        self.opened: list[OpenSource] = found[: len(self.sources)]
        refuse_twins(self.opened)
        self._train = [Samples(s.train.tokens, self.seq_len, self._title("train", s)) for s in self.opened]
        self.val_sets = [
            ValidationSet.of(
                s.name if len(self.opened) > 1 else "", s.val, self.seq_len, self._title("val", s), is_split=True
            )
            for s in self.opened
            if self.val_fraction
        ]
        self.val_sets += [
            ValidationSet.of(s.name, s.train, self.seq_len, f"The validation set {s.name!r}", is_split=False)
            for s in found[len(self.sources) :]
        ]
        drawable = tuple(
            StreamSource(source.name, source.key, len(samples))
            for source, samples in zip(self.opened, self._train, strict=True)
        )
        self.stream = Stream(drawable, tuple(self.stages), self.seq_len, self.seed, self.shuffle_window)

    def _title(self, split: str, source: OpenSource) -> str:
        return f"The {split} split" + ("" if len(self.sources) == 1 else f" of source {source.name!r}")

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
            ValueError: the module has not restored its `samples_seen` from the checkpoint, or the run would repeat a
                source more often than it may.
        """
        self._adopt_restored_stream()
        self._say_length()
        self._note_growths()
        self._check_repetitions()
        replicas = self._replicas
        self._batches = TokenBatches(
            self._train,
            self._reading(version=0),
            rank=replicas["rank"],
            world_size=replicas["num_replicas"],
            mark_origin=self.trainer is not None,
            eos_id=self._eos_id,
        )
        return StreamLoader(self._batches, lambda: self.samples_seen, **self._loader_options())

    def _say_length(self) -> None:
        """Where a checkpoint has brought it and nobody sets it."""
        if self.length != self.seq_len and self.trainer is not None and pace_of(self.trainer, self).lengths is None:
            rank_zero_info(
                f"training goes on with samples of {self.length} tokens, as the checkpoint has them: no callback says "
                f"when they reach data.seq_len {self.seq_len}"
            )

    def _reading(self, version: int) -> Reading:
        return Reading(self.stream.order(), self._cut, self._rows, self._accumulate, version)

    @property
    def _accumulate(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer is not None else 1

    @property
    def length(self) -> int:
        """Tokens of the training samples at present: `seq_len`, or fewer."""
        return self._cut.length

    def set_length(self, length: int, *, constant_tokens: bool = False) -> None:
        """Cut training samples to another length, from the next optimizer step on; to be called between two of them.

        Args:
            length: tokens of a sample, at most `seq_len`.
            constant_tokens: take more, shorter samples, so that a batch has about as many tokens as at full length.
        """
        assert 0 < length <= self.seq_len, (length, self.seq_len)
        rows = rows_of(self.batch_size, self.seq_len, length) if constant_tokens else self.batch_size
        if (length, rows) != (self.length, self._rows):
            if length != self.length:
                self._cut = self._cut.changed(length, self.samples_seen)
            self._rows = rows
            self.read_anew()

    def read_anew(self) -> None:
        """See what has changed of the order, the length or the number of micro-batches, between two optimizer steps."""
        if self._batches is not None:
            now = self._batches.reading
            changed = self._reading(now.version + 1)
            if replace(changed, version=now.version) != now:
                self._batches.reading = changed

    @property
    def _eos_id(self) -> int | None:
        """What documents end with, where they are kept apart."""
        return self.tokenizer.eos_id if self.documents == "mask" else None

    def _note_growths(self) -> None:
        """A stage that ends with a growth ends where the growth is first known of, between two optimizer steps."""
        count = len(getattr(self.trainer.lightning_module, "growth", ())) if self.trainer is not None else 0
        if count > len(self.stream.growths):
            self.stream = self.stream.after_growths(count, self._position)
            if self.stream.follows_growths:
                self.read_anew()

    @override
    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Gather a batch anew that was gathered ahead of a change that comes before it."""
        if self._batches is None or ORIGIN not in batch:
            return batch
        if batch[ORIGIN][0] == self.samples_seen:  # the first one of an optimizer step
            self._note_growths()
        return self._batches.renewed(batch, self.samples_seen)

    def _check_repetitions(self) -> None:
        """As far as it can be known: where a growth lies ahead, the stage that waits for it goes on to the end."""
        trainer = self.trainer
        if trainer is not None and trainer.max_steps > 0:
            tokens = getattr(trainer.lightning_module, "tokens_seen", self._place)
            so_far = trainer.global_step, tokens, micro_batches_of(trainer)
            to_come = pace_of(trainer, self).tokens_until(trainer.max_steps, *so_far) - tokens
            caps = {source.name: source.max_epochs for source in self.sources}
            check_repetitions(self.stream, caps, self._place + to_come)

    @property
    def _place(self) -> int:
        """Tokens of the stream that the run has behind it."""
        return self._cut.place(self.samples_seen)

    @property
    def _position(self) -> int:
        """Whole samples of the stream that the run has behind it, the one that it is in included."""
        return self._cut.position(self.samples_seen)

    def drawn(self) -> dict[str, tuple[int, float]]:
        """Tokens that the run has trained on, and how often it went through the source, for each source by name."""
        tokens, epochs = self.stream.tokens_by(self._place), self.stream.epochs_by(self._place)
        return {name: (tokens[name], epochs[name]) for name in tokens}

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises ValueError for a trainer that cannot work with a stream, or would validate on nothing."""
        if trainer.overfit_batches:  # type: ignore[attr-defined]
            raise ValueError("overfit_batches does not work with an endless stream; set path to a small file instead.")
        if trainer.limit_val_batches and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # which takes what there is
            self.check_validated()

    def check_validated(self) -> None:
        """Raises ValueError where there is nothing to validate on."""
        if not self.val_fraction and not self.val:
            raise ValueError(
                "data.val_fraction 0 keeps nothing for validation, and data.val names nothing: name a set there "
                "(data.val.NAME), or train with trainer.limit_val_batches 0"
            )

    @override
    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """For each of `val_sets` every sample once, in as many batches on each process as on the others.

        Returns:
            A loader, or a list where there are several sets.

        Raises:
            ValueError: a set has fewer samples than there are processes.
        """
        loaders = [self._val_loader(part) for part in self.val_sets]
        return loaders[0] if len(loaders) == 1 else loaders

    def _val_loader(self, part: ValidationSet) -> DataLoader[Batch]:
        return part.loader(self.batch_size, self._eos_id, self._replicas, **self._loader_options())

    @override
    def test_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self.val_dataloader()

    @override
    def predict_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self.val_dataloader()

    def _loader_options(self) -> dict[str, Any]:
        for message in _NOT_APPLICABLE:
            warnings.filterwarnings("ignore", message)
        return {"num_workers": self.num_workers, "pin_memory": torch.cuda.is_available()}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain types: the position, the stream that it is a position of, and the whole tokenizer."""
        if self._restored is not None:  # nothing was trained since
            return self._restored
        return {
            "samples_seen": self.samples_seen,
            "seq_len": self.seq_len,
            "cut": asdict(self._cut),
            "stream": self.stream.state_dict(self._position),
            "tokenizer": self.tokenizer.to_dict(),
            "arguments": kept_arguments(self),
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
        self._cut = Cut(**restored["cut"])
        self.stream, change = self.stream.resumed(restored["stream"], self._position)
        self._restored = None
        if change:
            length = min(self.length, self.seq_len)
            self._cut = Cut(self.seq_len, length, self.samples_seen, self.stream.start * self.seq_len)
            rank_zero_warn(change)


def _check_module(module: object) -> None:
    if not isinstance(getattr(module, "samples_seen", None), int):
        raise ValueError(
            f"{type(module).__name__} needs an int attribute samples_seen, the samples trained on so far by all "
            "processes, for TextData to resume at the right sample."
        )
