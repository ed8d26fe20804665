"""The configuration of a run as `lit-recycle fit` reads it, checked as far as that goes without devices and data."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from lit_recycle.commands.saved_config import plain
from lit_recycle.commands.trainer import RecycleCLI
from lit_recycle.commands.trainer_keys import check_callbacks, no_validation
from lit_recycle.training.run_checks import check_first_step, check_vocabulary


class DryRun(RecycleCLI):
    """Parses and builds what `fit` would, but no trainer, which may need devices that this machine does not have.

    Attributes:
        notes: What could not be looked at here, and what a run would tell of its configuration.
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
        check_callbacks(parts.trainer.callbacks)
        self.model, self.datamodule = parts.model, parts.data
        self._check_vocabulary()
        if self.config.trainer.limit_val_batches != 0:
            self.datamodule.check_validated()
        self.notes += filter(None, [no_validation(self.config.trainer)])
        check_first_step(self.model, self.config.trainer.max_steps)

    def _check_vocabulary(self) -> None:
        try:
            tokens = self.datamodule.vocab_size
        except ValueError as error:  # planned on one machine, run on another
            self.notes.append(f"not checked here: {error}")
            return
        check_vocabulary(self.model, tokens)

    def values(self) -> dict[str, Any]:
        """The whole configuration in plain types, defaults included."""
        return plain(self.parser, self.config)
