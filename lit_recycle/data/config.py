"""Keys of the data module, readable without Lightning, torch or numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lit_recycle.data.weights import proportions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*")
"""Of sources and validation sets: they become parts of tags in the logs."""
LOGGED = frozenset(("perplexity", "bits_per_byte"))
"""What follows `loss/val_` besides names of validation sets."""
CORPUS = "corpus"
"""Name of the only source of a run without `sources`."""


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
    documents: Literal["pack", "mask"] = "pack"
    seq_len: int = 256
    batch_size: int = 16
    val_fraction: float = 0.02
    seed: int = 0
    shuffle_window: int | None = None
    cache_dir: str = ".cache/lit-recycle"
    num_workers: int = 0


@dataclass(frozen=True)
class Source:
    """One of several things that a run trains on.

    Args:
        name: What logs call it.
        path: File, folder, glob, list of these, or "python-stdlib", as for `data.path`.
        weight: Its share of the samples, in proportion to the other sources' weights; 0.7 and 0.3 are 7 and 3.
        max_epochs: Refuse a run that would see a sample of it more often than this, on average; None for no limit.
        text_field: Key or column of its text, or of its ids; that of the data module when not given.
        dtype: Integer type of `.bin` and `.npy` files without a header; uint16, or uint32 for a tokenizer with more
            than 65,536 ids, when not given.
        template: How several fields of a record are joined, as in "{document}\n{thinking}", instead of `text_field`.
        loss_on: Fields of the template whose tokens are predicted, besides the end of the document; all when empty.

    Raises:
        ValueError: a value is out of range.
    """

    name: str
    path: str | list[str]
    weight: float = 1.0
    max_epochs: float | None = None
    text_field: str | None = None
    dtype: Literal["uint16", "uint32", "int32", "int64"] | None = None
    template: str | None = None
    loss_on: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name("data.sources: name", self.name)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"the weight of source {self.name!r} must not be negative, got {self.weight}")
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise ValueError(f"max_epochs of source {self.name!r} must be above 0, got {self.max_epochs}")
        if self.template is None and self.loss_on:
            raise ValueError(f"loss_on of source {self.name!r} needs a template with these fields")
        if self.template is not None and self.text_field is not None:
            raise ValueError(f"source {self.name!r} takes a template or a text_field, not both")


@dataclass(frozen=True)
class Until:
    """The end of a stage of the data; exactly one is given.

    Args:
        tokens: Tokens that the run has trained on.
        growth: Number of growths that the model has been through; the next stage begins with the optimizer step after
            the one that the growth came before.
    """

    tokens: float | None = None
    growth: int | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.growth is None):
            raise ValueError("data.stages: until takes exactly one of tokens and growth")
        if self.tokens is not None and not 0 < self.tokens < math.inf:
            raise ValueError(f"data.stages: until.tokens must be above 0, got {self.tokens}")
        if self.growth is not None and self.growth < 1:
            raise ValueError(f"data.stages: until.growth counts growths from 1 on, got {self.growth}")


@dataclass(frozen=True)
class DataStage:
    """A stretch of a run with weights of its own.

    Args:
        weights: Weight by name of source; a source that is not named is not drawn from.
        until: Where it ends; None for the last stage.
    """

    weights: dict[str, float]
    until: Until | None = None


def check_sources(sources: Sequence[Source], stages: Sequence[DataStage]) -> list[DataStage]:
    """The stages of a run, one where none are given, whose weights name every source.

    Raises:
        ValueError: names are not unique or unknown, weights have no ratio, or stages are not in order of time.
    """
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"data.sources: two are called {sorted(twice)[0]!r}; give each a name of its own")
    whole = [*stages] or [DataStage({source.name: source.weight for source in sources})]
    for number, stage in enumerate(whole, 1):
        if unknown := sorted(stage.weights.keys() - set(names)):
            raise ValueError(f"data.stages: there is no source {unknown[0]!r} among {', '.join(names)}")
        if (stage.until is None) != (number == len(whole)):
            raise ValueError("data.stages: every stage but the last needs an until, and the last has none")
        proportions([stage.weights.get(name, 0.0) for name in names])
    ends = [stage.until for stage in whole if stage.until]
    for unit in ("tokens", "growth"):
        values = [value for end in ends if (value := getattr(end, unit)) is not None]
        if values != sorted(set(values)):
            raise ValueError(f"data.stages: until.{unit} must grow from stage to stage, got {values}")
    return [DataStage({name: stage.weights.get(name, 0.0) for name in names}, stage.until) for stage in whole]


def check_growths(stages: Sequence[DataStage], growths: int) -> None:
    """Raises ValueError for a stage that waits for a growth which a run, of so many in all, does not have."""
    for number, stage in enumerate(stages, 1):
        if stage.until and (stage.until.growth or 0) > growths:
            raise ValueError(
                f"data.stages: stage {number} lasts until growth {stage.until.growth}, and the model goes through "
                f"{growths or 'none'}: those after it would never begin; end it after tokens, or let the run grow"
            )


def check_val(val: dict[str, str | list[str]], sources: Sequence[Source]) -> dict[str, str | list[str]]:
    """Validation sets by name, as they are.

    Raises:
        ValueError: a name cannot be part of a tag, or is taken.
    """
    taken = {*LOGGED, *(source.name for source in sources)}
    for name in val:
        check_name("data.val:", name)
        if name in taken:
            raise ValueError(f"data.val: {name!r} is the name of a source or of what is logged; choose another")
    if len(sources) > 1 and (wrong := sorted(LOGGED & {source.name for source in sources})):
        raise ValueError(f"data.sources: {wrong[0]!r} is the name of what is logged; choose another")
    return val


def check_name(key: str, name: str) -> None:
    """Raises ValueError for what cannot be part of a tag."""
    if not isinstance(name, str):
        raise ValueError(f"{key} {name!r} is a number: put it between quotes")
    if not NAME.fullmatch(name):
        raise ValueError(f"{key} {name!r} must be letters, digits, dots and dashes, joined by single underscores")
