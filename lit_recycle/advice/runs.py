"""Finished runs that a loss law is fitted on: results of experiments, and folders of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_recycle.advice.law import Finished, Part, Parts
from lit_recycle.growth.schedule import Stage
from lit_recycle.growth.shape import sizes


def parts_of(stages: Sequence[Stage]) -> Parts:
    """The stages of a plan, as the law takes them; those without a step are left out."""
    found = []
    for stage in stages:
        if tokens := stage.end.tokens - stage.start.tokens:
            size = sizes(stage.shape)
            found.append(Part(tokens, size["active_params"], size["params"]))
    return tuple(found)


def read_runs(places: Sequence[Path]) -> tuple[Finished, ...]:
    """All runs in these places.

    Args:
        places: Folders of results, as `python -m lit_recycle.experiments` writes them (``EXPERIMENT/RUN.json``), and
            folders that runs have written into, with their logs.

    Raises:
        ValueError: For a place that is neither.
    """
    found: list[Finished] = []
    for place in places:
        results = sorted(place.glob("*/*.json"))
        found += _best_tuned(results) if results else [_of_logs(place)]
    return tuple(found)


def _best_tuned(paths: Sequence[Path]) -> list[Finished]:
    """The results in these files; of a kind that was tried with several rates, those with the best."""
    by_kind: dict[tuple[str, str], dict[str, list[Finished]]] = {}
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            run, tuned = finished(result), json.dumps(result.get("tuned"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of an experiment ({error!r})") from error
        by_kind.setdefault(run.kind, {}).setdefault(tuned, []).append(run)
    return [run for tried in by_kind.values() for run in min(tried.values(), key=_mean_loss)]


def _mean_loss(runs: Sequence[Finished]) -> float:
    return sum(run.loss for run in runs) / len(runs)


def finished(result: dict[str, Any]) -> Finished:
    """A result of an experiment as a law takes it."""
    from lit_recycle.experiments.budgets import stages_of

    variant, loss = ", ".join(result["point"].values()), float(result["metrics"]["loss"])
    return Finished(result["experiment"], variant, parts_of(stages_of(result["fit"])), loss)


def _of_logs(folder: Path) -> Finished:
    from lit_recycle.report.read import read_run

    run = read_run(folder)
    losses = run.scalars.get("loss/val")
    if losses is None:
        raise ValueError(f"the run in {folder} was never validated: its loss is not known")
    parts = (
        Part(stage.end[1] - stage.begin[1], stage.sizes["active_params"], stage.sizes["params"])
        for stage in run.stages()
    )
    return Finished("", str(folder), tuple(part for part in parts if part.tokens), float(losses.values[-1]))
