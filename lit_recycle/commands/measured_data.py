"""Data that an evaluation measures: what the checkpoint's run has split off and named, unless other data is given."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.data.config import DataDefaults

MEASURE = ("validate", "test", "predict")
"""Commands that evaluate."""


def check_checkpoint_option(command: str, ckpt_path: str | None, has_config: bool) -> None:
    """Raises ``ValueError`` for an empty text, or for ``last`` of a run whose data nobody has told."""
    if ckpt_path == "":
        raise ValueError("--ckpt_path is an empty text: give a checkpoint, or `last` for the newest of the run")
    if command in MEASURE and ckpt_path == "last" and not has_config:
        raise ValueError(
            f"{command} --ckpt_path last needs the run's configuration (--config), which says on what data; a "
            "checkpoint that is named brings its own"
        )


def data_of_checkpoint(path: str, said: Namespace, command: str) -> dict[str, Any]:
    """Keys of the data that a checkpoint was trained on, for whoever says nothing else.

    Args:
        path: The checkpoint.
        said: What is configured under ``data``.
        command: Which says what of the data it measures, where that is not the checkpoint's.

    Raises:
        ValueError: For text that would not be measured, because the run has split nothing off.
    """
    arguments = load_checkpoint(path, shards=False).get("TextData", {}).get("arguments", {})
    if said.path is None and said.sources is None:
        return {f"data.{name}": value for name, value in arguments.items()}
    share = arguments.get("val_fraction", said.val_fraction)
    if share == 0 and said.val_fraction == DataDefaults.val_fraction:
        raise ValueError(
            "nothing of data.path or data.sources would be measured: the checkpoint's run has data.val_fraction 0, "
            "and measures what data.val names; name the text there (--data.val.NAME PATH)"
        )
    if command in MEASURE:
        rank_zero_info(
            f"of data.path or data.sources the part split off for validation is measured, {share:g} of it unless "
            "data.val_fraction says otherwise; --data.val.NAME PATH measures all of a path"
        )
    return {f"data.{name}": value for name, value in arguments.items() if name not in ("path", "sources")}
