"""``lit-recycle plan``: what a run will be, stage by stage, from its configuration alone."""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from lit_recycle.commands.errors import sentence
from lit_recycle.commands.growth_callback import growth_callbacks
from lit_recycle.commands.plan_data import print_sources, source_rows
from lit_recycle.commands.plan_device import add_hours, memory
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.data.batch_warmup import BatchWarmup
from lit_recycle.data.config import DataDefaults
from lit_recycle.data.length_warmup import LengthWarmup
from lit_recycle.data.pace import WARMUPS, Pace
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.history import records_to_come
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.schedule import Stage, stages, unfinished_warmup
from lit_recycle.growth.shape import Shape, sizes
from lit_recycle.growth.update_rules import check_rules, count_trained, in_words, speaks_of_rows
from lit_recycle.model.config import MoEConfig
from lit_recycle.stage_table import print_stages
from lit_recycle.text import human, listing

PLANNED = ("fsdp2", "ddp")
"""Strategies under which the cost of a growth is planned."""
WARN_FROM = 1.3
"""Share of a process, relative to the even one, from which on a plan warns."""
BYTES = {"64": 8, "32": 4, "16": 2, "bf16": 2}
"""Bytes of a parameter by trainer.precision; the mixed ones keep parameters in 32 bits."""


@dataclass(frozen=True)
class RunShape:
    """The part of a run's configuration that its stages follow from."""

    shape: Shape
    events: list[GrowthEvent]
    pace: Pace
    max_steps: int
    param_bytes: int
    past_growths: int = 0
    precision: str = "32-true"
    checkpointing: bool = False

    @property
    def tokens_per_step(self) -> int:
        """In the end, when warm-ups of the length and of the batch size are over."""
        return self.pace.full.tokens

    def stages(self) -> list[Stage]:
        return stages(self.shape, self.events, pace=self.pace, max_steps=self.max_steps)


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


def run_shape(config: Mapping[str, Any]) -> RunShape:
    """Raises ``ValueError`` for keys and values that ``fit`` would refuse in the model's shape or in the events."""
    trainer, data = config.get("trainer") or {}, config.get("data") or {}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model.config", type=MoEConfig)
    parser.add_argument("--events", type=list[GrowthEvent], default=[])
    parser.add_argument("--lengths.start_seq_len", type=int | None, default=None)
    parser.add_argument("--lengths.constant_tokens", type=bool, default=False)
    parser.add_argument("--SequenceLengthWarmup", type=LengthWarmup | None, default=None)
    parser.add_argument("--BatchSizeWarmup", type=BatchWarmup | None, default=None)
    model = config.get("model") or {}
    values: dict[str, Any] = {"model": {"config": model.get("config") or {}}}
    for callback in growth_callbacks(trainer.get("callbacks")):
        given = callback["init_args"]
        values["events"] = given["events"]
        values["lengths"] = {k: given[k] for k in ("start_seq_len", "constant_tokens") if k in given}
    values |= {_class_name(callback): callback.get("init_args") or {} for callback in warmups(trainer.get("callbacks"))}
    try:
        parsed = parser.instantiate(parser.parse_object(values))
    except ArgumentError as error:
        raise ValueError(sentence(error, parser.get_defaults().keys())) from error
    max_steps = trainer.get("max_steps", -1)
    if max_steps < 1:
        raise ValueError("trainer.max_steps must be set: the length of the run, in optimizer steps")
    shape, past = start_shape(model) if model.get("init_from") else (NativeModel(parsed.model.config), 0)
    if model.get("reparam") is not None:
        from lit_recycle.hub.shape import with_branches  # no run without branches waits for it

        shape = with_branches(shape, model["reparam"])
    return RunShape(
        shape=shape,
        events=[part for event in parsed.events for part in event.spread()],
        pace=_pace(trainer, data, parsed),
        max_steps=max_steps,
        past_growths=past,
        param_bytes=4 if "mixed" in str(trainer.get("precision")) else _param_bytes(trainer.get("precision") or 32),
        precision=str(trainer.get("precision") or 32),
        checkpointing=bool(model.get("activation_checkpointing")),
    )


def warmups(callbacks: Any) -> list[dict[str, Any]]:
    """Those of a configuration's callbacks that change the size of steps."""
    return [callback for callback in callbacks or [] if _class_name(callback) in WARMUPS]


def _class_name(callback: Mapping[str, Any]) -> str:
    return str(callback.get("class_path")).rpartition(".")[2]


def _pace(trainer: Mapping[str, Any], data: Mapping[str, Any], parsed: Any) -> Pace:
    """Sizes of the optimizer steps; raises ``ValueError`` for a warm-up that does not fit."""
    defaults = DataDefaults()
    seq_len = _at_least_1("data.seq_len", data.get("seq_len", defaults.seq_len))
    pace = Pace.even(
        seq_len,
        seq_len * _at_least_1("data.batch_size", data.get("batch_size", defaults.batch_size)),
        processes=_count(trainer.get("devices", 1)) * trainer.get("num_nodes", 1),
        accumulate=_at_least_1("trainer.accumulate_grad_batches", trainer.get("accumulate_grad_batches", 1)),
    )
    lengths = parsed.lengths
    if lengths.start_seq_len is not None or any(event.seq_len is not None for event in parsed.events):
        pace = pace.with_growing_length(lengths.start_seq_len, lengths.constant_tokens)
    if parsed.SequenceLengthWarmup:
        pace = pace.with_length_warmup(parsed.SequenceLengthWarmup)
    if parsed.BatchSizeWarmup:
        pace = pace.with_batch_warmup(parsed.BatchSizeWarmup)
    return pace


def _at_least_1(key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} must be a number of at least 1, got {value!r}")
    return value


def start_shape(model: Mapping[str, Any]) -> tuple[Shape, int]:
    """The shape that ``model.init_from`` brings, and how often it has grown; no other plan opens files of weights."""
    with without_gc():
        from lit_recycle.training.start import start_of

    start = start_of(None, model["init_from"], model.get("backend", "auto"))
    return start.shape, len(start.growth)


def _count(devices: Any) -> int:
    """Processes on a machine; one where that is left to the machine."""
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", "-1", -1):
        return 1
    if not str(devices).isdigit():
        raise ValueError(
            f"trainer.devices is {devices!r}: give a number, for the plan depends on it (--trainer.devices 8)"
        )
    return int(devices)


def _param_bytes(precision: Any) -> int:
    return BYTES.get(str(precision).removesuffix("-true").removesuffix("-mixed"), 4)


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
