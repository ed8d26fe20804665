"""A run that several processes go on with, and what each has seen."""

import json
from pathlib import Path
from typing import Any

from data.counting import Counting, quiet_trainer
from runs import on_processes

from lit_recycle.data.config import DataStage, Source, Until
from lit_recycle.data.module import TextData


def data_of(options):
    """`TextData` from plain types."""
    sources = options.pop("sources", None)
    stages = [
        DataStage(stage["weights"], Until(**stage["until"]) if "until" in stage else None)
        for stage in options.pop("stages", [])
    ]
    return TextData(sources=sources and [Source(**source) for source in sources], stages=stages, **options)


def on_several_processes(
    world: int, folder: Path, checkpoint: Path, data: dict[str, Any], trainer: dict[str, Any]
) -> list[dict[str, Any]]:
    """What each of several gloo processes has seen that go on from a checkpoint."""
    on_processes(world, _go_on, world, folder, checkpoint, data, trainer)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]


def _go_on(world: int, folder: Path, checkpoint: Path, data: dict[str, Any], trainer: dict[str, Any]) -> None:
    model = Counting()
    fit = quiet_trainer(devices=world, strategy="ddp", num_sanity_val_steps=0, **trainer)
    fit.fit(model, data_of(dict(data)), ckpt_path=checkpoint, weights_only=True)
    found = {"trained": model.trained, "validated": model.validated, "samples_seen": model.samples_seen}
    (folder / f"rank{fit.global_rank}.json").write_text(json.dumps(found))
