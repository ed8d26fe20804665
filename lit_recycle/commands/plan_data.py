"""Tokens and epochs of each data source over a planned run."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from lit_recycle.commands.errors import sentence
from lit_recycle.data.config import CORPUS, DataDefaults, DataStage, Source, check_growths, check_sources
from lit_recycle.data.opened import Preparation
from lit_recycle.data.stream import Stream, StreamSource, check_repetitions
from lit_recycle.data.tokenizer import load_tokenizer
from lit_recycle.text import human


def source_rows(data: Mapping[str, Any], *, tokens: int, borders: Sequence[int]) -> list[dict[str, Any]]:
    """A row per source: plain types; what is not known before the data has been tokenised is None.

    Args:
        data: The part of the configuration.
        tokens: Training tokens of the whole run.
        borders: Training tokens at the end of the first step after each growth; 0 for those in the model's past.

    Raises:
        ValueError: For sources and stages that ``fit`` would refuse, and where a source is repeated too often.
    """
    sources, stages = _parsed(data)
    check_growths(stages, len(borders))
    seq_len = data.get("seq_len", DataDefaults().seq_len)
    sizes = _sizes(data, sources)
    growths = tuple(-(-tokens // seq_len) for tokens in borders)
    drawable = tuple(StreamSource(s.name, s.name, max(((sizes[s.name] or 0) - 1) // seq_len, 1)) for s in sources)
    stream = Stream(drawable, tuple(stages), seq_len, seed=0, growths=growths)
    check_repetitions(stream, {s.name: s.max_epochs for s in sources if sizes[s.name]}, tokens)
    drawn, epochs = stream.tokens_by(tokens), stream.epochs_by(tokens)
    return [
        {
            "source": s.name,
            "tokens": sizes[s.name],
            "tokens_drawn": drawn[s.name],
            "epochs": epochs[s.name] if sizes[s.name] else None,
            "max_epochs": s.max_epochs,
        }
        for s in sources
    ]


def print_sources(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line per source."""
    table = Table(title="data")
    for name in ("source", "tokens in it", "tokens of the run", "share", "epochs", "at most"):
        table.add_column(name, justify="left" if name == "source" else "right")
    total = max(sum(row["tokens_drawn"] for row in rows), 1)
    for row in rows:
        table.add_row(
            row["source"],
            "not tokenised yet" if row["tokens"] is None else human(row["tokens"]),
            human(row["tokens_drawn"]),
            f"{row['tokens_drawn'] / total:.1%}",
            "–" if row["epochs"] is None else f"{row['epochs']:.3g}",
            "–" if row["max_epochs"] is None else f"{row['max_epochs']:g}",
        )
    console.print(table)


def _parsed(data: Mapping[str, Any]) -> tuple[list[Source], list[DataStage]]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data.sources", type=list[Source] | None)
    parser.add_argument("--data.stages", type=list[DataStage] | None)
    try:
        values = {"data": {key: data[key] for key in ("sources", "stages") if key in data}}
        parsed = parser.instantiate(parser.parse_object(values)).data
    except ArgumentError as error:
        raise ValueError(sentence(error, parser.get_defaults().keys())) from error
    if parsed.sources is not None and data.get("path") is not None:
        raise ValueError("data.path and data.sources exclude each other: set data.path to null")
    sources = parsed.sources or [Source(CORPUS, data.get("path") or DataDefaults().path)]
    return sources, check_sources(sources, parsed.stages or [])


def _sizes(data: Mapping[str, Any], sources: Sequence[Source]) -> dict[str, int | None]:
    """Tokens of each source by name; None where the data is elsewhere, or has not been tokenised."""
    values = {**vars(DataDefaults()), **data}
    try:
        tokenizer = load_tokenizer(values["tokenizer"])
    except (ValueError, ModuleNotFoundError):  # a plan can be made on another machine than the run
        return {source.name: None for source in sources}
    how = Preparation(tokenizer, values["cache_dir"], values["text_field"], values["val_fraction"])
    return {source.name: _size(how, source) for source in sources}


def _size(how: Preparation, source: Source) -> int | None:
    try:
        return how.tokens(source)
    except (ValueError, OSError):
        return None
