"""The page's section on the loss law that all runs are held against, and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import matplotlib as mpl
from matplotlib.figure import Figure

from lit_recycle.advice.law import Finished, Forecast, final_size
from lit_recycle.advice.ranking import Case, cases
from lit_recycle.advice.runs import finished, read_runs
from lit_recycle.experiments.definition import Experiment, label
from lit_recycle.experiments.figures import Plate
from lit_recycle.experiments.results import Results
from lit_recycle.report.plots import COLOURS, STYLE

TITLE = "h. One law for what was grown and what was not"
QUESTION = """\
*The Journey Matters* (arXiv 2501.12486) puts the parameters averaged over training into Chinchilla's law, so that runs
whose size changes on the way obey it too. It is fitted here on all runs of this page, each kind at its best rate; the
size is N_a^(1−s)·N^s, between active and all parameters. Beside it stands the same law with the parameters at the end.
An error is the root mean square, over kinds of runs, of the measured loss minus what a law says of it that was fitted
without all runs like it: of the same sizes, each for the same number of tokens to a tenth."""


def law_section(experiments: Sequence[Experiment], results: Results) -> tuple[str, list[Plate]]:
    """Markdown, and the figure; a sentence while there are too few results."""
    runs = read_runs([results.folder]) if results.files else ()
    parts = [f"## {TITLE}", "", QUESTION, ""]
    average, final = Forecast(runs), Forecast(runs, final_size)
    lines = ["| size in the law | law | error when left out |", "| --- | --- | --- |"]
    try:
        for name, forecast in (("averaged over tokens", average), ("at the end", final)):
            lines.append(f"| {name} | {forecast.law} | {forecast.error:.4f} |")
        ranking = _ranking(list(cases(runs, members(experiments, results))))
    except ValueError as error:  # too few runs, or of one size
        return "\n".join([*parts, f"Not enough runs yet: {error}.", ""]), []
    caption = "Loss at the end, measured and as a law says that was fitted without runs like it; a dot is a kind."
    plate = Plate(
        "law", caption, _figure((("averaged", average), ("at the end", final))), list(results.by_key.values())
    )
    picture = [f"![{caption}](images/evidence/law.png)", "", f"*{caption}*", ""]
    parts += [*lines, "", ranking, "", *_misses(experiments, average), *picture]
    return "\n".join([*parts, "`make evidence`, from all results.", ""]), [plate]


def _misses(experiments: Sequence[Experiment], forecast: Forecast) -> list[str]:
    """The main comparison and its repetitions, which differ in size and budget: where the law goes wrong."""
    lines = [
        "**Where it is off.** The main comparison and its repetitions, each kind by the law of all runs unlike it:",
        "",
        "| experiment | arm | measured | by the law | miss |",
        "| --- | --- | --- | --- | --- |",
    ]
    wrong = []
    for experiment in (e for e in experiments if e.letter == "e" and not e.times_steps):
        kinds = [kind for kind in forecast.means if kind[0] == experiment.name]
        for kind in kinds:
            mean, miss = forecast.means[kind], forecast.misses[kind]
            lines.append(f"| {kind[0]} | {kind[1]} | {mean:.4f} | {mean - miss:.4f} | {miss:+.4f} |")
        for one, other in combinations(kinds, 2):
            measured = forecast.means[one] - forecast.means[other]
            if measured * (measured - forecast.misses[one] + forecast.misses[other]) < 0:
                wrong.append(f"*{one[1]}* and *{other[1]}* of {one[0]} ({measured:+.4f} apart)")
    return [*lines, "", f"In the wrong order: {', '.join(wrong) or 'none'}.", ""]


def members(experiments: Sequence[Experiment], results: Results) -> list[Finished]:
    """The runs of every experiment that compares losses; one that several experiments ask for is in each of them."""
    return [
        replace(finished(result), group=experiment.name, variant=label(point))
        for experiment in experiments
        if not experiment.times_steps
        for point, _ in experiment.variants
        for result in results.at(experiment, point)
    ]


def _ranking(found: Sequence[Case]) -> str:
    def share(count: int, of: int) -> str:
        return f"{count} ({count / max(of, 1):.0%})"

    right, simple = (sum(c.is_right for c in found), sum(c.more_tokens for c in found))
    equal = [case for case in found if case.is_equal]
    alone = sum(case.is_right for case in equal), sum(case.more_tokens for case in equal)
    return (
        f"**Ranking.** Going on small, growing, or a large model from scratch: in {len(found)} pairs of an experiment "
        f"the losses differ by more than two standard errors. A law fitted without runs like either puts "
        f"{share(right, len(found))} of them in the right order; that the one with more tokens is better would be "
        f"right in {share(simple, len(found))}. Of the {len(equal)} pairs at equal FLOPs the law has "
        f"{share(alone[0], len(equal))}, and more tokens {share(alone[1], len(equal))}. "
        "(What is pruned goes none of these ways, and a pair that experiments share is one. Pairs of one experiment "
        "have runs in common, so that they are fewer than they look.) The numbers in a law mean little one by one: "
        "floor and exponents of the two differ, and fit almost as well. "
        "`lit-recycle advise --runs results` predicts by this law."
    )


@mpl.rc_context(STYLE)
def _figure(forecasts: Sequence[tuple[str, Forecast]]) -> Figure:
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, forecast), colour, face in zip(forecasts, COLOURS, (None, "none"), strict=False):
        means = list(forecast.means.values())
        said = [mean - miss for mean, miss in zip(means, forecast.misses.values(), strict=True)]
        told = f"parameters {name}: error {forecast.error:.3f}"
        axes.plot(means, said, "o", color=colour, markerfacecolor=face, markersize=4, label=told)
    axes.axline((means[0], means[0]), slope=1, color="0.6", linewidth=1, zorder=0)
    axes.set_xlabel("measured validation loss (nats per byte)")
    axes.set_ylabel("predicted (nats per byte)")
    axes.legend()
    return figure
