"""Defaults of the data module, readable without Lightning or torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataDefaults:
    """What a run trains on when nothing else is said; every field is explained in `lit_recycle.data.module.TextData`.

    Example::

        >>> DataDefaults().seq_len
        256
    """

    path: str = "python-stdlib"
    tokenizer: str = "bytes"
    text_field: str = "text"
    seq_len: int = 256
    batch_size: int = 16
    val_fraction: float = 0.02
    seed: int = 0
    cache_dir: str = ".cache/lit-recycle"
    num_workers: int = 0
