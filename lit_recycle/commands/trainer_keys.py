"""Keys of the trainer that Lightning takes and a run could not keep: limits, intervals, addresses, callbacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import fsspec
import lightning as L
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelPruning, Timer

from lit_recycle.addresses import is_remote, place_of, told
from lit_recycle.callbacks.text_samples import TextSamples
from lit_recycle.callbacks.waiting import WaitingTime

INSTEAD: dict[type[L.Callback], str] = {
    WaitingTime: "is in every run: leave it out of trainer.callbacks, and set --waiting_minutes",
    BatchSizeFinder: "changes a batch size that the stream of the data does not follow: set data.batch_size",
    LearningRateFinder: "sets a rate that this model does not have: set model.optimizer.init_args.lr",
    ModelPruning: "prunes by names that a growth changes: take lit_recycle.callbacks.MagnitudePruning",
}
"""Callbacks that a configuration cannot have, and what to do instead."""
SWITCHES = {"enable_progress_bar": "ProgressBar", "enable_checkpointing": "ModelCheckpoint", "logger": "RateMonitor"}
"""Keys of the trainer, and what the classes of callbacks are called that are of no use when they are false."""


def leave_out_switched_off(trainer: Namespace) -> None:
    """Without callbacks that a switch of the trainer speaks against: Lightning refuses the two together."""
    for key, name in SWITCHES.items():
        if trainer.get(key) is False and trainer.callbacks:
            trainer.callbacks = [c for c in trainer.callbacks if not c.class_path.endswith(name)]


def check_groups(config: Namespace) -> None:
    """Raises ``ValueError`` for a value where keys belong: a parser takes any from a file."""
    for name in ("trainer", "model", "data"):
        if not isinstance(config[name], Namespace):
            raise ValueError(f"{name} takes keys and values of its own ({name}: {{key: value}}), got {config[name]!r}")


def check_callbacks(callbacks: Sequence[L.Callback] | None) -> None:
    """Raises ``ValueError`` for callbacks that do not work here, or of which one would undo what another does.

    Among them are two whose states a checkpoint would keep under one name.
    """
    seen: set[str] = set()
    for callback in callbacks or []:
        for kind, way_out in INSTEAD.items():
            if isinstance(callback, kind):
                raise ValueError(f"{type(callback).__name__} {way_out}")
        has_state = type(callback).state_dict is not L.Callback.state_dict
        if not has_state and not isinstance(callback, TextSamples):
            continue
        if callback.state_key in seen:
            kept = "a checkpoint keeps the state of one" if has_state else "the text of one takes the other's place"
            raise ValueError(f"trainer.callbacks has two of {type(callback).__name__}, and {kept}: leave one out")
        seen.add(callback.state_key)


def check_numbers(trainer: Namespace) -> None:
    """Raises ``ValueError`` for numbers of the trainer that Lightning takes, or turns away without their keys."""
    for name in ("accumulate_grad_batches", "num_nodes", "log_every_n_steps", "check_val_every_n_epoch"):
        value = trainer.get(name)
        if value is not None and value < 1:
            raise ValueError(f"trainer.{name} must be at least 1, got {value}")
    check_time(trainer.max_time)
    clip, every, devices = trainer.gradient_clip_val, trainer.val_check_interval, trainer.devices
    if clip is not None and not 0 <= clip < math.inf:
        raise ValueError(f"trainer.gradient_clip_val must be a finite number and not negative, got {clip}: 0 for none")
    if isinstance(every, int | float) and not 0 < every < math.inf:
        raise ValueError(
            f"trainer.val_check_interval must be positive, got {every}: to leave validation out, set "
            "trainer.limit_val_batches 0"
        )
    if str(devices).lstrip("-").isdigit() and int(devices) < 1 and int(devices) != -1:
        raise ValueError(f"trainer.devices must be at least 1, or -1 for all there are, got {devices}")


def check_time(limit: Any) -> None:
    """Raises ``ValueError`` for a time that is none, or over at once."""
    try:
        seconds = Timer(limit).time_remaining()
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(
            f"trainer.max_time must be DD:HH:MM:SS, or in a file such as {{hours: 8}}, got {limit!r}"
        ) from error
    if seconds is not None and seconds <= 0:
        raise ValueError(f"trainer.max_time {limit} trains nothing: leave it out")


def count(batches: Any) -> Any:
    """A number of batches as Lightning takes it: 6.0 is six, as which a parser may have read ``6``; 0.5 is a share."""
    return int(batches) if isinstance(batches, float) and batches > 1 and batches.is_integer() else batches


def check_end(trainer: Namespace) -> None:
    """Raises ``ValueError`` for limits that end a run before ``max_steps``, or that no plan of its steps knows of."""
    if trainer.min_steps is not None and 0 < trainer.max_steps < trainer.min_steps:
        raise ValueError(
            f"trainer.min_steps {trainer.min_steps} is above trainer.max_steps {trainer.max_steps}, where the run "
            "ends: raise max_steps"
        )
    limit, epochs, window = count(trainer.limit_train_batches), trainer.max_epochs, trainer.accumulate_grad_batches
    if limit == 0 or epochs == 0:
        name = "limit_train_batches" if limit == 0 else "max_epochs"
        raise ValueError(f"trainer.{name} 0 trains nothing: leave it out; `lit-recycle validate` validates alone")
    if not isinstance(limit, int):
        return  # an epoch has no end
    if epochs not in (None, -1) and epochs * limit < trainer.max_steps * window:
        raise ValueError(
            f"trainer.max_epochs {epochs} of trainer.limit_train_batches {limit} end the run before trainer.max_steps "
            f"{trainer.max_steps}, and growths that come later are left out: leave max_epochs out, or lower max_steps"
        )
    if limit % window:
        raise ValueError(
            f"trainer.limit_train_batches {limit} must be a multiple of trainer.accumulate_grad_batches {window}: the "
            "last optimizer step of an epoch would have fewer micro-batches than the others"
        )


def no_validation(trainer: Namespace) -> str | None:
    """A sentence where a run would validate, and never comes to it: Lightning says nothing of that."""
    every, limit = count(trainer.val_check_interval), count(trainer.limit_train_batches)
    epochs = trainer.check_val_every_n_epoch
    batches = trainer.max_steps * trainer.accumulate_grad_batches
    in_time = every <= batches if isinstance(every, int) else every not in (None, 1.0)
    in_epoch = isinstance(limit, int) or (epochs in (None, 1) and in_time)  # without a limit an epoch has no end
    if trainer.limit_val_batches == 0 or (in_time if epochs is None else in_epoch):
        return None
    return (
        "nothing is validated in this run: set trainer.check_val_every_n_epoch to null and trainer.val_check_interval "
        f"to micro-batches, {batches} at most, or trainer.limit_val_batches to 0"
    )


def check_addresses(trainer: Namespace) -> None:
    """Raises ``ValueError`` for addresses whose package is missing, where only a disk will do, or for no folder."""
    if not trainer.default_root_dir:
        shown, parent = ("null", "None/") if trainer.default_root_dir is None else ("an empty text", "/")
        raise ValueError(
            f"trainer.default_root_dir cannot be {shown}, for ${{trainer.default_root_dir}}/checkpoints would lie in "
            f"{parent}: leave it out, or set it to . for the current folder"
        )
    if is_remote(trainer.default_root_dir):
        raise ValueError(
            f"trainer.default_root_dir {trainer.default_root_dir} must be a folder on disk, where a run has its lock "
            "and its logs: give the address to ModelCheckpoint.dirpath, and checkpoints of all kinds go there"
        )
    for callback in trainer.callbacks or ():
        arguments = callback.get("init_args") or Namespace()
        folder = place_of(arguments.get("dirpath") or "")
        if isinstance(folder, str):
            with told(folder):
                fsspec.core.url_to_fs(folder)
        elif arguments.get("dirpath"):
            arguments.dirpath = str(folder)  # Lightning takes file:// for a folder's name
