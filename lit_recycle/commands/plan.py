"""``lit-recycle plan``: what a run will be, stage by stage, from its configuration alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from rich.console import Console

from lit_recycle.commands.plan_data import print_sources, source_rows
from lit_recycle.commands.plan_device import add_hours, memory
from lit_recycle.commands.plan_table import print_table
from lit_recycle.commands.run_shape import RunShape, run_shape
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.growth.history import records_to_come
from lit_recycle.growth.schedule import Stage, unfinished_warmup
from lit_recycle.growth.shape import sizes
from lit_recycle.growth.update_rules import check_rules, count_trained, speaks_of_rows

PLANNED = ("fsdp2", "ddp")
"""Strategies under which the cost of a growth is planned."""


def main(argv: list[str]) -> int:
    """Print the stages of the run that ``lit-recycle fit`` with the same options would be, or refuse what it would."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if not rest:
        parser.print_usage()
        return 2
    with without_gc():
        from lit_recycle.commands.dry_run import DryRun

    dry = DryRun(rest)
    values = dry.values()
    run = run_shape(values)
    parts = run.stages()
    dry.notes += filter(None, [unfinished_warmup(parts)])
    if dry.config.ckpt_path:
        dry.notes.append("planned is the run from its beginning, and not what is left of it after --ckpt_path")
    dry.model.shapes_to_come = [stage.shape for stage in parts]
    dry.model.check_patterns()
    rows = [stage_row(run, stage) for stage in parts]
    add_trained(rows, parts)
    if options.tokens_per_second is not None:
        add_hours(rows, options.tokens_per_second)
    if options.world_size is not None:
        add_costs(run, rows, options.world_size, options.strategy)
    data = data_rows(run, rows, values.get("data") or {})
    if options.json:
        shown = {"tokens_per_step": run.tokens_per_step, "stages": rows, "data": data, "notes": dry.notes}
        print(json.dumps(shown, indent=2))
    else:
        print_table(run, rows)
        print_sources(Console(highlight=False), data)
        print("\n".join(dry.notes), end="\n" if dry.notes else "")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-recycle plan",
        usage="lit-recycle plan --config FILE [--config FILE …] [--key value …] [options below]",
        description="Check the configuration of a run, with all that `lit-recycle fit` would refuse in it, and print "
        "what the run will be, stage by stage. Takes every option of `lit-recycle fit`, and these:",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="for scripts: sizes in bytes, FLOPs, source maps")
    parser.add_argument(
        "--world-size", "--world_size", type=int, metavar="N", help="memory and traffic of each growth for one of N"
    )
    parser.add_argument("--strategy", default="fsdp2", help=f"of those N processes: {' or '.join(PLANNED)}")
    parser.add_argument(
        "--tokens-per-second",
        metavar="N|RUN",
        help="adds hours: speed of the first stage, or the folder of a run with ComputeMonitor, whose FLOPs per second "
        "are taken",
    )
    return parser


def add_trained(rows: list[dict[str, Any]], parts: list[Stage]) -> None:
    """Add to each row how many parameters are trained when its stage begins, where a growth says so.

    Raises:
        ValueError: For growths that leave nothing to train.
    """
    if not any(row["event"] and speaks_of_rows(row["event"]) for row in rows):
        return
    with without_gc():
        from lit_recycle.hub.shape import parameter_names, parameter_shapes

    growth = records_to_come(parts, parameter_names(parts[0].shape))
    check_rules(growth)
    for number, (row, part) in enumerate(zip(rows, parts, strict=True)):
        shape = part.shape
        row["trained_params"] = count_trained(growth[:number], part.start.steps, shape.naming, parameter_shapes(shape))


def data_rows(run: RunShape, rows: list[dict[str, Any]], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the run sees of each data source."""
    return source_rows(
        data,
        tokens=rows[-1]["start_tokens"] + rows[-1]["tokens"],
        # A stage that waits for a growth ends with the step that begins with it.
        borders=[0] * run.past_growths + [row["start_tokens"] + row["tokens_per_step"][0] for row in rows[1:]],
    )


def add_costs(run: RunShape, rows: list[dict[str, Any]], world_size: int, strategy: str) -> None:
    """Add to each row what the growth before it costs a process, in bytes.

    The growth itself is run, by the same code, on a fake process group and tensors without data. Under DDP each process
    grows the whole model, as one alone would.
    """
    if world_size < 2:
        raise ValueError(f"--world-size needs a number of processes from 2 on, got {world_size}")
    if strategy not in PLANNED:
        raise ValueError(
            f"--strategy must be one of {', '.join(PLANNED)}, got {strategy!r}: what a growth costs under others is "
            "seen in a run alone"
        )
    with without_gc():
        from lit_recycle.growth.cost import event_cost, fake_processes
        from lit_recycle.hub.shape import parameter_shapes

    parts = run.stages()
    sharing = world_size if strategy == "fsdp2" else 1
    with fake_processes(sharing) as mesh:
        for (before, after), row in zip(pairwise(parts), rows[1:], strict=True):
            assert after.plan is not None
            cost = asdict(event_cost(parameter_shapes(before.shape), after.plan, mesh))
            even = 3 * 4 * after.shape.num_params() // sharing  # weights and two moments in float32
            row["per_process"] = cost | {"even": even}


def stage_row(run: RunShape, stage: Stage) -> dict[str, Any]:
    """A stage in numbers: plain types, FLOPs and bytes as integers. Optimizer bytes are AdamW's two moments.

    Tokens per sample and per step are those of the first and of the last step, FLOPs per token those of the last.
    """
    size, first, last = sizes(stage.shape), stage.first, stage.last
    return {
        "start_step": stage.start.steps,
        "end_step": stage.end.steps,
        "start_tokens": stage.start.tokens,
        "tokens": stage.end.tokens - stage.start.tokens,
        **{name: size[name] for name in ("layers", "experts", "top_k", "params", "active_params")},
        "seq_len": [first.seq_len, last.seq_len],
        "tokens_per_step": [first.tokens, last.tokens],
        "flops_per_token": stage.shape.num_flops_per_token(last.seq_len),
        "flops": stage.end.flops - stage.start.flops,
        "sunk_flops": stage.start.flops,
        **memory(stage.shape, last, run.param_bytes, run.precision, run.checkpointing),
        "event": stage.event.to_dict() if stage.event else None,
        "growth": stage.label,
        "preserves_function": stage.plan.preserves if stage.plan else None,
        "maps": stage.plan.maps() if stage.plan else None,
        "sources": [[what, list(m.sources)] for what, m in stage.plan.listing()] if stage.plan else None,
    }
