"""What an experiment is: a YAML file, and the training runs that follow from it.

Budgets are given in F_c = 120·N_a² of the small model, the one that every run begins with.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lit_recycle.commands.plan import RunShape, run_shape
from lit_recycle.model.config import MoEConfig

Fit = dict[str, Any]
"""A configuration of ``lit-recycle fit``, without the paths of a machine."""

GROWTH = "callbacks.GrowthCallback"
NO_END = 10**12
"""Steps of a run whose end is not known yet."""


@dataclass(frozen=True)
class Expectation:
    """What the paper says, as a comparison of two labels of one axis that results can contradict.

    Args:
        better: Label of the variant that is said to be better.
        worse: Label of the other one.
        by: Name of the metric.
        where: Labels of other axes at which this is said; at all of them when not given.
    """

    better: str
    worse: str
    by: str = "loss"
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BestOf:
    """A setting that each variant gets at its best.

    Args:
        key: Dotted key in the configuration of fit.
        values: What is tried.
        seeds: The seeds on which all values are tried; the others take the best.
    """

    key: str
    values: Sequence[float]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Settings:
    """What a variant of an experiment says, after merging.

    Args:
        fit: What is changed in the base configuration.
        growths: Events of GrowthCallback without ``at``; ``after`` is in F_c since the first growth.
        sunk: F_c before the first growth.
        extra: F_c after it; of the whole run where nothing is sunk.
        decay: F_c at the end in which the learning rate decays.
    """

    extra: float
    sunk: float = 0.0
    decay: float = 0.0
    growths: Sequence[dict[str, Any]] = ()
    fit: Fit = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training run: a point of an experiment under one seed.

    Args:
        experiment: Name of the experiment.
        point: Label per axis.
        seed: Of weights, order of the data, and noise.
        fit: Its whole configuration.
        borders: The steps at which it grows, and the one at which its rate begins to decay.
        steps: Optimizer steps.
        flops: Training FLOPs.
        sunk_flops: Training FLOPs before the first growth.
        tuned: Key and value of the setting that is chosen as the best, if any.
    """

    experiment: str
    point: Mapping[str, str]
    seed: int
    fit: Fit
    borders: tuple[int, ...]
    steps: int
    flops: int
    sunk_flops: int
    tuned: tuple[str, float] | None = None

    @cached_property
    def key(self) -> str:
        """Hash of the configuration: two experiments that ask for the same run share it."""
        return key_of(self.fit)

    @property
    def name(self) -> str:
        """As file name: labels, the tuned value, the seed."""
        parts = [label.replace(", ", "-").replace(" ", "-") for label in self.point.values()]
        if self.tuned:
            parts.append(f"{self.tuned[0].rpartition('.')[2]}={self.tuned[1]:g}")
        return "_".join([*parts, f"seed={self.seed}"])


@dataclass(frozen=True)
class Experiment:
    """An experiment as its file describes it; ``variants`` are settings by point."""

    name: str
    letter: str
    title: str
    question: str
    paper: str
    seeds: Sequence[int]
    axes: Mapping[str, Sequence[str]]
    variants: Sequence[tuple[dict[str, str], Settings]]
    base: Fit
    best_of: BestOf | None
    expect: Sequence[Expectation]
    figure: Mapping[str, Any]
    _made: dict[str, Run] = field(default_factory=dict, repr=False, compare=False)

    @property
    def unit(self) -> int:
        """F_c of the small model, in FLOPs."""
        return MoEConfig.from_dict(self.base["model"]["config"]).chinchilla_flops()

    def run(self, point: Mapping[str, str], seed: int, value: float | None = None) -> Run:
        """The run at a point, with the tuned setting at ``value``; made once, for it is asked for over and over."""
        asked = json.dumps([dict(point), seed, value])
        if asked not in self._made:
            self._made[asked] = self._make(point, seed, value)
        return self._made[asked]

    def _make(self, point: Mapping[str, str], seed: int, value: float | None) -> Run:
        settings = next(s for p, s in self.variants if p == point)
        tuned = None
        if value is not None:
            assert self.best_of is not None
            tuned = (self.best_of.key, value)
            settings = replace(settings, fit=merge(settings.fit, nested(self.best_of.key, value)))
        return Run(self.name, point, seed, *_lay_out(self.base, settings, seed, self.unit), tuned)

    def sweep(self) -> Iterator[Run]:
        """The runs that are known before any result is: all values on the seeds for it, or all seeds.

        Point by point under one seed and value, so that what is there after an interruption can be compared.
        """
        values = self.best_of.values if self.best_of else [None]
        for seed, value in itertools.product(self.best_of.seeds if self.best_of else self.seeds, values):
            yield from (self.run(point, seed, value) for point, _ in self.variants)

    def seeds_after_sweep(self) -> list[int]:
        """The seeds whose runs wait for the best value of the tuned setting."""
        return [] if self.best_of is None else [s for s in self.seeds if s not in self.best_of.seeds]


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment's file.

    Raises:
        ValueError: For unknown or missing keys, and for budgets that do not fit each other; names the file.
    """
    try:
        return _experiment(path)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from error


def load_experiments(folder: Path, only: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of a folder, by name; or those named, in that order. ``base.yaml`` is none."""
    there = {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.stem != "base"}
    unknown = [name for name in only if name not in there]
    if unknown:
        raise ValueError(f"there is no experiment {', '.join(unknown)} in {folder}; choose from {', '.join(there)}")
    return [load_experiment(there[name]) for name in only or there]


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


def _experiment(path: Path) -> Experiment:
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {"letter", "title", "question", "paper", "seeds", "base", "common", "vary", "best_of", "expect", "figure"}
    unknown = sorted(set(said) - known)
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    base = yaml.safe_load((path.parent / "base.yaml").read_text(encoding="utf-8"))
    base = merge(base, said.get("base") or {})
    axes = {axis: {str(label): over or {} for label, over in labels.items()} for axis, labels in said["vary"].items()}
    variants = []
    for labels in itertools.product(*axes.values()):
        settings = said.get("common") or {}
        for axis, label in zip(axes, labels, strict=True):
            settings = merge(settings, axes[axis][label])
        _check_keys(settings)
        variants.append((dict(zip(axes, labels, strict=True)), Settings(**settings)))
    return Experiment(
        name=path.stem,
        letter=said["letter"],
        title=said["title"],
        question=said["question"].strip(),
        paper=said["paper"].strip(),
        seeds=said["seeds"],
        axes={axis: list(labels) for axis, labels in axes.items()},
        variants=variants,
        base=base,
        best_of=BestOf(**said["best_of"]) if said.get("best_of") else None,
        expect=[Expectation(**one) for one in said.get("expect") or []],
        figure=said.get("figure") or {},
    )


def _check_keys(settings: Mapping[str, Any]) -> None:
    known = {f.name for f in fields(Settings)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if "extra" not in settings:
        raise ValueError("a variant says no extra: the F_c after the first growth, or of the whole run")


# --- from budgets to steps -------------------------------------------------------------------------------------------


def _lay_out(base: Fit, settings: Settings, seed: int, unit: int) -> tuple[Fit, tuple[int, ...], int, int, int]:
    """The configuration of a run; its borders, steps, FLOPs and sunk FLOPs."""
    fit = merge(base, settings.fit) | {"seed_everything": seed}
    fit = merge(fit, {"data": {"seed": seed}})
    events = [_event(growth, settings.sunk, unit) for growth in settings.growths]
    total = round((settings.sunk + settings.extra) * unit)
    shape = _shape(fit, events)
    stages = shape.stages()
    last = stages[-1]
    per_step = shape.tokens_per_step * last.config.num_flops_per_token(shape.seq_len)
    if total <= last.start.flops:
        raise ValueError(
            f"a growth after {last.start.flops / unit:.2f} F_c of {total / unit:.2f} leaves nothing to train"
        )
    # Up to half a step from the budget: runs of other shapes are compared at the same FLOPs.
    steps = last.start.steps + max(round((total - last.start.flops) / per_step), 1)
    decay_steps = round(settings.decay * unit / per_step)
    if steps - decay_steps < last.start.steps:
        raise ValueError(f"a decay over {settings.decay} F_c begins before the last growth: shorten it, or raise extra")
    first_growth = stages[1].start if len(stages) > 1 else None
    schedule = {"lr_scheduler": {"init_args": {"total_steps": steps, "decay_steps": decay_steps}}}
    fit = merge(fit, {"model": schedule, "trainer": {"max_steps": steps}})
    if events:
        callback = {"class_path": GROWTH, "init_args": {"events": events, "seed": seed, "save_anchor": False}}
        fit["trainer"]["callbacks"] = [*(fit["trainer"].get("callbacks") or []), callback]
    borders = (*(stage.start.steps for stage in stages[1:]), steps - decay_steps)
    flops = last.start.flops + (steps - last.start.steps) * per_step
    return fit, borders, steps, flops, first_growth.flops if first_growth else 0


def _event(growth: Mapping[str, Any], sunk: float, unit: int) -> dict[str, Any]:
    after = growth.get("after", 0.0)
    return {"at": {"flops": round((sunk + after) * unit)}} | {k: v for k, v in growth.items() if k != "after"}


def _shape(fit: Fit, events: Sequence[Mapping[str, Any]]) -> RunShape:
    """What follows from a configuration by arithmetic, as ``lit-recycle plan`` has it."""
    callbacks = [{"class_path": GROWTH, "init_args": {"events": list(events)}}] if events else []
    return shape_of(merge(fit, {"trainer": {"max_steps": NO_END, "callbacks": callbacks}}))


def shape_of(fit: Fit) -> RunShape:
    """What ``lit-recycle plan`` makes of a configuration; of a copy, for its parser writes into what it is given."""
    return run_shape(deepcopy(fit))


def phases(run: Run) -> list[tuple[Fit, int]]:
    """What a run is before its rate decays: from border to border, the configuration that led there, and its step.

    It says nothing of what comes later, so that runs which differ only in that have it in common.
    """
    made: list[tuple[Fit, int]] = []
    for grown, step in enumerate(run.borders):
        if step > (made[-1][1] if made else 0):
            made.append((_before_decay(run.fit, grown), step))
    return made


def _before_decay(fit: Fit, grown: int) -> Fit:
    """The configuration with the first few of its growths, at constant rate after the warm-up, and without an end."""
    fit = deepcopy(fit)
    callbacks = []
    for callback in fit["trainer"].pop("callbacks", None) or []:
        if callback["class_path"] == GROWTH:
            callback["init_args"]["events"] = callback["init_args"]["events"][:grown]
            if not grown:
                continue
        callbacks.append(callback)
    if callbacks:
        fit["trainer"]["callbacks"] = callbacks
    return merge(until(fit, None), nested("model.lr_scheduler.init_args.decay_steps", 0))


def until(fit: Fit, step: int | None) -> Fit:
    """The configuration, to end at a step."""
    ends = {"model": {"lr_scheduler": {"init_args": {"total_steps": step}}}, "trainer": {"max_steps": step}}
    return merge(fit, ends)
