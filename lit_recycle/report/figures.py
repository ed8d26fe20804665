"""The figures of a report: of one run, and of several beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from lit_recycle.report import plots
from lit_recycle.report.plots import Curve, Mark
from lit_recycle.report.read import Axis, RunLog, Series
from lit_recycle.training.tensorboard import VALIDATION

AXES: dict[Axis, str] = {
    "steps": "optimizer steps",
    "tokens": "training tokens",
    "flops": "training FLOPs",
    "extra": "training FLOPs since the first growth",
}
LOSS = "loss (nats per token)"
EPOCHS, FORGETTING = "data/epochs_", "forgetting/"
ROOM_FOR_LABELS = 40
"""Characters beside each other above a figure."""
NAMED_SET = re.compile(VALIDATION)


class Plate(NamedTuple):
    """A figure on the page."""

    name: str
    caption: str
    figure: Figure


def plates(run: RunLog) -> dict[str, list[Plate]]:
    """The figures of one run, by section; what was not logged is left out."""
    sections = {"Loss": _loss, "Growth": _growth, "Expert load": _load, "Weight norms": _norms}
    sections |= {"Validation sets": _validation, "Data": _data, "Compute": _compute}
    made = {name: [plate for plate in make(run) if plate] for name, make in sections.items()}
    return {name: found for name, found in made.items() if found}


def comparison(runs: Sequence[RunLog]) -> list[Plate]:
    """Several runs over the same axes: total FLOPs, FLOPs since growth, tokens."""
    captions: dict[Axis, tuple[str, str]] = {
        "flops": ("the same total FLOPs", ": what was sunk before the growth counts"),
        "extra": (
            "the same extra FLOPs",
            ": what was sunk before the first growth is a gift, and nothing where there is none",
        ),
        "tokens": ("the same tokens", ""),
        "steps": ("the same steps", ""),
    }
    made = []
    for axis, (budget, meaning) in captions.items():
        lines, marks = [], []
        for number, run in enumerate(runs):
            loss = judged_by(run)
            x = run.at(loss.steps, axis)
            lines.append(Curve(run.name, x[x >= 0], loss.values[x >= 0]))
            colour = plots.COLOURS[number % len(plots.COLOURS)]
            marks += [Mark(run.at([r["steps"]], axis)[0], "", colour) for r in run.growth]
        figure = plots.curves(lines, AXES[axis], LOSS, f"{_title(runs)} on {budget}", marks)
        made.append(Plate(f"compare_{axis}", f"On {budget}{meaning}. Dashed lines are growths.", figure))
    return made


def judged_by(run: RunLog) -> Series:
    """Validation loss where it was measured, smoothed training loss otherwise."""
    val = run.scalars.get("loss/val")
    return val if val is not None and len(val.steps) > 1 else smooth(run.scalars["loss/train"])


def smooth(series: Series, points: int = 5) -> Series:
    """Mean over the present and the last few points."""
    window = [series.values[max(i - points + 1, 0) : i + 1].mean() for i in range(len(series.values))]
    return Series(series.steps, np.array(window))


def _title(runs: Sequence[RunLog]) -> str:
    kinds = {"validation loss" if judged_by(run) is run.scalars.get("loss/val") else "training loss" for run in runs}
    return " / ".join(sorted(kinds)).capitalize()


def _marks(run: RunLog, axis: Axis) -> list[Mark]:
    """Growths by what they were; by their numbers in the table of stages where there is no room for so many words."""
    labels = [r["label"] for r in run.growth]
    if sum(map(len, labels)) > ROOM_FOR_LABELS:
        labels = [str(number) for number, _ in enumerate(labels, 1)]
    return [Mark(run.at([r["steps"]], axis)[0], label) for r, label in zip(run.growth, labels, strict=True)]


def _lines(run: RunLog, named: dict[str, str], axis: Axis = "steps") -> list[Curve]:
    """Curves of the tags that were logged, by label."""
    return [
        Curve(label, run.at(run.scalars[tag].steps, axis), run.scalars[tag].values)
        for label, tag in named.items()
        if tag in run.scalars
    ]


def _plate(run: RunLog, name: str, caption: str, ylabel: str, named: dict[str, str], title: str) -> Plate | None:
    lines = _lines(run, named)
    if not lines:
        return None
    return Plate(name, caption, plots.curves(lines, AXES["steps"], ylabel, title, _marks(run, "steps")))


def _loss(run: RunLog) -> list[Plate | None]:
    made: list[Plate | None] = []
    axes: tuple[Axis, ...] = ("steps", "tokens", "flops")
    for axis in axes:
        lines = _lines(run, {"training": "loss/train", "validation": "loss/val"}, axis)
        figure = plots.curves(lines, AXES[axis], LOSS, f"Loss over {AXES[axis]}", _marks(run, axis))
        made.append(Plate(f"loss_{axis}", f"Loss over {AXES[axis]}; dashed lines are growths.", figure))
    return made


def _growth(run: RunLog) -> list[Plate | None]:
    names = {
        "experts, weights": "experts_weights",
        "experts, first moment": "experts_momentum",
        "layers, weights": "layers_weights",
        "layers, first moment": "layers_momentum",
    }
    return [
        _plate(
            run,
            "growth_recovery",
            "Training loss (mean of some steps) minus its value right before the last growth, and minus what the small "
            "model would have come to with the same compute, by its trend: below zero the growth has paid back.",
            "nats per token",
            {"before the growth": "growth/loss_vs_before", "the small model": "growth/loss_vs_small"},
            "Recovery of the loss",
        ),
        _plate(
            run,
            "growth_cosines",
            "How copies part from their originals, in weights and in the optimizer's first moment; mean over copies.",
            "cosine",
            {label: f"growth/cosine_{tag}" for label, tag in names.items()},
            "Copies and their originals",
        ),
        _plate(
            run,
            "growth_token_share",
            "Share of the routed tokens that go to copied experts; a half after a growth by two, if none is preferred.",
            "share of tokens",
            {"": "growth/copies_token_share"},
            "Tokens that go to copied experts",
        ),
    ]


def _load(run: RunLog) -> list[Plate | None]:
    made: list[Plate | None] = []
    if maps := run.arrays.get("experts/load"):
        step, load_LE = maps[-1]
        experts = next(s.sizes["experts_by_layer"] for s in reversed(run.stages()) if s.begin[0] <= step)
        layers = [i for i, count in enumerate(experts) if count]
        caption = f"Load of every expert in step {step:,}: orange gets more than its share, purple less."
        made.append(Plate("expert_load", caption, plots.load_map(load_LE, layers)))
    charts = {
        "load_max": ("Busiest expert", "load / ideal load", "Load of the busiest expert of all layers; 1 is even."),
        "effective": ("Effective number of experts", "experts", "exp(entropy of the load), mean over layers."),
        "dead": ("Experts without a token", "experts", "Experts that got no token in the step, over all layers."),
    }
    for tag, (title, ylabel, caption) in charts.items():
        made.append(_plate(run, f"experts_{tag}", caption, ylabel, {"": f"experts/{tag}"}, title))
    return made


def _norms(run: RunLog) -> list[Plate | None]:
    profiles = run.arrays.get("norms/profile", [])
    if not profiles:
        return []
    named = {}
    for number, (step, values) in enumerate(run.arrays.get("norms/profile/before_growth", [])[-2:], 1):
        label = next((r["label"] for r in run.growth if r["steps"] == step), f"growth {number}")
        named[f"before {label}, step {step:,}"] = values
        named[f"after {label}"] = next(v for s, v in reversed(profiles) if s == step)
    step, last = profiles[-1]
    named[f"step {step:,}"] = last
    caption = (
        "Root mean square of the experts' weights, layer by layer, from the first layer (0 %) to the last (100 %)."
    )
    return [Plate("norm_profile", caption, plots.profiles(named))]


def _validation(run: RunLog) -> list[Plate | None]:
    losses = {match[1]: tag for tag in sorted(run.scalars) if (match := NAMED_SET.fullmatch(tag))}
    bits = {name: f"{tag}_bits_per_byte" for name, tag in losses.items()}
    made = [
        _plate(run, "validation_loss", "Loss of each validation set.", LOSS, losses, "Validation sets"),
        _plate(run, "validation_bits", "Bits per byte of each validation set.", "bits per byte", bits, "Bits per byte"),
    ]
    for since, what in (("start", "the one at the start"), ("growth", "the one before the last growth")):
        ending = f"_since_{since}"
        tags = [tag for tag in sorted(run.scalars) if tag.startswith(FORGETTING) and tag.endswith(ending)]
        named = {tag.removeprefix(FORGETTING).removesuffix(ending): tag for tag in tags}
        caption = f"Validation loss minus {what}: above zero is forgotten, below it learnt."
        made.append(_plate(run, f"forgetting_{since}", caption, "nats per token", named, f"Loss minus {what}"))
    return made


def _data(run: RunLog) -> list[Plate | None]:
    named = {tag.removeprefix(EPOCHS): tag for tag in sorted(run.scalars) if tag.startswith(EPOCHS)}
    caption = "How often each source of the data has been gone through."
    return [_plate(run, "data_epochs", caption, "epochs", named, "Epochs of each source")]


def _compute(run: RunLog) -> list[Plate | None]:
    sizes = {
        "parameters": "compute/params",
        "active": "compute/active_params",
        "mean over tokens": "compute/params_mean",
        "active, mean over tokens": "compute/active_params_mean",
    }
    sunk = {"all": "compute/flops", "sunk before the first growth": "compute/flops_sunk"}
    return [
        _plate(
            run,
            "compute_params",
            "Parameters now, and their mean over the tokens so far.",
            "parameters",
            sizes,
            "Parameters",
        ),
        _plate(
            run,
            "compute_flops",
            "Training FLOPs; what lies above the sunk ones is extra.",
            "FLOPs",
            sunk,
            "Training FLOPs",
        ),
        _plate(
            run,
            "compute_speed",
            "Tokens per second of all processes, without validation and growing.",
            "tokens / s",
            {"": "compute/tokens_per_second"},
            "Tokens per second",
        ),
        _plate(
            run, "compute_mfu", "FLOPs per second as a share of the devices' peak.", "share", {"": "compute/mfu"}, "MFU"
        ),
    ]
