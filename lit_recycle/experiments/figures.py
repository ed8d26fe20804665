"""Figures of an experiment, from its results: every seed's point, means with standard errors."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lit_recycle.experiments.comparison import METRICS
from lit_recycle.experiments.definition import Experiment, label
from lit_recycle.experiments.results import HIGHER_IS_BETTER, Result, Results, spread
from lit_recycle.experiments.saved import seconds_per_step
from lit_recycle.report.plots import COLOURS, STYLE, profiles

DATA = "Data"
"""Key in a PNG's metadata of the digest of what is drawn."""
DASHES = ("-", "--", "-.", ":")
"""Of the curves of variants, so that one whose beginning is another's does not hide it."""
PANELS = {"loss": "validation loss (nats per byte)", "accuracy": "accuracy (one of four)"}


@dataclass(frozen=True)
class Plate:
    """A figure for the page: its file's name without ending, a caption, and the results that it shows."""

    name: str
    caption: str
    figure: Figure
    shown: Sequence[Result]

    @property
    def digest(self) -> str:
        return digest(self.shown)

    def png(self) -> bytes:
        """The file, with the digest of its data inside."""
        buffer = io.BytesIO()
        metadata = {DATA: self.digest, "Software": None}
        self.figure.savefig(buffer, format="png", dpi=110, metadata=metadata)
        return buffer.getvalue()


def digest(results: Sequence[Result]) -> str:
    """A hash of the numbers that figures are drawn from."""
    numbers = [[r["key"], r["metrics"], r["curve"], r["growths"]] for r in results]
    return hashlib.blake2b(json.dumps(numbers, sort_keys=True).encode(), digest_size=8).hexdigest()


def plates(experiment: Experiment, results: Results) -> list[Plate]:
    """The figures of an experiment; none without results."""
    found = {label(point): results.at(experiment, point) for point, _ in experiment.variants}
    found = {name: runs for name, runs in found.items() if runs}
    if not found:
        return _sweeps(experiment, results)
    x = experiment.figure.get("x")
    shown = [run for runs in found.values() for run in runs]
    figure = _over_numbers(experiment, results, x) if x else _categories(found, experiment.times_steps)
    several = any(len(runs) > 1 for runs in found.values())
    caption = "A dot is a seed; bars are the mean and its standard error." if several else "A dot is a seed."
    if against := experiment.figure.get("against"):
        caption = f"Differences to *{against}*, seed by seed. {caption}"
    made = [Plate(experiment.name, caption, figure, shown)]
    if experiment.figure.get("curves"):
        caption = (
            "Validation loss over total training FLOPs, of fewer samples than the table's; a line is a seed, and "
            "falls at its end, where the rate decays."
        )
        made.append(Plate(f"{experiment.name}_curves", caption, _curves(found, experiment.unit), shown))
    if experiment.figure.get("profiles") and (grown := [run for run in shown if run["growths"]]):
        caption = "Root mean square of the experts' weights, layer by layer, right before the growth; mean over seeds."
        made.append(Plate(f"{experiment.name}_profiles", caption, _profiles(experiment, grown), grown))
    return made + _sweeps(experiment, results)


# --- points ----------------------------------------------------------------------------------------------------------


@mpl.rc_context(STYLE)
def _categories(found: Mapping[str, Sequence[Result]], times_steps: bool) -> Figure:
    """A row per variant, a panel per metric, or one of the time of a step."""
    measures = _measures(times_steps)
    figure = Figure(figsize=(9.0, 1.3 + 0.42 * len(found)), layout="constrained")
    names = list(found)
    for number, (axis_label, measure) in enumerate(measures.items()):
        axes = figure.add_subplot(1, len(measures), number + 1)
        for row, name in enumerate(names):
            values = [measure(run) for run in found[name]]
            _dots(axes, values, [row] * len(values), COLOURS[row % len(COLOURS)], upright=False)
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(axis_label)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # labels as long as 0.475 stand clear of each other
    return figure


def _measures(times_steps: bool) -> dict[str, Callable[[Result], float]]:
    """What the panels show of a run, by the labels of their axes."""
    if times_steps:
        return {"CPU time per step (ms), lower is better": lambda run: 1000 * seconds_per_step(run)}
    better = {metric: "higher" if metric in HIGHER_IS_BETTER else "lower" for metric in PANELS}
    return {f"{text}, {better[metric]} is better": partial(_metric, metric) for metric, text in PANELS.items()}


def _metric(metric: str, run: Result) -> float:
    return float(run["metrics"][metric])


def _dots(axes: Axes, values: Sequence[float], at: Sequence[float], colour: str, *, upright: bool) -> None:
    """Every seed, and beside them the mean with its standard error where there are several."""
    mean, error, n = spread(values)
    if upright:
        axes.scatter(at, values, s=14, color=colour, alpha=0.55, linewidths=0)
        if n > 1:
            axes.errorbar([at[0]], [mean], [error], fmt="_", color=colour, capsize=3, markersize=11)
    else:
        axes.scatter(values, at, s=22, color=colour, alpha=0.55, linewidths=0)
        if n > 1:
            axes.errorbar([mean], [at[0] + 0.22], xerr=[error], fmt="|", color=colour, capsize=3, markersize=9)


@mpl.rc_context(STYLE)
def _over_numbers(experiment: Experiment, results: Results, x: str) -> Figure:
    """Metrics over an axis whose labels are numbers, a line per label of the other axes.

    Of an experiment whose figure has ``against``, a label of these, differences to that one, seed by seed.
    """
    figure, against = Figure(figsize=(9.0, 3.9), layout="constrained"), experiment.figure.get("against")
    lines: dict[str, dict[float, list[Result]]] = {}
    for point, _ in experiment.variants:
        name = label({axis: text for axis, text in point.items() if axis != x})
        if runs := results.at(experiment, point):
            lines.setdefault(name, {})[float(point[x])] = runs
    reference = lines.get(against, {}) if against else {}
    for number, (metric, axis_label) in enumerate(PANELS.items()):
        axes = figure.add_subplot(1, len(PANELS), number + 1)
        for i, (name, by_x) in enumerate(lines.items()):
            colour = COLOURS[i % len(COLOURS)]
            found = {
                position: _values(metric, runs, reference[position] if against else None)
                for position, runs in by_x.items()
                if not against or position in reference  # what has no reference yet is not drawn
            }
            places = _beside(list(found), i - (len(lines) - 1) / 2, bool(experiment.figure.get("log")))
            axes.plot(places, [spread(values).mean for values in found.values()], color=colour, label=name or None)
            for place, values in zip(places, found.values(), strict=True) if name != against else ():
                _dots(axes, values, [place] * len(values), colour, upright=True)
        if experiment.figure.get("log"):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=experiment.figure["xlabel"], ylabel=f"Δ {axis_label}" if against else axis_label)
        if number == 0 and len(lines) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(lines), 4))
    return figure


def _beside(positions: Sequence[float], line: float, log: bool) -> list[float]:
    """Positions moved a little to the side, so that lines do not hide each other's dots and bars."""
    if log:
        return [position * 2 ** (0.05 * line) for position in positions]
    return [position + 0.01 * line * (max(positions) - min(positions)) for position in positions]


def _values(metric: str, runs: Sequence[Result], reference: Sequence[Result] | None) -> list[float]:
    """Of each run; minus that of the reference's run of its seed, where there is a reference."""
    if reference is None:
        return [run["metrics"][metric] for run in runs]
    base = {run["seed"]: run["metrics"][metric] for run in reference}
    return [run["metrics"][metric] - base[run["seed"]] for run in runs if run["seed"] in base]


@mpl.rc_context(STYLE)
def _curves(found: Mapping[str, Sequence[Result]], unit: int) -> Figure:
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    tops = []
    for i, (name, runs) in enumerate(found.items()):
        colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        for number, run in enumerate(runs):
            flops = [row[2] / unit for row in run["curve"]]
            losses = [row[4] for row in run["curve"]]
            told = None if number else name
            axes.plot(flops, losses, color=colour, linestyle=dashes, linewidth=1.2, alpha=0.8, label=told)
            tops.append(losses[len(losses) // 4])
            marks = [growth["flops"] / unit for growth in run["growths"]]
            on_the_axis = axes.get_xaxis_transform()
            axes.plot(marks, [0.02] * len(marks), "^", color=colour, markersize=6, transform=on_the_axis)
    ends = [run["curve"][-1][4] for runs in found.values() for run in runs]
    axes.set_ylim(min(ends) - 0.03, max(tops))
    axes.plot([], [], "^", color="0.4", markersize=6, label="a growth")
    axes.set(xlabel="training FLOPs (F_c of the small model)", ylabel=PANELS["loss"])
    axes.legend()
    return figure


def _profiles(experiment: Experiment, runs: Sequence[Result]) -> Figure:
    """Mean over seeds before the first growth, by budget; variants of one seed share what came before."""
    by_budget: dict[str, dict[int, Sequence[float]]] = {}
    for run in runs:
        growth = run["growths"][0]
        by_budget.setdefault(f"{growth['flops'] / experiment.unit:.1f} F_c", {})[run["seed"]] = growth["norms"]
    named = {name: np.mean(list(by_seed.values()), axis=0).tolist() for name, by_seed in by_budget.items()}
    return profiles(named, "Weight norms right before the growth")


def _sweeps(experiment: Experiment, results: Results) -> list[Plate]:
    """The loss by the tuned setting's value, a line per variant."""
    if experiment.best_of is None:
        return []
    shown, lines = [], {}
    for point, _ in experiment.variants:
        by_value: dict[float, list[Result]] = {}
        for value in sorted(experiment.best_of.values):
            runs = (results.get(experiment.run(point, seed, value)) for seed in experiment.best_of.seeds)
            if known := [run for run in runs if run]:
                by_value[value] = known
                shown += known
        if by_value:
            lines[label(point)] = by_value
    if all(len(by_value) < 2 for by_value in lines.values()):  # nothing to choose from yet
        return []
    caption = f"The choice of {experiment.best_of.key.rpartition('.')[2]}: each variant has the best of its line."
    return [Plate(f"{experiment.name}_sweep", caption, _sweep_figure(lines, experiment.best_of.key), shown)]


@mpl.rc_context(STYLE)
def _sweep_figure(lines: Mapping[str, Mapping[float, Sequence[Result]]], key: str) -> Figure:
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, by_value) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        means = [spread([run["metrics"]["loss"] for run in runs]).mean for runs in by_value.values()]
        axes.plot(list(by_value), means, marker="o", markersize=4, color=colour, label=name)
    ticks = sorted({value for by_value in lines.values() for value in by_value})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="learning rate" if key.endswith(".lr") else key, ylabel=PANELS["loss"])
    axes.legend()
    return figure


assert set(PANELS) <= set(METRICS)
