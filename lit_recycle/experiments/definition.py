"""What an experiment is: a YAML file, and the training runs that follow from it.

Budgets are given in F_c = 120·N_a² of the small model, the one that every run begins with.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lit_recycle.experiments.budgets import Fit, Settings, key_of, lay_out, merge, nested, phases
from lit_recycle.experiments.comparison import Comparison
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.model.config import MoEConfig


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
class Run:
    """One training run: a point of an experiment under one seed.

    Args:
        experiment: Name of the experiment.
        point: Label per axis.
        seed: Of weights, order of the data, and noise.
        fit: Its whole configuration.
        borders: The steps at which it grows, and the one at which its rate begins to decay.
        steps: Optimizer steps, with those of a run that it begins from.
        flops: Training FLOPs, likewise.
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

    def phases(self) -> list[tuple[Fit, int]]:
        """What it is before its rate decays; see :func:`lit_recycle.experiments.budgets.phases`."""
        return phases(self.fit, self.borders)

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
    expect: Sequence[Comparison]
    figure: Mapping[str, Any]
    _made: dict[str, Run] = field(default_factory=dict, repr=False, compare=False)

    @property
    def small(self) -> MoEConfig:
        """The small model, with which every run begins unless it says otherwise."""
        return MoEConfig.from_dict(self.base["model"]["config"])

    @property
    def unit(self) -> int:
        """F_c of the small model, in FLOPs."""
        return chinchilla_flops(self.small)

    @property
    def times_steps(self) -> bool:
        """Whether its runs are made to measure the time of a step: of losses they say nothing."""
        return bool(self.figure.get("speeds"))

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
        return Run(self.name, point, seed, *lay_out(self.base, settings, seed, self.unit), tuned)

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


def label(point: Mapping[str, str]) -> str:
    """A point in words."""
    return ", ".join(point.values())


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment's file.

    Raises:
        ValueError: For unknown or missing keys, and for budgets that do not fit each other; names the file.
    """
    try:
        experiment = _experiment(path)
        for point, _ in experiment.variants:
            experiment.run(point, experiment.seeds[0])  # its budgets are checked before any compute is spent
        return experiment
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def load_experiments(folder: Path, only: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of a folder, by name; or those named, in that order. ``base.yaml`` is none."""
    there = {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.stem != "base"}
    if not there:
        raise ValueError(f"there is no experiment in {folder}: --configs takes a folder of their files")
    unknown = [name for name in only if name not in there]
    if unknown:
        raise ValueError(f"there is no experiment {', '.join(unknown)} in {folder}; choose from {', '.join(there)}")
    return [load_experiment(there[name]) for name in only or there]


def _experiment(path: Path) -> Experiment:
    said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    known = {"letter", "title", "question", "paper", "seeds", "base", "common", "vary", "best_of", "expect", "figure"}
    unknown = sorted(set(said) - known)
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if missing := sorted({"letter", "title", "question", "paper", "seeds", "vary"} - said.keys()):
        raise ValueError(f"missing keys: {', '.join(missing)}")
    base = yaml.safe_load((path.parent / "base.yaml").read_text(encoding="utf-8"))
    base = merge(base, said.get("base") or {})
    axes = {axis: {str(label): over or {} for label, over in labels.items()} for axis, labels in said["vary"].items()}
    if wrong := [label for labels in axes.values() for label in labels if "/" in label]:
        raise ValueError(f"the label {wrong[0]!r} has a slash, and files are called by it")
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
        expect=[Comparison.from_dict(one, axes) for one in said.get("expect") or []],
        figure=said.get("figure") or {},
    )


def _check_keys(settings: Mapping[str, Any]) -> None:
    known = {f.name for f in fields(Settings)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if "extra" not in settings:
        raise ValueError("a variant says no extra: the F_c after the first growth, or of the whole run")
