"""The configuration of a run as `lit-recycle fit` reads it, checked as far as that goes without devices and data."""

from __future__ import annotations

from typing import Any

import torch
import yaml
from typing_extensions import override

from lit_recycle.commands.trainer import RecycleCLI


class DryRun(RecycleCLI):
    """Parses and builds what `fit` would, but no trainer, which may need devices that this machine does not have.

    Attributes:
        notes: What could not be looked at here.
    """

    def __init__(self, argv: list[str]) -> None:
        self.notes: list[str] = []
        super().__init__("plan", argv)

    @override
    def _set_seed(self) -> None:
        """No: nothing is drawn."""

    @override
    def instantiate_classes(self) -> None:
        parts = self.parser.instantiate_classes(self.config)
        self.model, self.datamodule = parts.model, parts.data
        self._check_vocabulary()
        with torch.device("meta"):
            whole = dict(self.model.make_model().named_parameters(prefix="model"))
        # Of one element each: some optimizers refuse parameters on the meta device.
        small = {name: torch.nn.Parameter(torch.zeros([1] * p.dim())) for name, p in whole.items()}
        self.model.make_schedule(self.model.make_optimizer(small.items(), whole), self.config.trainer.max_steps)

    def _check_vocabulary(self) -> None:
        try:
            tokens = self.datamodule.vocab_size
        except ValueError as error:  # planned on one machine, run on another
            self.notes.append(f"not checked here: {error}")
            return
        self.model.check_vocabulary(tokens)

    def values(self) -> dict[str, Any]:
        """The whole configuration in plain types, defaults included."""
        return yaml.safe_load(self.parser.dump(self.config, skip_none=False))
