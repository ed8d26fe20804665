"""Folders of one model with different weights, as branches of it are: held against each other. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_recycle.hub.reader import HFFolder, open_folder, read_json

OF_NO_ACCOUNT = frozenset(
    ("_name_or_path", "architectures", "auto_map", "bos_token_id", "dtype", "eos_token_id", "initializer_range")
    + ("pad_token_id", "torch_dtype", "transformers_version", "use_cache")
)
"""Config keys in which models may differ that compute the same function of the same weights."""
TOKENIZER = "tokenizer.json"


def open_alike(folder: HFFolder, others: Sequence[str | Path]) -> tuple[HFFolder, ...]:
    """Open further folders.

    Raises:
        ValueError: For one that cannot be read or is of another model than the first.
    """
    opened = tuple(open_folder(path) for path in others)
    for other in opened:
        check_alike(folder, other)
    return opened


def check_alike(folder: HFFolder, other: HFFolder) -> None:
    """Raises ``ValueError`` for folders of different models, naming the first difference."""
    both = f"{folder.path} and {other.path} are not of one model"
    first = ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"]
    keys = dict.fromkeys([*first, *sorted({*folder.config, *other.config} - OF_NO_ACCOUNT)])
    for key in keys:
        a, b = folder.config.get(key), other.config.get(key)
        if a != b:
            raise ValueError(f"{both}: {key} is {_said(a)} in the one and {_said(b)} in the other")
    if lacking := sorted(folder.tensors.keys() ^ other.tensors.keys()):
        where = folder if lacking[0] in folder.tensors else other
        raise ValueError(f"{both}: of the two {where.path} alone holds {lacking[0]}")
    for name, stored in folder.tensors.items():
        if stored.shape != other.tensors[name].shape:
            shapes = f"{list(stored.shape)} in the one and {list(other.tensors[name].shape)} in the other"
            raise ValueError(f"{both}: {name} is {shapes}")
    if _vocabulary(folder) != (_vocabulary(other) or _vocabulary(folder)):
        raise ValueError(f"{both}: the vocabularies of their {TOKENIZER} differ, so that their embeddings do, too")


def _said(value: Any) -> str:
    return "not given" if value is None else str(value)


def _vocabulary(folder: HFFolder) -> Any:
    """The tokenizer's pieces and their ids; None where the folder has none."""
    path = folder.path / TOKENIZER
    return read_json(path).get("model", {}).get("vocab") if path.is_file() else None
