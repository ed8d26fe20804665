"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI over LitMoE and TextData."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentError
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from lit_recycle.callbacks.end import SaveAtEnd
from lit_recycle.callbacks.freed_memory import KeepFreedMemory
from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.callbacks.interrupt import SaveOnInterrupt
from lit_recycle.callbacks.leftovers import RemoveLeftovers
from lit_recycle.callbacks.summary import RunSummary
from lit_recycle.callbacks.token_losses import TokenLossWriter
from lit_recycle.callbacks.waiting import WaitingTime
from lit_recycle.checkpoints.find import checkpoint_folders, checkpoints_of, newest_checkpoint
from lit_recycle.checkpoints.io import own_io
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.checkpoints.remote import check_writable, on_disk
from lit_recycle.commands.double_keys import check_keys
from lit_recycle.commands.errors import sentence
from lit_recycle.commands.event_numbers import check_events, check_units, read_configs, with_number
from lit_recycle.commands.event_options import apply, split_off
from lit_recycle.commands.measured_data import check_checkpoint_option, data_of_checkpoint
from lit_recycle.commands.parent import announce
from lit_recycle.commands.quiet import silence
from lit_recycle.commands.saved_config import SharedConfig, plain
from lit_recycle.commands.trainer_keys import (
    check_addresses,
    check_callbacks,
    check_end,
    check_groups,
    check_numbers,
    leave_out_switched_off,
    no_validation,
)
from lit_recycle.data.config import check_growths
from lit_recycle.data.module import TextData
from lit_recycle.data.pace import pace_of
from lit_recycle.growth.history import records_to_come
from lit_recycle.growth.schedule import stages, unfinished_warmup
from lit_recycle.growth.update_rules import check_rules
from lit_recycle.hub.shape import parameter_names
from lit_recycle.training.module import LitMoE
from lit_recycle.training.peers import is_lost_peer, named
from lit_recycle.training.resumed import check_goes_on
from lit_recycle.training.run_checks import check_first_step, check_run
from lit_recycle.training.run_lock import run_lock

NEWEST = "LIT_RECYCLE_NEWEST_CHECKPOINT"
"""Environment variable by which a process tells those that it starts what ``--ckpt_path last`` is."""


class Parser(LightningArgumentParser):
    """LightningCLI's parser, which says in which file a mistake is."""

    @override
    def parse_path(self, config_path: Any, *args: Any, **kwargs: Any) -> Namespace:
        try:
            check_keys(config_path)
            return super().parse_path(config_path, *args, **kwargs)
        except ArgumentError as error:
            raise ArgumentError(None, f"while reading {config_path}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{config_path} is no configuration: it is not UTF-8 text ({error.reason})") from error


class Finished(Exception):
    """There is nothing left to do."""


class RecycleCLI(LightningCLI):
    """LightningCLI for one function of the trainer, with interpolation resolved after the command line's overrides.

    LightningCLI's own subcommands would put the whole configuration one level deeper, where ``${trainer.max_steps}``
    is not found; and they would let a checkpoint's hyperparameters override what was typed, learning rate and all.
    """

    model: LitMoE
    datamodule: TextData

    def __init__(self, command: str, args: ArgsType) -> None:
        self.command = command
        super().__init__(
            LitMoE,
            TextData,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            # Abbreviations would let a misspelt key pass for another one.
            parser_kwargs={
                "parser_mode": "omegaconf+",
                "prog": f"lit-recycle {command}",
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            parser_class=Parser,
            save_config_callback=SharedConfig,
            save_config_kwargs={"overwrite": True},
        )

    @override
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.trainer.callbacks += [KeepFreedMemory()]  # type: ignore[attr-defined]
        own_io(self.trainer.strategy)
        if self.command == "fit":
            pace_of(self.trainer, self.datamodule)  # before any data is prepared

    @override
    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        listed = self.config_init.trainer.callbacks or []
        check_callbacks(listed)
        own = self._own_callbacks()
        self.trainer_defaults["callbacks"] = [c for c in own if not any(isinstance(one, type(c)) for one in listed)]
        return super().instantiate_trainer(**kwargs)

    def _own_callbacks(self) -> list[L.Callback]:
        """Callbacks of every run; whoever lists one, with options of their own, has that one."""
        waiting = WaitingTime(self.config.waiting_minutes)
        return [SaveOnInterrupt(), SaveAtEnd(), RunSummary(), TokenLossWriter(), RemoveLeftovers(), waiting]

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="A checkpoint to go on from, or `last` for the newest of the run.",
        )
        parser.add_argument(
            "--waiting_minutes",
            type=float,
            default=2.0,
            help="How long a process waits for the others within a training step; see WaitingTime.",
        )
        parser.set_defaults({"trainer.max_epochs": -1})  # the stream of batches never ends; trainer.max_steps does it
        parser.set_defaults({"trainer.default_root_dir": "."})  # as Lightning's null, of which ${…} makes None

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # Lightning's own warns that sys.argv has arguments too: they are the same.
        args, events = split_off(args or [])  # type: ignore[arg-type]
        written = read_configs(args)
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
            check_groups(self.config)
            if events:
                values = plain(parser, self.config)
                apply(events, values)
                written = [values]
                self.config = parser.parse_object(values)
            path = self.config.ckpt_path
            check_checkpoint_option(self.command, path, has_config=bool(written))
            if self.command != "fit" and path not in (None, "last"):
                parser.set_defaults(data_of_checkpoint(path, self.config.data, self.command))
                self.config = parser.parse_args(args)  # type: ignore[arg-type]
        except ArgumentError as error:
            options = parser.get_defaults(skip_validation=True).keys()
            raise ValueError(with_number(sentence(error, options) or str(error), written)) from error

    @override
    def before_instantiate_classes(self) -> None:
        if isinstance(self.config.trainer.callbacks, Namespace):  # Lightning takes a single one without a list
            self.config.trainer.callbacks = [self.config.trainer.callbacks]
        if self.config.model.growth:
            raise ValueError(
                "model.growth are records of past growths, which a checkpoint brings (model.init_from): leave it out; "
                "growths to come are the events of GrowthCallback"
            )
        check_numbers(self.config.trainer)
        if self.command in ("fit", "plan"):
            check_end(self.config.trainer)
        check_units(self.config.trainer.callbacks)
        check_events(self.config.trainer.callbacks)
        check_addresses(self.config.trainer)
        leave_out_switched_off(self.config.trainer)
        strategy = self.config.trainer.strategy
        name = strategy if isinstance(strategy, str) else strategy.class_path
        # Before Lightning asks to have it installed; or trains in forks, which hand their weights back in a file.
        if any(word in name.lower() for word in ("deepspeed", "spawn", "fork", "notebook")):
            raise ValueError(
                f"{name} cannot train a model that grows: set trainer.strategy to auto, ddp, fsdp or fsdp2"
            )

    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if any. The module takes on its shape: sharded models must be built so."""
        path = self.config.get("ckpt_path")
        if path == "last":
            path = self._newest_checkpoint()
            if path is None and self.command == "fit":
                rank_zero_info("there is no checkpoint yet: the run begins")
        elif path is None and self.command == "fit" and (earlier := checkpoints_of(self.trainer)):
            rank_zero_info(
                f"{str(earlier[0]).rpartition('/')[0]} holds an earlier run, and this one begins anew: files that are"
                " there keep their names (this run's last is last-v1.ckpt), but anchors are replaced. To go on instead"
                " give --ckpt_path last; to keep the two apart, another trainer.default_root_dir"
            )
        if path is None:
            if self.command != "fit" and not self.config.model.init_from:
                raise ValueError(
                    f"{self.command} needs a trained model, and --ckpt_path "
                    + ("finds none yet" if self.config.ckpt_path else "is not given")
                    + ": give a checkpoint, or `last` with the configuration of a run"
                )
            return None
        path = on_disk(path)
        self.config.ckpt_path = str(path)  # all processes must have found the same one
        saved = load_checkpoint(path, shards=False)
        self._check_max_steps(path, saved["global_step"])
        if self.command == "fit":
            check_goes_on(path, saved)
        shape, growth = saved["hyper_parameters"]["config"], list(saved["hyper_parameters"]["growth"])
        if self.config.model.config is not None:
            _tell_of_other_shape(self.model.shape.to_dict(), growth[0]["before"] if growth else shape)
        self.model.set_shape(self.model.shape_of(shape), growth)
        self.model.note_saved(saved)
        data = saved.get("TextData", {})
        if self.command != "fit" and data.get("arguments", {}).get("tokenizer") == self.config.data.tokenizer:
            self.datamodule.use_tokenizer(data["tokenizer"])
        return path

    def check_run(self, begins: bool) -> None:
        """All that can be refused without data, which may take hours to prepare.

        Growths are those of a run that begins; one that goes on knows its progress only later.
        """
        check_run(self.model, self.trainer, self.datamodule, is_fit=True)
        self.datamodule.check_trainer(self.trainer)
        check_first_step(self.model, self.trainer.max_steps)
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if told := no_validation(self.config.trainer):
            rank_zero_info(told)
        to_come = self._growth.open_events(self.model.growth) if self._growth else []
        for told in self._growth.unlisted(self.model.growth) if self._growth else ():
            rank_zero_info(told)
        check_growths(self.datamodule.stages, len(self.model.growth) + len(to_come))
        if begins:
            self._check_growths()

    @property
    def _growth(self) -> GrowthCallback | None:
        return next((c for c in self.trainer.callbacks if isinstance(c, GrowthCallback)), None)  # type: ignore[attr-defined]

    def _check_growths(self) -> None:
        growth, shape, names = self._growth, self.model.shape, parameter_names(self.model.shape)
        events, seed = (growth.events, growth.seed) if growth else ([], 0)
        pace, length = pace_of(self.trainer, self.datamodule), self.trainer.max_steps
        parts = stages(shape, events, pace=pace, max_steps=length, seed=seed)
        if told := unfinished_warmup(parts):
            rank_zero_info(told)
        self.model.shapes_to_come = [part.shape for part in parts]
        self.model.check_patterns()
        check_rules(records_to_come(parts, names))

    def _newest_checkpoint(self) -> Path | None:
        """The newest whole one. It is looked for once: all of it is read, and all processes must agree."""
        if NEWEST in os.environ:  # the process that started this one has found it
            return Path(os.environ[NEWEST]) if os.environ[NEWEST] else None
        launcher = self.trainer.strategy.launcher
        if launcher is None and self.trainer.world_size > 1:
            self.trainer.strategy.connect(self.model)
            self.trainer.strategy.setup_environment()  # connected, each process reads its share
        path = newest_checkpoint(self.trainer)
        if launcher is not None:
            os.environ[NEWEST] = str(path or "")
        return path

    def _check_max_steps(self, path: Path, step: int) -> None:
        if self.command == "fit" and step >= self.trainer.max_steps:
            told = f"{path} is at step {step}, and trainer.max_steps {self.trainer.max_steps} ends the run "
            if step == self.trainer.max_steps:  # no failure: whoever starts a run again and again can stop
                raise Finished(f"{told}there: it is finished; to train longer, raise it")
            raise ValueError(f"{told}before that: raise it")


def _tell_of_other_shape(configured: dict[str, Any], saved: dict[str, Any]) -> None:
    changed = [f"{k} {v}, not {configured.get(k)}" for k, v in saved.items() if v != configured.get(k)]
    if changed:
        rank_zero_info(f"the checkpoint's model is what goes on, whatever model.config says: {', '.join(changed)}")


def main(argv: list[str]) -> int:
    """Run a trainer command; ``argv`` begins with its name."""
    command = argv[0]
    silence()
    # Processes that a strategy starts run the script's own command line again: it must say the same.
    sys.argv[1:] = argv
    cli = RecycleCLI(command, argv[1:])
    if command == "fit" and cli.trainer.max_steps < 1:
        raise ValueError("trainer.max_steps must be set: the length of the run, in optimizer steps")
    if command != "fit":  # it would put a point at step 0 into the curves of the run
        cli.trainer.loggers = []
    alone = command == "fit" and cli.trainer.global_rank == 0 and not cli.trainer.fast_dev_run  # type: ignore[attr-defined]
    with run_lock(Path(cli.trainer.default_root_dir)) if alone else nullcontext():
        for folder in checkpoint_folders(cli.trainer) if alone else ():
            if isinstance(folder, str):
                check_writable(folder)
        try:
            path = cli.checkpoint()
        except Finished as finished:
            rank_zero_info(str(finished))
            return 0
        if command == "fit":
            cli.check_run(begins=path is None)
        else:
            cli.datamodule.check_validated()
        run(cli, path)
    return 0


def run(cli: RecycleCLI, path: Path | None) -> None:
    """Call the trainer's function of the command's name, and leave no process behind."""
    if cli.trainer.strategy.launcher is not None:
        announce()
    # What is predicted goes to a file as it comes, not into memory.
    options = {"return_predictions": False} if cli.command == "predict" else {}
    try:
        getattr(cli.trainer, cli.command)(
            cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True, **options
        )
    except BaseException as error:
        lost = named(error) if is_lost_peer(error) else None
        launcher = cli.trainer.strategy.launcher
        if launcher is not None:  # the processes that this one has started may hang
            launcher.kill(signal.SIGKILL)
        if lost is not None:
            raise lost from error
        raise
