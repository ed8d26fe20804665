"""From budgets in F_c to configurations of ``lit-recycle fit`` with numbers of steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from lit_recycle.commands.growth_callback import GROWTH_CALLBACK
from lit_recycle.commands.run_shape import RunShape, run_shape, warmups
from lit_recycle.growth.schedule import Progress, Stage, flops_of

Fit = dict[str, Any]
"""A configuration of ``lit-recycle fit``, without the paths of a machine."""

SHORT_SAMPLES = "lit_recycle.callbacks.SequenceLengthWarmup"
SHAPING = ("events", "start_seq_len", "constant_tokens")
"""Keys of the growth callback that decide how large a run is."""
ANOTHER_ORDER = 1000
"""Added to the data's seed where a run begins anew: it does not see the same batches again."""
NO_END = 10**12
"""Steps of a run whose end is not known yet."""


@dataclass(frozen=True)
class Restart:
    """How the run ends whose weights another run begins from, as a user does who exports, grows and starts again.

    Args:
        decay: F_c at its end in which its rate decays; none when it ends at the constant rate.
        merge: Number of its last checkpoints that are merged instead of a decay (WSM, Tian et al., ICLR 2026).
        over: F_c from the first of these to the last.
    """

    decay: float = 0.0
    merge: int = 1
    over: float = 0.0


@dataclass(frozen=True)
class Settings:
    """What a variant of an experiment says, after merging.

    Args:
        fit: What is changed in the base configuration.
        restart: The run begins anew from the weights that another one came to in ``sunk`` F_c, instead of going on;
            see :class:`Restart`.
        start_seq_len: Tokens per sample before the first growth that has a ``seq_len``.
        constant_tokens: Keep the tokens per step while samples are shorter.
        growths: Events of GrowthCallback without ``at``; ``after``, and ``until``, are in F_c since the first growth.
        sunk: F_c before the first growth.
        extra: F_c after it; of the whole run where nothing is sunk.
        decay: F_c at the end in which the learning rate decays.
    """

    extra: float
    sunk: float = 0.0
    decay: float = 0.0
    growths: Sequence[dict[str, Any]] = ()
    fit: Fit = field(default_factory=dict)
    restart: Mapping[str, Any] | None = None
    start_seq_len: int | None = None
    constant_tokens: bool = False

    def growth_callback(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The callback that carries out some events, if there are any."""
        lengths = {"start_seq_len": self.start_seq_len, "constant_tokens": self.constant_tokens}
        arguments = {"events": list(events), **(lengths if self.start_seq_len else {})}
        if self.start_seq_len and not events:
            raise ValueError(
                "start_seq_len is the length before a growth, and there is none: take SequenceLengthWarmup"
            )
        return [{"class_path": GROWTH_CALLBACK, "init_args": arguments}] if events else []


def lay_out(base: Fit, settings: Settings, seed: int, unit: int) -> tuple[Fit, tuple[int, ...], int, int, int]:
    """The configuration of a run; its borders, steps, FLOPs and sunk FLOPs."""
    if settings.restart is not None:
        return _lay_out_restart(base, settings, Restart(**settings.restart), seed, unit)
    fit = merge(base, settings.fit) | {"seed_everything": seed}
    fit = merge(fit, {"data": {"seed": seed}})
    events = [_event(growth, settings.sunk, unit) for growth in settings.growths]
    total = round((settings.sunk + settings.extra) * unit)
    growth = settings.growth_callback(events)
    shape = _endless_shape(fit, growth)
    if len(shape.events) > len(events):  # one that is spread over several is written out
        growth = settings.growth_callback([event.to_dict() for event in shape.events])
    stages = shape.stages()
    last = stages[-1]
    per_step = flops_of(last.last, last.shape)
    if total <= last.start.flops:
        raise ValueError(
            f"a growth after {last.start.flops / unit:.2f} F_c of {total / unit:.2f} leaves nothing to train"
        )
    # Up to half a step from the budget: runs of other shapes are compared at the same FLOPs.
    steps = max(last.step_at(total), last.start.steps + 1)
    decay_steps = round(settings.decay * unit / per_step)
    if steps - decay_steps < last.start.steps:
        raise ValueError(f"a decay over {settings.decay} F_c begins before the last growth: shorten it, or raise extra")
    first_growth = stages[1].start if len(stages) > 1 else None
    schedule = {"lr_scheduler": {"init_args": {"total_steps": steps, "decay_steps": decay_steps}}}
    fit = merge(fit, {"model": schedule, "trainer": {"max_steps": steps}})
    if growth:
        growth[0]["init_args"] |= {"seed": seed, "save_anchor": False}
        fit["trainer"]["callbacks"] = [*(fit["trainer"].get("callbacks") or []), *growth]
    borders = (*(stage.start.steps for stage in stages[1:]), steps - decay_steps)
    flops = last.after(steps).flops
    return fit, borders, steps, flops, first_growth.flops if first_growth else 0


def _lay_out_restart(
    base: Fit, settings: Settings, restart: Restart, seed: int, unit: int
) -> tuple[Fit, tuple[int, ...], int, int, int]:
    """As :func:`lay_out`, for a run that begins from the weights of another, with the data in another order.

    Its configuration has one key more, ``start``: that of the first run, the steps of its checkpoints that are taken,
    and the one at which its rate begins to decay.
    """
    if restart.merge > 1 and (restart.decay or not 0 < restart.over <= settings.sunk):
        raise ValueError("restart.merge is instead of a decay, and over: says how many F_c the checkpoints lie apart")
    first = Settings(extra=settings.sunk, decay=restart.decay, fit=settings.fit)
    before, borders, end, sunk, _ = lay_out(base, first, seed, unit)
    apart = end * restart.over / settings.sunk / max(restart.merge - 1, 1)
    taken = [round(end - apart * number) for number in reversed(range(restart.merge))]
    left = settings.sunk + settings.extra - sunk / unit
    fit, grows, steps, flops, _ = lay_out(base, replace(settings, restart=None, sunk=0.0, extra=left), seed, unit)
    fit = merge(fit, {"data": {"seed": seed + ANOTHER_ORDER}})
    start = {"fit": before, "decays_from": borders[-1], "taken": taken}
    return fit | {"start": start}, grows, end + steps, sunk + flops, sunk


def _event(growth: Mapping[str, Any], sunk: float, unit: int) -> dict[str, Any]:
    moments = {"at": growth.get("after", 0.0)} | {k: v for k, v in growth.items() if k == "until"}
    triggers = {name: {"flops": round((sunk + after) * unit)} for name, after in moments.items()}
    return triggers | {k: v for k, v in growth.items() if k not in ("after", "until")}


def _endless_shape(fit: Fit, growth: Sequence[Mapping[str, Any]]) -> RunShape:
    """What follows from a configuration and its growths by arithmetic, as ``lit-recycle plan`` has it."""
    callbacks = [*warmups(fit["trainer"].get("callbacks")), *growth]
    return shape_of(merge(fit, {"trainer": {"max_steps": NO_END, "callbacks": callbacks}}))


def shape_of(fit: Fit) -> RunShape:
    """What ``lit-recycle plan`` makes of a configuration."""
    trainer = fit["trainer"]
    growths = [c["init_args"] for c in trainer.get("callbacks") or [] if c["class_path"] == GROWTH_CALLBACK]
    callbacks = [{"class_path": GROWTH_CALLBACK, "init_args": {k: g[k] for k in g if k in SHAPING}} for g in growths]
    callbacks += warmups(trainer.get("callbacks"))
    # Without seeds and rates, which change nothing of it: reading a configuration takes twenty milliseconds.
    data = {key: value for key, value in fit["data"].items() if key != "seed"}
    parts = {"trainer": trainer | {"callbacks": callbacks}, "model": {"config": fit["model"]["config"]}, "data": data}
    return _read_shape(json.dumps(parts))


def stages_of(fit: Fit) -> list[Stage]:
    """All that a model goes through until the end of a run, what came before its first weights included."""
    before = shape_of(fit["start"]["fit"]).stages() if "start" in fit else []
    return [*before, *shape_of(fit).stages()]


@cache
def _read_shape(parts: str) -> RunShape:
    return run_shape(json.loads(parts))


def phases(fit: Fit, borders: Sequence[int]) -> list[tuple[Fit, int]]:
    """What a run is before its rate decays: from border to border, the configuration that led there, and its step.

    It says nothing of what comes later, so that runs which differ only in that have it in common.
    """
    made: list[tuple[Fit, int]] = []
    for grown, step in enumerate(borders):
        if step > (made[-1][1] if made else 0):
            made.append((_before_decay(fit, grown), step))
    return made


def _before_decay(fit: Fit, grown: int) -> Fit:
    """The configuration with the first few of its growths, at constant rate after the warm-up, and without an end."""
    fit = deepcopy(fit)
    callbacks = []
    for callback in fit["trainer"].pop("callbacks", None) or []:
        if callback["class_path"] == GROWTH_CALLBACK:
            arguments = callback["init_args"]
            arguments["events"] = arguments["events"][:grown]
            if not grown and "start_seq_len" not in arguments:
                continue
            if not grown:
                callback = _short_samples(arguments["start_seq_len"], arguments["constant_tokens"])
        callbacks.append(callback)
    if callbacks:
        fit["trainer"]["callbacks"] = callbacks
    return merge(until(fit, None), nested("model.lr_scheduler.init_args.decay_steps", 0))


def _short_samples(seq_len: int, constant_tokens: bool) -> dict[str, Any]:
    """A callback that has samples of a length without an end."""
    stage = {"seq_len": seq_len, "until": {"steps": NO_END}}
    arguments = {"stages": [stage], "multiple_of": 1, "constant_tokens": constant_tokens}
    return {"class_path": SHORT_SAMPLES, "init_args": arguments}


def beginnings(fit: Fit) -> list[tuple[Fit, int]]:
    """What a run takes its first weights from: configurations, each to be trained to its step; several to merge.

    Empty for a run that begins with new weights.
    """
    if not (start := fit.get("start")):
        return []
    first, end = start["fit"], start["taken"][-1]
    if start["decays_from"] < end:
        return [(first, end)]
    return [(_before_decay(first, 0), step) for step in start["taken"]]


def sunk_in(fit: Fit) -> Progress:
    """Progress of the run that this one begins from; zero for one that begins with new weights."""
    return shape_of(fit["start"]["fit"]).stages()[-1].end if "start" in fit else Progress(0, 0, 0)


def until(fit: Fit, step: int | None) -> Fit:
    """The configuration, to end at a step."""
    ends = {"model": {"lr_scheduler": {"init_args": {"total_steps": step}}}, "trainer": {"max_steps": step}}
    return merge(fit, ends)


# --- configurations as nested dicts


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``second`` laid over ``first``, key by key; lists are replaced."""
    merged = dict(first)
    for key, value in second.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(key: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for the dotted key ``a.b``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def key_of(fit: Mapping[str, Any]) -> str:
    """A hash of a configuration; the order of keys does not count."""
    return hashlib.blake2b(json.dumps(fit, sort_keys=True).encode(), digest_size=6).hexdigest()
