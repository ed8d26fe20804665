"""The page of evidence and its figures, made from the results and from nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from lit_recycle.experiments.definition import Experiment
from lit_recycle.experiments.figures import Plate, plates
from lit_recycle.experiments.law import law_section
from lit_recycle.experiments.repeated import repeated_section
from lit_recycle.experiments.results import Results, interval, spread
from lit_recycle.experiments.saved import Clock, Ratio, compute_saved
from lit_recycle.experiments.tables import table
from lit_recycle.experiments.verdicts import correlations, verdicts

IMAGES = "images/evidence"
MADE_BY = "<!-- Made by `make evidence` from results/ and configs/experiments/. Edit those, not this. -->"

INTRODUCTION = """\
# Evidence

What this program finds when it repeats the claims of the method, at a size that two CPU cores can do. Every number is
made from the files in `results/`, one per run; every run is a `lit-recycle fit` whose configuration stands in its file.

```bash
make experiments                  # all that has no result yet, resumable at any moment; first the plan of its time
make experiments ONLY=headline    # one experiment
make evidence                     # this page and its figures, from the results
make reproduce ONLY=headline      # the same runs once more in again/, whether they agree, and again/evidence.md of them
```

**Sizes.** Unless an experiment says otherwise, the small model has {active} active parameters, so that
F_c = 120·N_a² is {unit:.2g} FLOPs; budgets are given in it. Tokens are bytes here: 1 F_c is {per_parameter:.0f} bytes
for each active parameter, with attention counted, and less text than as many tokens of a usual tokenizer. Runs of a
seed share the order of the data and, where they begin with the same model, its initial weights, so differences are
taken seed by seed. Every arm has the learning rate that is best for it where the table says so. Elsewhere all have the
one that is best for the small model with 4 F_c in all; with 16 F_c every arm wants half of it, and a larger hidden size
may want less, too.

**Text.** {text}

**Metrics.** *Loss*: nats per byte over 400,000 bytes of held-out documents, the same for every model. *Bits per byte*:
the same, over ln 2. *Accuracy*: 1,000 times, the true 32 bytes that follow 96 bytes of a held-out document stand among
three other places of that document, and the model must find them the likeliest; chance is 25 %. Curves are of the
first 32,768 of the bytes, so that a curve does not end at the table's number.

**Words.** ± is the standard error of the mean over seeds. *Inside the noise*: zero lies in the 95 % interval of the
difference (Student's t: for three seeds 4.3 standard errors to each side), or in the one that follows from all
differences of the experiment together, for three seeds can be alike by chance. *Agrees* and *contradicts* are said of
what is claimed, at this size; *A against B* is a comparison of which nobody claims anything. Of {verdicts} comparisons
{clear} stand outside the noise, where one in twenty would if nothing differed, and ± says nothing of the text and of
the thousand items, which are the same in all. At equal
FLOPs the variant of fewer FLOPs per token has seen more tokens, which may be all that a difference is: a column has
them. All but e and some points of a and d have at most 4 F_c, most of them 1 before the growth; where more was tried
(a, e) differences shrank or changed sides. None of it says what happens at the paper's sizes.
"""
READ_OFF = (
    "Read off the curve of a run whose rate decays only at its end, in a straight line between its points: a run made "
    "for that loss would need less. Time is that of one thread, each size at its speed below."
)


def write_page(experiments: Sequence[Experiment], results: Results, docs: Path) -> Path:
    """Write ``evidence.md`` and its figures; figures that are no longer on it are removed."""
    text, made = render(experiments, results)
    folder = docs / IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for plate in made:
        (folder / f"{plate.name}.png").write_bytes(plate.png())
    for stray in {path.stem for path in folder.glob("*.png")} - {plate.name for plate in made}:
        (folder / f"{stray}.png").unlink()
    page = docs / "evidence.md"
    page.write_text(text, encoding="utf-8")
    return page


def render(experiments: Sequence[Experiment], results: Results) -> tuple[str, list[Plate]]:
    """The page's text, and the figures that it shows."""
    ordered = sorted(experiments, key=lambda e: (e.letter != "e", e.letter, e.name))  # the main comparison comes first
    parts, made = [MADE_BY, _introduction(ordered, results), _overview(ordered, results)], []
    clock = Clock([run for e in ordered if e.times_steps for p, _ in e.variants for run in results.at(e, p)])
    for experiment in ordered:
        figures = plates(experiment, results)
        parts.append(_section(experiment, results, figures, clock))
        made += figures
    text, figures = law_section(ordered, results)
    repeated = repeated_section(ordered, results)
    return "\n".join([*parts, text, *([repeated] if repeated else [])]), made + figures


def _introduction(experiments: Sequence[Experiment], results: Results) -> str:
    main = experiments[0]
    active = main.small.num_active_params()
    lines = [line for experiment in experiments for line in verdicts(experiment, results)]
    several = [line for line in lines if " seeds" in line]  # of one seed there is no interval
    clear = sum("inside the noise" not in line for line in several)
    text = _text(results.folder / "corpus.json")
    seen = main.unit / main.small.num_flops_per_token(main.base["data"]["seq_len"]) / active
    return INTRODUCTION.format(
        active=f"{active:,}", unit=main.unit, per_parameter=seen, text=text, verdicts=len(several), clear=clear
    )


def _text(file: Path) -> str:
    if not file.exists():
        return "No run has been made yet."
    said = []
    for about in json.loads(file.read_text(encoding="utf-8")).values():
        said.append(
            f"The Python {about['python']} standard library, byte by byte: {about['documents']:,} files, "
            f"{about['bytes'] / 1e6:.1f} MB. {about['held_out_documents']} whole files "
            f"({about['held_out_bytes'] / 1e6:.2f} MB) are held out, chosen by a hash of their content. Before that, "
            f"{about['near_duplicates']} files ({about['near_duplicate_bytes'] / 1e6:.2f} MB) were left out because "
            "more than 30 % of their windows of three lines stand in another file too; what is left in common between "
            f"held-out and training files is {about['mean_overlap']:.1%} of the windows on average, "
            f"{about['max_overlap']:.0%} at the most."
        )
    return "\n".join(said)


def _overview(experiments: Sequence[Experiment], results: Results) -> str:
    lines = ["## What has been run", "", "| | experiment | results | command |", "| --- | --- | --- | --- |"]
    for e in experiments:
        done, planned = count(e, results)
        cells = (
            e.letter,
            f"[{e.title}](#{_anchor(_heading(e))})",
            f"{done} of {planned} runs",
            f"`make experiments ONLY={e.name}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def count(experiment: Experiment, results: Results) -> tuple[int, int]:
    """Runs with results, and runs in all."""
    known = results.runs(experiment)
    waiting = 0
    if experiment.best_of:
        waiting = len(experiment.seeds_after_sweep()) * len(experiment.variants)
        waiting -= sum(run.seed not in experiment.best_of.seeds for run in known)
    return sum(results.get(run) is not None for run in known), len(known) + waiting


def _heading(experiment: Experiment) -> str:
    return f"{experiment.letter}. {experiment.title}"


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    kept = [c for c in heading.lower() if c.isalnum() or c in " -_"]
    return "".join(kept).replace(" ", "-")


def _section(experiment: Experiment, results: Results, figures: Sequence[Plate], clock: Clock) -> str:
    done, planned = count(experiment, results)
    parts = [f"## {_heading(experiment)}", "", experiment.question, "", f"*The paper*: {experiment.paper}", ""]
    active = experiment.small.num_active_params()
    small = f"*The small model*: {active:,} active parameters, F_c = {experiment.unit:.2e} FLOPs."
    decays = {settings.decay for _, settings in experiment.variants}
    if len(decays) == 1:
        small += f" The rate falls to a tenth in the last {decays.pop():g} F_c of every run."
    parts += [small, ""]
    if not done:
        return "\n".join([*parts, "Not run yet.", ""])
    if done < planned:
        parts += [f"**Incomplete: {done} of {planned} runs have results.** What follows may change.", ""]
    parts += table(experiment, results)
    parts += verdicts(experiment, results)
    parts += correlations(experiment, results)
    parts += _saved(experiment, results, clock)
    for plate in figures:
        parts += [f"![{plate.caption}]({IMAGES}/{plate.name}.png)", "", f"*{plate.caption}*", ""]
    parts += [f"`make experiments ONLY={experiment.name}`; {_machines(experiment, results)}", ""]
    return "\n".join(parts)


def _saved(experiment: Experiment, results: Results, clock: Clock) -> list[str]:
    if not (pair := experiment.figure.get("saved")):
        return []
    axis = next(iter(experiment.axes))
    first, second = (results.at(experiment, {axis: name}) for name in (pair["of"], pair["against"]))
    saved = compute_saved(first, second, clock)
    if saved is None:
        return []
    said = f"**Compute saved.** *{pair['of']}* reaches the final loss of *{pair['against']}*"
    if not saved.reached:
        return [f"{said} in none of {saved.seeds} seeds: nothing is saved.", ""]
    return [f"{said} in {len(saved.reached)} of {saved.seeds} seeds, {amounts(saved.reached)}.", f"{READ_OFF}", ""]


def amounts(reached: Sequence[Ratio]) -> str:
    """FLOPs and time, as shares of the other run's, with standard errors."""
    low, high = min(r.between[0] for r in reached), max(r.between[1] for r in reached)
    flops, time = spread([r.flops for r in reached]), spread([r.seconds for r in reached])
    digits = 3 if flops.n > 1 else 2
    of_time = "" if math.isnan(time.mean) else f" and {time.text(digits)} of its time"
    if time.n > 1 and abs(1 - time.mean) <= interval(time):
        of_time += ", the latter inside the noise"
    return f"after {flops.text(digits)} of its FLOPs (the curves have points at {low:.2f} and {high:.2f}){of_time}"


def _machines(experiment: Experiment, results: Results) -> str:
    runs = [result for run in results.runs(experiment) if (result := results.get(run))]
    machines = sorted(
        {f"{r['machine']}, torch {r['versions']['torch']}, Python {r['versions']['python']}" for r in runs}
    )
    seconds = sum(r["cpu_seconds"] for r in runs)
    return (
        f"{len(runs)} runs, {seconds / 60:.0f} minutes of CPU time counted from step 0 of each; {'; '.join(machines)}."
    )
