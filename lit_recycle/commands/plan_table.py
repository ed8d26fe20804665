"""Table of the stages of a run that is planned, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from lit_recycle.commands.run_shape import RunShape
from lit_recycle.growth.update_rules import in_words
from lit_recycle.stage_table import print_stages
from lit_recycle.text import human, listing

WARN_FROM = 1.3
"""Share of a process, relative to the even one, from which on a plan warns."""


def print_table(run: RunShape, rows: list[dict[str, Any]]) -> None:
    """One column per stage, as many beside each other as fit; the source maps below."""
    console = Console(highlight=False, soft_wrap=False)
    total = sum(row["flops"] for row in rows)
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "from step": lambda row: f"{row['start_step']:,}",
        "from token": lambda row: human(row["start_tokens"]),
        "tokens per sample": lambda row: _range([row], "seq_len"),
        "tokens per step": lambda row: _range([row], "tokens_per_step"),
        "layers": lambda row: str(row["layers"]),
        "experts per layer": lambda row: str(row["experts"]),
        "experts per token": lambda row: str(row["top_k"]),
        "parameters": lambda row: _count_of(row["params"]),
        "active parameters": lambda row: _count_of(row["active_params"]),
        "FLOPs per token": lambda row: f"{row['flops_per_token']:.3g}",
        "FLOPs of the stage": lambda row: f"{row['flops']:.3g} ({row['flops'] / total:.0%})",
        "FLOPs before it": lambda row: f"{row['sunk_flops']:.3g}",
        "weights": lambda row: human(row["weight_bytes"], "B"),
        "gradients": lambda row: human(row["gradient_bytes"], "B"),
        "AdamW moments": lambda row: human(row["optimizer_bytes"], "B"),
    }
    if rows[0]["peak_bytes"]:
        lines["activations of a process"] = lambda row: human(row["activation_bytes"], "B")
        lines["at once, not sharded"] = lambda row: human(row["peak_bytes"], "B")
    if "trained_params" in rows[0]:
        lines["of them trained"] = lambda row: _count_of(row["trained_params"])
        lines["trained"] = lambda row: (row["event"] and in_words(row["event"])) or "all"
    if "hours" in rows[0]:
        lines["hours"] = lambda row: f"{row['hours']:,.3g}"
    if all(row["tokens_per_step"] == [run.tokens_per_step] * 2 and len(set(row["seq_len"])) == 1 for row in rows):
        del lines["tokens per sample"], lines["tokens per step"]
    console.print(f"{run.max_steps:,} steps of {_range(rows, 'tokens_per_step')} tokens")
    parts = [(f"stage {number}", row["growth"]) for number, row in enumerate(rows)]
    print_stages(console, parts, {name: [*map(text, rows)] for name, text in lines.items()})
    print_costs(console, rows)
    for number, row in enumerate(rows):
        for what, sources in row["sources"] or ():
            console.print(f"stage {number}, source {what}:\n  {listing(sources)}")


def _range(rows: list[dict[str, Any]], key: str) -> str:
    """From what to what something goes over stages."""
    values = [value for row in rows for value in row[key]]
    return f"{values[0]:,}" if len(set(values)) == 1 else f"{values[0]:,} → {values[-1]:,}"


def print_costs(console: Console, rows: list[dict[str, Any]]) -> None:
    """Weights, AdamW's moments and traffic of one process at each growth, where they were asked for."""
    for number, row in enumerate(rows):
        if cost := row.get("per_process"):
            console.print(
                f"growth to stage {number}, per process, float32: {human(cost['before'], 'B')} held before, "
                f"{human(cost['peak'], 'B')} at the most, {human(cost['after'], 'B')} after; "
                f"{human(cost['received'], 'B')} received in {cost['collectives']:,} collectives"
            )
            for what, value in (("holds", cost["after"]), ("receives", cost["received"])):
                if value > WARN_FROM * cost["even"]:
                    console.print(
                        f"[yellow]warning:[/] there it {what} {value / cost['even']:.1f} × the even share of "
                        f"{human(cost['even'], 'B')}: sizes that the number of processes divides are shared evenly"
                    )


def _count_of(params: int) -> str:
    return f"{params / 1e9:.2f}B" if params > 1e9 else human(params)
