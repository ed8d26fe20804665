"""Where the checkpoints of a run are, and which of them is the newest whole one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from lit_recycle.addresses import Place, place_of
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.checkpoints.remote import checkpoints_at, on_disk

if TYPE_CHECKING:
    from lightning import Trainer


def checkpoint_folder(trainer: Trainer, dirpath: str | None = None) -> Place:
    """Where a callback of a run puts its checkpoints.

    Where it is told; or at the address to which ``ModelCheckpoint`` sends its own; or ``checkpoints`` in the run's
    folder.
    """
    if dirpath:
        return place_of(dirpath)
    return next(iter(_addresses(trainer)), Path(trainer.default_root_dir) / "checkpoints")


def checkpoint_folders(trainer: Trainer) -> set[Place]:
    """All folders that a run's callbacks write checkpoints to."""
    told = [c.dirpath for c in trainer.callbacks if getattr(c, "dirpath", None)]  # type: ignore[attr-defined]
    return {checkpoint_folder(trainer), *map(place_of, told)}


def _addresses(trainer: Trainer) -> list[str]:
    told = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    return [str(folder) for folder in told if folder and isinstance(place_of(folder), str)]


def checkpoints_of(trainer: Trainer) -> list[Place]:
    """What lies in the folders that a run's callbacks write checkpoints to, whole or not, the newest first."""
    found: list[tuple[float, Place]] = []
    for folder in checkpoint_folders(trainer):
        if isinstance(folder, str):
            found += checkpoints_at(folder)
        else:
            here = [path for pattern in ("*.ckpt", ".*.ckpt.old") for path in folder.glob(pattern)]
            # `last` may be a link to what a killed run was still writing.
            found += [(path.stat().st_mtime_ns / 1e9, path) for path in here if path.exists()]
    # By number, too, most often the step: stores tell times in seconds, in which several may have been saved.
    return [place for _, place in sorted(found, key=lambda pair: (pair[0], _last_number(pair[1])), reverse=True)]


def _last_number(place: Place, label: str = "") -> int:
    """The last number of a name, or the last one behind a label; -1 where there is none."""
    return int((re.findall(rf"{label}(\d+)", str(place).rpartition("/")[2]) or [-1])[-1])


def is_leftover(path: Path) -> bool:
    """Whether a hidden file or folder among checkpoints is what a killed save has left, and nothing is lost with it."""
    if path.name.endswith(".part"):
        return True
    return path.name.endswith(".old") and path.with_name(path.name[1:].removesuffix(".old")).exists()


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """The newest whole checkpoint of a run; None before the first.

    Raises:
        ValueError: Where there are checkpoints and none of them is whole.
    """
    from lightning.pytorch.utilities.rank_zero import rank_zero_info  # reading a checkpoint needs no Lightning

    found = checkpoints_of(trainer)
    for place in found:
        try:
            path = on_disk(place)
            load_checkpoint(path)
        except ValueError as error:
            rank_zero_info(f"passed over: {error}")
        else:
            step = _last_number(place, "step=")
            if later := [other for other in found if _last_number(other, "step=") > step >= 0]:
                rank_zero_info(
                    f"{place} is the newest by its time, and {later[0]} is of a later step: give the latter if times "
                    "were lost in a copy"
                )
            return path
    if found:
        folders = ", ".join(sorted({str(place).rpartition("/")[0] for place in found}))
        raise ValueError(f"no checkpoint in {folders} can be read: move them away to start afresh")
    return None
