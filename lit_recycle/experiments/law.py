"""The page's section on the loss law that all runs are held against, and its figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from lit_recycle.advice.law import FEWEST, Forecast, final_size
from lit_recycle.advice.ranking import cases
from lit_recycle.advice.runs import read_runs
from lit_recycle.experiments.figures import Plate
from lit_recycle.experiments.results import Results
from lit_recycle.report.plots import COLOURS, STYLE

TITLE = "h. One law for what was grown and what was not"
QUESTION = """\
*The Journey Matters* (arXiv 2501.12486) puts the parameters averaged over training into Chinchilla's law, so that runs
whose size changes on the way obey it too. It is fitted here on all runs of this page, each kind at its best rate; the
size is N_a^(1−s)·N^s, between active and all parameters. Beside it stands the same law with the parameters at the end.
An error is the root mean square, over kinds of runs, of the measured loss minus what a law says of it that was fitted
without all runs of the same sizes and tokens."""


def law_section(results: Results) -> tuple[str, list[Plate]]:
    """Markdown, and the figure; a sentence while there are too few results."""
    runs = read_runs([results.folder]) if results.files else ()
    parts = [f"## {TITLE}", "", QUESTION, ""]
    if len({run.parts for run in runs}) <= FEWEST + 1:
        return "\n".join([*parts, "Not enough runs yet.", ""]), []
    average, final = Forecast(runs), Forecast(runs, final_size)
    lines = ["| size in the law | law | error when left out |", "| --- | --- | --- |"]
    for name, forecast in (("averaged over tokens", average), ("at the end", final)):
        lines.append(f"| {name} | {forecast.law} | {forecast.error:.4f} |")
    found = list(cases(runs))
    right = sum(case.is_right for case in found)
    share = f"{right / max(len(found), 1):.0%}"
    ranking = (
        f"**Ranking.** Going on small, growing, or a large model from scratch: in {len(found)} pairs of an experiment "
        f"the losses differ by more than two standard errors. A law fitted without runs like either puts {right} of "
        f"them in the right order ({share}). `lit-recycle advise --runs results` predicts by it."
    )
    caption = "Loss at the end, measured and as a law says that was fitted without runs like it; a dot is a kind."
    plate = Plate(
        "law", caption, _figure((("averaged", average), ("at the end", final))), list(results.by_key.values())
    )
    picture = [f"![{caption}](images/evidence/law.png)", "", f"*{caption}*", ""]
    return "\n".join([*parts, *lines, "", ranking, "", *picture, "`make evidence`, from all results.", ""]), [plate]


@mpl.rc_context(STYLE)
def _figure(forecasts: Sequence[tuple[str, Forecast]]) -> Figure:
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, forecast), colour in zip(forecasts, COLOURS, strict=False):
        losses = {kind: [run.loss for run in forecast.runs if run.kind == kind] for kind in forecast.misses}
        means = [sum(found) / len(found) for found in losses.values()]
        said = [mean - miss for mean, miss in zip(means, forecast.misses.values(), strict=True)]
        label = f"parameters {name}: error {forecast.error:.3f}"
        axes.plot(means, said, "o", color=colour, markersize=4, label=label)
    axes.axline((means[0], means[0]), slope=1, color="0.6", linewidth=1, zorder=0)
    axes.set_xlabel("measured validation loss (nats per byte)")
    axes.set_ylabel("predicted (nats per byte)")
    axes.legend()
    return figure
