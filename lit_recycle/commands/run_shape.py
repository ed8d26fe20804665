"""The part of a run's configuration that its stages follow from: shape, events, sizes of steps, length."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from lit_recycle.commands.errors import sentence
from lit_recycle.commands.growth_callback import growth_callbacks
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.data.batch_warmup import BatchWarmup
from lit_recycle.data.config import DataDefaults
from lit_recycle.data.length_warmup import LengthWarmup
from lit_recycle.data.pace import WARMUPS, Pace
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.schedule import Stage, stages
from lit_recycle.growth.shape import Shape
from lit_recycle.model.config import MoEConfig

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
