"""Figures that monitors put into TensorBoard and the report puts on its page: the same ones. Matplotlib, no display.

Axes: L layers, E experts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, MaxNLocator, ScalarFormatter

from lit_recycle.text import human

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers too; line styles change after one round."""
DASHES = ("-", "--", ":")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.edgecolor": "none",
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}


_DECIMAL_ZEROS = re.compile(r"(?:\.|(\.\d*?[1-9]))0+(?=\D|$)")


class Curve(NamedTuple):
    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray


class Mark(NamedTuple):
    """A vertical line at an event."""

    x: float
    label: str
    colour: str = "#666666"


def new_figure(width: float = 5.0, height: float = 3.2) -> tuple[Figure, Axes]:
    """A figure in the house's style, of so few inches that its letters can be read where it is shown as a thumbnail."""
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    return figure, figure.add_subplot()


@mpl.rc_context(STYLE)
def curves(
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    title: str = "",
    marks: Sequence[Mark] = (),
    *,
    markers: bool = False,
    legend: bool = True,
) -> Figure:
    """Lines over an axis of counts, with events as labelled vertical lines.

    The view leaves out the steep beginning: its top is where the curves are after a twentieth of their points.
    """
    figure, axes = new_figure()
    for i, line in enumerate(lines):
        colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        marker = "o" if markers else None
        axes.plot(line.x, line.y, label=line.label, marker=marker, markersize=4, color=colour, linestyle=dashes)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title, pad=22 if marks else 8)
    for axis, label in ((axes.xaxis, xlabel), (axes.yaxis, ylabel)):
        axis.set_major_formatter(_count_format(label))
    _limit(axes, lines)
    _mark(axes, marks)
    if len(lines) > 1 and legend:
        _legend(axes)
    return figure


def _count_format(label: str) -> Formatter:
    """Ticks of counts: FLOPs with physicists' prefixes (G, T), tokens and parameters with accountants' (M, B)."""
    if "FLOPs" in label:
        return EngFormatter(sep="")
    if any(count in label for count in ("tokens", "steps", "parameters")):
        return FuncFormatter(lambda value, _: _DECIMAL_ZEROS.sub(r"\1", human(value)))
    return ScalarFormatter(useOffset=False)


def _limit(axes: Axes, lines: Sequence[Curve]) -> None:
    finite = [np.asarray(line.y, float)[np.isfinite(line.y)] for line in lines]
    finite = [y for y in finite if y.size]
    if not finite:
        return
    low, high = min(y.min() for y in finite), max(y[y.size // 20 :].max() for y in finite)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)


def _mark(axes: Axes, marks: Sequence[Mark]) -> None:
    for mark in marks:
        axes.axvline(mark.x, color=mark.colour, linestyle=(0, (4, 3)), linewidth=1.0, zorder=0)
        axes.annotate(
            mark.label,
            (mark.x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color="#444444",
        )


def _legend(axes: Axes) -> None:
    """Inside where two curves leave room, below the axes otherwise: over no curve."""
    count = len(axes.get_legend_handles_labels()[0])
    if count <= 2:
        axes.legend(loc="best")
    else:
        assert isinstance(axes.figure, Figure)
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=9)


@mpl.rc_context(STYLE)
def load_map(load_LE: np.ndarray, layers: Sequence[int]) -> Figure:
    """Heat map of the experts' load relative to the ideal, on a scale of doublings; a cross on grey for none."""
    load_LE = np.asarray(load_LE, float)
    rows, experts = load_LE.shape
    figure, axes = new_figure(min(3.6 + 0.1 * experts, 6.0), min(1.8 + 0.16 * rows, 6.0))
    doublings = np.log2(load_LE, out=np.full_like(load_LE, np.nan), where=load_LE > 0)
    norm, colours = TwoSlopeNorm(vmin=-2.0, vcenter=0.0, vmax=2.0), mpl.colormaps["PuOr_r"].with_extremes(bad="#bbbbbb")
    axes.imshow(doublings, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    dead = np.argwhere(load_LE == 0)
    axes.scatter(dead[:, 1], dead[:, 0], marker="x", color="black", s=18, linewidths=1.0)
    axes.grid(False)
    axes.set(xlabel="expert", ylabel="layer")
    axes.set_title(f"Tokens per expert, relative to an even load{' (× = none)' if len(dead) else ''}")
    axes.xaxis.set_major_locator(MaxNLocator(min(experts, 16), integer=True))
    shown = range(0, rows, math.ceil(rows / 24))
    axes.set_yticks(list(shown), [str(layers[i]) for i in shown])
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, extend="both", ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])
    bar.set_label("load / ideal load")
    return figure


@mpl.rc_context(STYLE)
def profiles(named: Mapping[str, Sequence[float] | np.ndarray], title: str = "Layer-wise weight norm") -> Figure:
    """Norm profiles over the depth of the model, so that models of different depth can be laid over each other."""
    lines = []
    for label, values in named.items():
        depth = (np.arange(len(values)) + 0.5) / len(values) * 100
        lines.append(Curve(label, depth.tolist(), list(values)))
    figure = curves(
        lines, "position in the model (% of its layers)", "root mean square weight", title, markers=True, legend=False
    )
    axes = figure.axes[0]
    values = [v for line in lines for v in line.y if math.isfinite(v)]
    axes.set_ylim(min(values) - 0.1 * _spread(values), max(values) + 0.1 * _spread(values))
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter("{x:.0f}")
    for line in axes.lines:
        if str(line.get_label()).startswith("after"):  # lies on the one before where a growth changes no norm
            line.set_linestyle("--")
    _legend(axes)
    return figure


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) or abs(max(values)) or 1.0


@mpl.rc_context(STYLE)
def cosines(named: Mapping[str, Sequence[float]], step: int) -> Figure:
    """Cosine of copies with their originals, layer by layer; layers without copies are left out."""
    lines = []
    for label, values in named.items():
        there = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
        lines.append(Curve(label, [i for i, _ in there], [v for _, v in there]))
    title = f"Copies and their originals, step {step:,}"
    figure = curves(lines, "layer", "cosine", title, markers=True, legend=False)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].xaxis.set_major_formatter("{x:.0f}")
    low = min((v for line in lines for v in line.y), default=0.0)
    figure.axes[0].set_ylim(
        min(low, 0.0) - 0.05 if low < 0.5 else low - 0.05 * (1.05 - low) - 1e-4, 1.0 + 0.02 * (1.1 - low)
    )
    _legend(figure.axes[0])
    return figure
