"""A callback that writes down what each step was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L


class Witness(L.Callback):
    """One file per step, process and number of processes: the rows of token ids.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"{trainer.global_step}.{trainer.world_size}.{trainer.global_rank}"
        file.write_text(json.dumps(batch["input_ids"].tolist()))


def steps_seen(folder: Path) -> dict[int, list[list[list[int]]]]:
    """By step, the rows that all processes had together, for each number of processes that were at this step."""
    seen: dict[tuple[int, int], list[Path]] = {}
    for file in folder.iterdir():
        step, world, _ = map(int, file.name.split("."))
        seen.setdefault((step, world), []).append(file)
    together: dict[int, list[list[list[int]]]] = {}
    for (step, world), files in sorted(seen.items()):
        if len(files) == world:  # or else one was killed before it began
            rows = [
                row
                for file in sorted(files, key=lambda file: int(file.suffix[1:]))
                for row in json.loads(file.read_text())
            ]
            together.setdefault(step, []).append(rows)
    return together
