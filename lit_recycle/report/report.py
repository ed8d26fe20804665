"""Report of one or several runs: what is on the page, in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from lit_recycle.report.figures import Plate, comparison, judged_by, plates
from lit_recycle.report.page import folded, heading, page, pictures, png, preformatted, table
from lit_recycle.report.read import Axis, RunLog, read_run
from lit_recycle.text import human

SAMPLE = "run/sample"


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write ``report.html`` and its pictures as PNGs into ``out``; returns the page's path.

    Raises:
        ValueError: For a folder that holds no logs to report on.
    """
    runs = _named_apart([read_run(folder) for folder in folders])
    sections = {run.name: plates(run) for run in runs}
    compared = comparison(runs) if len(runs) > 1 else []
    every = {plate.name: plate for plate in compared}
    for run in runs:
        for section, made in sections[run.name].items():
            sections[run.name][section] = [_unique(plate, run, len(runs) > 1) for plate in made]
            every |= {plate.name: plate for plate in sections[run.name][section]}
    out.mkdir(parents=True, exist_ok=True)
    files = {name: png(plate.figure) for name, plate in track(every.items(), description="drawing", transient=True)}
    for name, data in files.items():
        _write(out / f"{name}.png", data)
    parts = []
    if compared:
        parts += [heading("Runs compared"), budgets(runs), pictures(compared, files)]
    for run in runs:
        parts += run_parts(run, sections[run.name], files, level=3 if compared else 2)
    title = " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    _write(out / "report.html", page(f"Report: {title}", _lead(runs), parts).encode())
    return out / "report.html"


def run_parts(run: RunLog, sections: dict[str, list[Plate]], files: dict[str, bytes], level: int) -> list[str]:
    """The part of the page on one run."""
    parts = [heading(f"Run {run.name}")] if level > 2 else []
    parts += [heading("Stages", level), stage_table(run)]
    for name, made in sections.items():
        parts += [heading(name, level), pictures(made, files)]
    if SAMPLE in run.texts:
        parts += [heading("Sampled text", level), preformatted(run.texts[SAMPLE].removeprefix("```\n")[:-4])]
    config = run.folder / "config.yaml"
    if config.exists():
        text = config.read_text(encoding="utf-8")
        parts += [heading("Configuration", level), folded("config.yaml", preformatted(text))]
    return parts


def stage_table(run: RunLog) -> str:
    """A row per stage: what it was, what it cost, what came of it."""
    head = ["stage", "steps", "layers × experts (top-k)", "parameters", "active", "tokens", "FLOPs"]
    head += ["loss before → after growth", "val. loss at the end", "tokens / s"]
    rows = []
    for number, stage in enumerate(run.stages()):
        size, record = stage.sizes, stage.record
        steps, tokens, flops = (end - begin for begin, end in zip(stage.begin, stage.end, strict=True))
        losses = (record["loss_before"], record["loss_after"]) if record else (None, None)
        rows.append(
            (
                f"{number} {record['label'] if record else 'start'}",
                f"{stage.begin[0]:,} – {stage.end[0]:,}" if steps else f"{stage.begin[0]:,}",
                f"{size['layers']} × {size['experts']} ({size['top_k']})",
                human(size["params"]),
                human(size["active_params"]),
                human(tokens),
                f"{flops:.3g}",
                f"{losses[0]:.4f} → {losses[1]:.4f}" if losses[0] is not None else "–",
                _number(_last(run, "loss/val", stage.begin[0], stage.end[0]), ".4f"),
                _number(_mean(run, "compute/tokens_per_second", stage.begin[0], stage.end[0]), ",.0f"),
            )
        )
    return table(head, rows)


def budgets(runs: Sequence[RunLog]) -> str:
    """Runs beside each other: in the end, and where each had spent what the thriftiest has in all."""
    total = min(run.end[2] for run in runs)
    extra = min(run.end[2] - run.sunk_flops for run in runs)
    head = ["run", "growths", "parameters", "tokens", "FLOPs", "sunk", "extra", "loss at the end"]
    head += [f"loss at {total:.3g} total FLOPs", f"loss at {extra:.3g} extra FLOPs"]
    rows = []
    for run in runs:
        params = run.stages()[-1].sizes["params"]
        _, tokens, flops = run.end
        rows.append(
            (
                run.name,
                "; ".join(f"{r['label']} at {r['steps']:,}" for r in run.growth) or "none",
                human(params),
                human(tokens),
                f"{flops:.3g}",
                f"{run.sunk_flops:.3g}",
                f"{flops - run.sunk_flops:.3g}",
                _number(judged_by(run).values[-1], ".4f"),
                _number(loss_at(run, "flops", total), ".4f"),
                _number(loss_at(run, "extra", extra), ".4f"),
            )
        )
    return table(head, rows)


def loss_at(run: RunLog, axis: Axis, budget: float) -> float | None:
    """Loss where a run has spent so much, between the points that were measured; None outside of them."""
    loss = judged_by(run)
    x = run.at(loss.steps + 1, axis)  # a validation's point lies on the step that it followed
    return float(np.interp(budget, x, loss.values)) if x[0] <= budget <= x[-1] * (1 + 1e-6) else None


def _last(run: RunLog, tag: str, begin: int, end: int) -> float | None:
    values = _between(run, tag, begin, end)
    return float(values[-1]) if len(values) else None


def _mean(run: RunLog, tag: str, begin: int, end: int) -> float | None:
    values = _between(run, tag, begin, end)
    return float(values.mean()) if len(values) else None


def _between(run: RunLog, tag: str, begin: int, end: int) -> np.ndarray:
    if tag not in run.scalars:
        return np.array([])
    steps, values = run.scalars[tag]
    return values[(steps >= begin) & (steps < end)]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _lead(runs: Sequence[RunLog]) -> str:
    parts = []
    for run in runs:
        _, tokens, flops = run.end
        growths = ", ".join(record["label"] for record in run.growth) or "no growth"
        parts.append(f"{run.name}: {human(tokens)} tokens, {flops:.3g} FLOPs, {growths}")
    return ". ".join(parts) + "."


def _named_apart(runs: list[RunLog]) -> list[RunLog]:
    """Runs of the same name are told apart by the folder above."""
    counts = Counter(run.name for run in runs)
    named = [
        replace(run, name=f"{run.folder.resolve().parent.name}/{run.name}") if counts[run.name] > 1 else run
        for run in runs
    ]
    if len({run.name for run in named}) < len(named):
        raise ValueError("two of the runs have the same folder: give each run once")
    return named


def _unique(plate: Plate, run: RunLog, several: bool) -> Plate:
    return plate._replace(name=f"{run.name.replace('/', '_')}_{plate.name}") if several else plate


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
