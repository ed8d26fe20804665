"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI over LitMoE and TextData."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from typing_extensions import override

from callbacks.interrupt import SaveOnInterrupt
from callbacks.summary import RunSummary
from lit_recycle.checkpoints.io import AtomicCheckpointIO
from lit_recycle.checkpoints.native import newest_checkpoint, read_hyperparameters
from lit_recycle.data.module import TextData
from lit_recycle.model.config import MoEConfig
from lit_recycle.module import LitMoE


class RecycleCLI(LightningCLI):
    """LightningCLI for one function of the trainer, with interpolation resolved after the command line's overrides.

    LightningCLI's own subcommands would put the whole configuration one level deeper, where ``${trainer.max_steps}``
    is not found; and they would let a checkpoint's hyperparameters override what was typed, learning rate and all.
    """

    model: LitMoE
    datamodule: TextData

    def __init__(self, command: str, args: ArgsType) -> None:
        super().__init__(
            LitMoE,
            TextData,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            parser_kwargs={"parser_mode": "omegaconf+", "prog": f"lit-recycle {command}"},
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [SaveOnInterrupt(), RunSummary()]},
        )
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="A checkpoint to go on from, or `last` for the newest of the run.",
        )
        parser.set_defaults({"trainer.max_epochs": -1})  # the stream of batches never ends; trainer.max_steps does it

    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if any. The module takes on its shape: sharded models must be built so."""
        path = self.config.get("ckpt_path")
        if path == "last":
            path = newest_checkpoint(self.trainer)
        if path is None:
            return None
        saved = read_hyperparameters(Path(path))
        self.model.set_shape(MoEConfig.from_dict(saved["config"]), list(saved["growth"]))
        return Path(path)


def main(argv: list[str]) -> int:
    """Run a trainer command; ``argv`` begins with its name."""
    command = argv[0]
    # Processes that a strategy starts run the script's own command line again: it must say the same.
    sys.argv[1:] = argv
    cli = RecycleCLI(command, argv[1:])
    if command == "fit" and cli.trainer.max_steps < 1:
        raise ValueError("trainer.max_steps must be set: the length of the run, in optimizer steps")
    path = cli.checkpoint()
    getattr(cli.trainer, command)(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
    return 0
