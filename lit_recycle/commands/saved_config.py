"""The configuration of a run, kept beside its logs, and the same for all of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from lit_recycle.checkpoints.atomic import beside
from lit_recycle.training.module import LitMoE

WRITTEN_TO = ("dirpath", "save_dir")
"""Arguments of callbacks and loggers that are folders which they write to."""
ROOT, STEPS = "${trainer.default_root_dir}", "${trainer.max_steps}"


class SharedConfig(SaveConfigCallback):
    """Saves the configuration of a training run, after a look at whether all processes have the same."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: LitMoE, stage: str) -> None:
        """Raises ``ValueError``, on all processes, where the configurations of two of them differ."""
        if trainer.world_size > 1 and dist.is_initialized():
            everyones: list[str] = [""] * trainer.world_size
            dist.all_gather_object(everyones, self.parser.dump(self.config, skip_none=False))
            refuse_differences(everyones)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        """Only when all have looked at it, the module last, in `on_train_start`: what is refused leaves nothing behind.

        An evaluation says nothing of the run's folder.
        """
        folder = trainer.log_dir  # all processes agree on it
        if self.already_saved or folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.already_saved = True
        if trainer.is_global_zero:
            with beside(Path(folder) / self.config_filename) as part:
                trainer_keys, values = self.config.trainer, plain(self.parser, self.config)
                values = relative(values, trainer_keys.default_root_dir, trainer_keys.max_steps)
                part.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """A whole configuration in plain types, defaults included."""
    return yaml.safe_load(parser.dump(config, skip_none=False))


def relative(value: Any, root: str, steps: int, key: str = "") -> Any:
    """A configuration with ``${…}`` where another folder or length of the run is to be followed, if one is given.

    Args:
        value: The configuration, or a part of it.
        root: The run's folder. What is written to it, or below it, follows.
        steps: The run's length. A schedule that ends with it follows.
        key: What the part is called.
    """
    if isinstance(value, dict):
        return {name: relative(part, root, steps, name) for name, part in value.items()}
    if isinstance(value, list):
        return [relative(part, root, steps) for part in value]
    if key in WRITTEN_TO and (value == root or str(value).startswith(f"{root}/")):
        return ROOT + value.removeprefix(root)
    return STEPS if key == "total_steps" and value == steps else value


def refuse_differences(dumps: list[str]) -> None:
    """Raises ``ValueError`` that names the keys in which a process differs from the first one."""
    first = _flat(yaml.safe_load(dumps[0]))
    for rank, dump in enumerate(dumps):
        if dump != dumps[0]:
            other = _flat(yaml.safe_load(dump))
            keys = sorted(k for k in first.keys() | other.keys() if first.get(k) != other.get(k))
            raise ValueError(
                f"process {rank} has another configuration than process 0 ({', '.join(keys)}): give all machines of "
                "the run the same files and options"
            )


def _flat(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, below in value.items() for k, v in _flat(below, f"{path}.{name}".strip(".")).items()}
