"""Table of an experiment: means and standard errors of every variant's metrics, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from lit_recycle.experiments.comparison import METRICS
from lit_recycle.experiments.definition import Experiment
from lit_recycle.experiments.results import Result, Results, spread
from lit_recycle.experiments.saved import seconds_per_step

JUMP = "jump of the loss"
"""Column of the loss right after the first growth minus the one right before it, on one batch, where asked for."""
SPEED = "CPU time per step"


def table(experiment: Experiment, results: Results) -> list[str]:
    """Lines of Markdown, a row for each variant that has results."""
    jumps = bool(experiment.figure.get("jumps"))
    tuned = [f"best {experiment.best_of.key.rpartition('.')[2]}"] if experiment.best_of else []
    measured = [SPEED] if experiment.times_steps else [*METRICS.values(), *([JUMP] if jumps else [])]
    head = [*experiment.axes, "seeds", *measured, "10⁶ tokens", "FLOPs / F_c", *tuned]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for point, _ in experiment.variants:
        if runs := results.at(experiment, point):
            cells = [*point.values(), str(len(runs))]
            if experiment.times_steps:
                cells.append(_cell([1000 * seconds_per_step(run) for run in runs], 1) + " ms")
            else:
                cells += [*_metrics(runs), *([_jump(runs)] if jumps else [])]
            cells.append(f"{spread([run['tokens'] for run in runs]).mean / 1e6:.2f}")
            cells.append(f"{spread([run['flops'] for run in runs]).mean / experiment.unit:.2f}")
            if experiment.best_of:
                cells.append(_tuned(experiment, results, point))
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""] if len(lines) > 2 else ["No variant has results yet.", ""]


def _metrics(runs: Sequence[Result]) -> list[str]:
    cells = []
    for metric in METRICS:
        values = [run["metrics"][metric] for run in runs]
        cells.append(_cell([100 * value for value in values], 1) + " %" if metric == "accuracy" else _cell(values, 4))
    return cells


def _jump(runs: Sequence[Result]) -> str:
    grown = [run["growths"][0] for run in runs if run["growths"]]
    return _cell([growth["loss_after"] - growth["loss_before"] for growth in grown], 3, sign="+") if grown else "–"


def _cell(values: Sequence[float], digits: int, sign: str = "") -> str:
    return spread(values).text(digits, sign)


def _tuned(experiment: Experiment, results: Results, point: dict[str, str]) -> str:
    value, tried = results.best_value(experiment, point), results.tried(experiment, point)
    edge = ", at the edge" if len(tried) > 1 and value in (min(tried), max(tried)) else ""
    return f"{value:g} (of {len(tried)}{edge})"
