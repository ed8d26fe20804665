"""What a user gets wrong is told in one sentence that names it and the way out, before anything is computed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from damage import flip
from processes import config, start, start_each

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checksums import checksums
from lit_recycle.cli import main
from lit_recycle.data.module import TextData
from lit_recycle.training.module import LitMoE

Refused = Callable[..., None]
GROWTH = "lit_recycle.callbacks.GrowthCallback"
SHARDED = ("--trainer.strategy", "fsdp2", "--trainer.devices", "2", "--data.batch_size", "2")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command and sees it refused: exit code 2, one line, with all that it must say, and no step taken."""

    def no_compute(*_: Any) -> None:
        raise AssertionError("a step was computed")

    monkeypatch.setattr(LitMoE, "training_step", no_compute)
    monkeypatch.setattr(LitMoE, "validation_step", no_compute)
    monkeypatch.setattr(sys, "argv", ["lit-recycle"])

    def run(*argv: object, says: tuple[str, ...]) -> None:
        capsys.readouterr()
        assert main([str(a) for a in argv]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert len(err) < 420, "a sentence, not a page"
        for text in says:
            assert text in err, err

    return run


# --- the command line and the configuration --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FSDPStrategy", "FSDP2Strategy"])
def test_what_is_offloaded_from_a_gpu_needs_one(name: str, tmp_path: Path) -> None:
    options = (
        "--trainer.strategy",
        f"lit_recycle.training.strategies.{name}",
        "--trainer.strategy.cpu_offload",
        "true",
    )
    run = start("fit", "--config", config(tmp_path / "run"), *options, "--trainer.devices", 1, log=tmp_path / "log")
    assert run.wait() == [2] and "strategy.cpu_offload keeps on the CPU" in run.errors[0], run.output


def test_unknown_command(refused: Refused) -> None:
    refused("fitt", says=("'fitt'", "choose from fit, "))


OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "misspelt": (("--trainer.max_stepss", "3"), ("'trainer.max_stepss'", "did you mean 'trainer.max_steps'?")),
    "help of a group": (("--model.help",), ("'model.help'", "--help lists all")),
    "abbreviated": (("--trainer.max_step", "3"), ("did you mean 'trainer.max_steps'?",)),
    "misspelt group": (("--modle.config.top_k", "3"), ("'modle.config.top_k'", "did you mean")),
    "misspelt in the model": (("--model.config.num_layer", "3"), ("model.config", "did you mean 'num_layers'?")),
    "misspelt class": (
        ("--trainer.callbacks+", "lit_recycle.callbacks.Growth"),
        ("trainer.callbacks", "no class 'Growth' in lit_recycle.callbacks"),
    ),
    "two growths": (
        ("--trainer.callbacks+", "GrowthCallback", "--trainer.callbacks.init_args.events", "[]"),
        ("trainer.callbacks has 2 callbacks that grow the model", "list all events in one"),
    ),
    "a callback twice": (
        ("--trainer.callbacks+", "ForgettingMonitor", "--trainer.callbacks+", "ForgettingMonitor"),
        ("trainer.callbacks has two of ForgettingMonitor", "leave one out"),
    ),
    "texts that take each other's place": (
        (
            "--trainer.callbacks",
            "[{class_path: TextSamples, init_args: {prompts: [a]}}, {class_path: TextSamples, "
            "init_args: {prompts: [b]}}]",
        ),
        ("trainer.callbacks has two of TextSamples", "leave one out"),
    ),
    "waiting time twice": (("--trainer.callbacks", "[WaitingTime]"), ("is in every run", "set --waiting_minutes")),
    "finder of a rate": (
        ("--trainer.callbacks", "[lightning.pytorch.callbacks.LearningRateFinder]"),
        ("LearningRateFinder", "set model.optimizer.init_args.lr"),
    ),
    "finder of a batch size": (
        ("--trainer.callbacks", "[lightning.pytorch.callbacks.BatchSizeFinder]"),
        ("BatchSizeFinder", "set data.batch_size"),
    ),
    "null in a callback": (
        ("--trainer.callbacks", "[{class_path: GrowthMonitor, init_args: {plot_every_n_steps: null}}]"),
        ("GrowthMonitor cannot take these arguments, a null or another type",),
    ),
    "null in an event": (
        ("--growth.events.0.depth.factor", "null"),
        ("event 1", "Depth cannot take these arguments, a null or another type"),
    ),
    "null in an optimizer": (
        ("--model.optimizer", "{class_path: torch.optim.AdamW, init_args: {lr: null}}"),
        ("model.optimizer: ", "set it in model.optimizer.init_args"),
    ),
    "options of a callback that exclude each other": (
        (
            "--trainer.callbacks",
            "[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {every_n_train_steps: 2, "
            "every_n_epochs: 1}}]",
        ),
        ("every_n_train_steps=2, every_n_epochs=1", "mutually exclusive"),
    ),
    "no regular expression": (
        ("--trainer.callbacks", '[{class_path: MagnitudePruning, init_args: {sparsity: 0.5, pattern: "["}}]'),
        ("MagnitudePruning.pattern '[' is no regular expression",),
    ),
    "default in a list that is no YAML": (
        (
            "--trainer.callbacks",
            '[{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: "00:00:10:00"}}]',
        ),
        ("the default <Interval.step: 'step'>", "interval: step"),
    ),
    "forks": (("--trainer.strategy", "ddp_spawn"), ("ddp_spawn", "set trainer.strategy to auto, ddp, fsdp")),
    "event that there is not": (
        ("--growth.events.7.at.steps", "3"),
        ("events 0 to 1", "--growth.events gives all anew"),
    ),
    "no event": (("--growth.events.0", "null"), ("event",)),
    "misspelt module": (("--trainer.logger", "nowhere.Logger"), ("trainer.logger", "'nowhere'")),
    "not a number": (("--trainer.max_steps", "many"), ("trainer.max_steps must be of type int, got 'many'",)),
    "not a number in the model": (("--model.config.top_k", "two"), ("model.config.top_k", "int", "'two'")),
    "no such precision": (("--trainer.precision", "17"), ("trainer.precision cannot be '17'",)),
    "no such strategy": (("--trainer.strategy", "ddpp"), ("strategy='ddpp'",)),
    "deepspeed": (("--trainer.strategy", "deepspeed"), ("deepspeed", "set trainer.strategy to auto, ddp, fsdp")),
    "no file": (("--config", "/nowhere.yaml"), ("config", "'/nowhere.yaml'")),
    "least steps without a length": (
        ("--trainer.min_steps", "7", "--trainer.max_steps", "-1"),
        ("trainer.max_steps must be set",),
    ),
    "no such time": (("--trainer.max_time", "8h"), ("trainer.max_time must be DD:HH:MM:SS", "'8h'")),
    "empty precision": (("--trainer.precision", ""), ("trainer.precision cannot be '': see --help",)),
    "no moment": (("--growth.events.0.at", "null"), ("event 1", "at: null", "{steps: 1000}")),
    "no time": (("--trainer.max_time", "00:00:00:00"), ("trainer.max_time 00:00:00:00 trains nothing",)),
    "least steps above the most": (
        ("--trainer.min_steps", "7", "--trainer.max_steps", "6"),
        ("trainer.min_steps 7", "trainer.max_steps 6"),
    ),
    "nothing to validate on": (
        ("--data.val_fraction", "0", "--trainer.limit_val_batches", "1"),
        ("data.val_fraction 0 keeps nothing for validation", "data.val", "trainer.limit_val_batches 0"),
    ),
    "heads": (("--model.config.num_heads", "3"), ("hidden_size 16", "num_heads 3")),
    "top_k": (("--model.config.top_k", "9"), ("top_k 9", "num_experts")),
    "dense layer": (("--model.config.dense_layers", "[7]"), ("dense_layers [7]", "0..1")),
    "size of no dense layer": (("--model.config.dense_size", "16"), ("dense_size 16", "list them in dense_layers")),
    "no vocabulary": (("--model.config.vocab_size", "null"), ("vocab_size cannot be null", "leave it out for 512")),
    "vocabulary": (
        ("--model.config.vocab_size", "128"),
        ("model.config.vocab_size 128", "tokenizer's 257", "raise it"),
    ),
    "no length": (("--trainer.max_steps", "-1"), ("trainer.max_steps must be set",)),
    "no samples": (("--data.seq_len", "0"), ("data.seq_len must be at least 1, got 0",)),
    "no path": (("--data.path", ""), ("path is an empty text", "give a file")),
    "all for validation": (
        ("--data.path", str(Path(json.__file__)), "--data.val_fraction", "0.999999"),
        ("holds no text to train on", "is kept for validation (data.val_fraction)"),
    ),
    "cache at an address": (
        ("--data.cache_dir", "s3://bucket/cache"),
        ("data.cache_dir s3://bucket/cache is an address",),
    ),
    "no such tokenizer": (("--data.tokenizer", "/nowhere.json"), ("tokenizer", "/nowhere.json does not exist")),
    "rate": (("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "-1"), ("learning rate: -1",)),
    "rate that is no number": (
        ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", ".nan"),
        ("model.optimizer: Invalid learning rate: nan",),
    ),
    "momentum": (
        ("--model.optimizer", "lit_recycle.training.muon.Muon", "--model.optimizer.momentum", "1"),
        ("model.optimizer: Muon.momentum must lie in 0..1",),
    ),
    "group without a pattern": (("--model.param_groups", "[{lr: 1}]"), ("model.param_groups[0] needs a pattern",)),
    "pattern that is found nowhere": (
        ("--model.param_groups", "[{pattern: rooter, lr: 1}]"),
        ("model.param_groups: the pattern 'rooter' chooses no parameter",),
    ),
    "torch's Muon": (
        ("--model.optimizer", "torch.optim.Muon"),
        ("model.optimizer Muon is torch's", "set it to lit_recycle.training.muon.Muon"),
    ),
    "sparse gradients": (
        ("--model.optimizer", "SparseAdam"),
        ("model.optimizer SparseAdam", "does not support dense gradients"),
    ),
    "parameters of a group": (
        ("--model.param_groups", "[{pattern: router, params: 3}]"),
        ("model.param_groups[0].params", "the pattern chooses", "leave it out"),
    ),
    "growths of the past": (
        ("--model.growth", "[{label: depth}]"),
        ("model.growth", "a checkpoint brings", "the events of GrowthCallback"),
    ),
    "schedule that ends early": (
        (
            *("--model.lr_scheduler", "OneCycleLR"),
            "--model.lr_scheduler.max_lr=0.1",
            "--model.lr_scheduler.total_steps=5",
        ),
        ("model.lr_scheduler OneCycleLR", "trainer.max_steps 6", "total steps is 5"),
    ),
    "function that gives no number": (
        ("--model.lr_scheduler", "LambdaLR", "--model.lr_scheduler.lr_lambda", "builtins.len"),
        ("model.lr_scheduler: object of type 'int' has no len()", "init_args"),
    ),
    "function that cannot be saved": (
        ("--model.lr_scheduler", "LambdaLR", "--model.lr_scheduler.lr_lambda", "builtins.abs"),
        ("model.lr_scheduler LambdaLR cannot be kept in a checkpoint", "written in Python"),
    ),
    "plateau": (
        ("--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        ("model.lr_scheduler ReduceLROnPlateau", "WarmupStableDecay"),
    ),
    "spikes": (("--model.spike_skip", "{window: 1}"), ("model.spike_skip", "window must be at least 4, got 1")),
    "option of another optimizer": (
        ("--model.param_groups", "[{pattern: router, momentum: 1}]"),
        ("model.param_groups[0].momentum", "AdamW has no such option for a group; it has lr, betas"),
    ),
    "no number": (("--model.balance_loss", ".nan"), ("model.balance_loss", "finite", "got nan")),
    "negative coefficient": (("--model.z_loss", "-1"), ("model.z_loss", "not negative, got -1")),
    "negative balance rate": (("--model.balance_rate", "-0.1"), ("model.balance_rate", "not negative")),
    "rope": (("--model.config.rope_theta", "-1"), ("rope_theta must be a positive number, got -1",)),
    "epsilon": (("--model.config.norm_eps", ".nan"), ("norm_eps", "got nan")),
    "deviation": (("--model.config.init_std", "-1"), ("init_std", "not negative, got -1")),
    "clip": (("--trainer.gradient_clip_val", "-1"), ("trainer.gradient_clip_val", "got -1")),
    "clip that is no number": (("--trainer.gradient_clip_val", ".nan"), ("trainer.gradient_clip_val", "got nan")),
    "accumulate": (("--trainer.accumulate_grad_batches", "0"), ("trainer.accumulate_grad_batches must be at least 1",)),
    "interval": (("--trainer.val_check_interval", "0"), ("trainer.val_check_interval", "trainer.limit_val_batches 0")),
    "no batches": (("--trainer.limit_train_batches", "0"), ("trainer.limit_train_batches 0 trains nothing", "leave")),
    "no epochs": (("--trainer.max_epochs", "0"), ("trainer.max_epochs 0 trains nothing", "leave it out")),
    "ended by epochs": (
        ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"),
        ("trainer.max_epochs 2 of trainer.limit_train_batches 2 end the run before trainer.max_steps 6", "leave"),
    ),
    "ended by epochs of a whole float": (  # as a parser may read 2, by what else has been imported
        ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2.0"),
        ("trainer.max_epochs 2 of trainer.limit_train_batches 2 end the run before trainer.max_steps 6", "leave"),
    ),
    "cut-off steps": (
        ("--trainer.accumulate_grad_batches", "4", "--trainer.limit_train_batches", "6"),
        ("trainer.limit_train_batches 6 must be a multiple of trainer.accumulate_grad_batches 4",),
    ),
    "interval by the clock": (
        ("--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "00:00:10:00"),
        ("trainer.val_check_interval as a time", "give micro-batches"),
    ),
    "devices": (("--trainer.devices", "-3"), ("trainer.devices must be at least 1", "got -3")),
    "no devices": (("--trainer.devices", "0"), ("trainer.devices must be at least 1", "got 0")),
    "devices by number": (("--trainer.devices", "0,1"), ("trainer.devices: on CPUs give the number of processes",)),
    "devices in a list": (("--trainer.devices", "[0]"), ("trainer.devices: on CPUs give the number of processes",)),
    "log interval": (("--trainer.log_every_n_steps", "-1"), ("trainer.log_every_n_steps must be at least 1",)),
    "empty folder": (("--trainer.default_root_dir", ""), ("trainer.default_root_dir cannot be an empty text", "to .")),
    "empty checkpoint": (("--ckpt_path", ""), ("--ckpt_path is an empty text",)),
    "set named by a number": (("--data.val", "{2023: x.jsonl}"), ("data.val: 2023 is a number", "between quotes")),
    "arguments beside a class": (
        ("--model.optimizer", "{class_path: AdamW, lr: 1e-3}"),
        ("model.optimizer: the arguments of a class_path go below init_args",),
    ),
    "no folder": (("--trainer.default_root_dir", "null"), ("trainer.default_root_dir cannot be null", "set it to .")),
    "checkpoint": (("--ckpt_path", "/nowhere.ckpt"), ("no checkpoint at /nowhere.ckpt",)),
    "source": (("--model.config", "null", "--model.init_from", "/nowhere.ckpt"), ("no checkpoint at /nowhere.ckpt",)),
    "two sources": (("--model.init_from", "/nowhere.ckpt"), ("model.config and model.init_from exclude each other",)),
    "within a step": (
        ("--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "5"),
        ("trainer.val_check_interval 5", "multiple of trainer.accumulate_grad_batches 2"),
    ),
    "default that is no YAML": (
        ("--trainer.callbacks+=lightning.pytorch.callbacks.Timer", "--trainer.callbacks.duration=00:00:10:00"),
        ("the default <Interval.step: 'step'>", "interval: step"),
    ),
    "averaging": (
        (
            *("--trainer.callbacks+", "lightning.pytorch.callbacks.WeightAveraging"),
            *("--trainer.strategy", "lit_recycle.training.strategies.FSDPStrategy"),
            *("--trainer.strategy.checkpoints", "sharded"),
        ),
        ("WeightAveraging keeps a copy of the module's tensors", "trainer.strategy to fsdp2, auto or ddp"),
    ),
    "stochastic averaging": (
        (
            "--trainer.callbacks+=lightning.pytorch.callbacks.StochasticWeightAveraging",
            "--trainer.callbacks.swa_lrs=0.1",
        ),
        ("StochasticWeightAveraging", "cannot follow a growth"),
    ),
    "accumulation by epochs": (
        (
            "--trainer.callbacks+=lightning.pytorch.callbacks.GradientAccumulationScheduler",
            "--trainer.callbacks.scheduling={0: 3}",
        ),
        ("GradientAccumulationScheduler acts when an epoch begins", "set trainer.accumulate_grad_batches"),
    ),
    "width of a dense model": (
        ("--model.config.dense_layers", "[0,1]", "--model.config.dense_size", "16"),
        ("DuplicateExperts: the model has no routed experts",),
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.filterwarnings("ignore::UserWarning:jsonargparse")
def test_options_that_do_not_fit(refused: Refused, tmp_path: Path, case: str) -> None:
    options, says = OPTIONS[case]
    refused("fit", "--config", config(tmp_path / "run"), *options, says=says)
    assert [*tmp_path.iterdir()] == [tmp_path / "run.yaml"], "what is refused leaves nothing behind"


FILES = {
    "no YAML": ("a: [1,\nb: }", ("line 2",)),
    "no mapping": ("[1, 2]", ("holds no keys and values", "trainer: {")),
    "interpolation": ("data: {seq_len: '${trainer.nothing}'}", ("data.seq_len", "trainer.nothing")),
    "group twice": (
        "trainer: {accelerator: cpu}\ndata: {seq_len: 8}\ntrainer:\n  max_steps: 3",
        ("wrong.yaml, line 3: trainer is given twice", "make one of the two"),
    ),
    "key twice": (
        "trainer:\n  callbacks:\n    - init_args:\n        events:\n          - {at: {steps: 1}, depth: {}, depth: {}}",
        ("line 5: trainer.callbacks[0].init_args.events[0].depth is given twice",),
    ),
    "a number for the trainer": ("trainer: 3", ("trainer takes keys and values", "got 3")),
    "a number for the model": ("model: 3", ("model takes keys and values", "got 3")),
    "a list for the data": ("data: [3]", ("data takes keys and values", "got [3]")),
    "the tokenizer of nothing": (
        "data: {tokenizer: '${model.init_from}'}",
        ("data.tokenizer is null", "give bytes, or a tokenizer.json"),
    ),
    "misspelt": ("trainer: {max_stepss: 3}", ("trainer.max_stepss", "'trainer.max_steps'")),
    "misspelt group": ("trainr: {max_steps: 3}", ("trainr.max_steps", "'trainer.max_steps'")),
    "misspelt in a class": (
        "trainer: {strategy: {class_path: lit_recycle.training.strategies.FSDP2Strategy, init_args: "
        "{checkpoint: full}}}",
        ("trainer.strategy", "did you mean 'checkpoints'?"),
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_wrong(refused: Refused, tmp_path: Path, case: str) -> None:
    text, says = FILES[case]
    (tmp_path / "wrong.yaml").write_text(text)
    refused("fit", "--config", config(tmp_path / "run"), "--config", tmp_path / "wrong.yaml", says=says)


def test_text_is_not_sampled_from_a_negative_seed(refused: Refused) -> None:
    refused("generate", "--ckpt_path", "/nowhere.ckpt", "--seed", "-1", says=("seed must not be negative, got -1",))


def test_a_configuration_that_is_no_text_or_not_given(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\x80\x02}")
    refused("fit", "--config", tmp_path / "bad.yaml", says=(str(tmp_path / "bad.yaml"), "not UTF-8 text"))
    refused("fit", "--config", says=("--config", "expected one argument"))


@pytest.mark.parametrize("case", ["no YAML", "no mapping", "misspelt in a class"])
def test_the_wrong_file_is_named(refused: Refused, tmp_path: Path, case: str) -> None:
    (tmp_path / "wrong.yaml").write_text(FILES[case][0])
    argv = ("fit", "--config", config(tmp_path / "run"), "--config", tmp_path / "wrong.yaml")
    refused(*argv, says=(str(tmp_path / "wrong.yaml"),))


# --- events ----------------------------------------------------------------------------------------------------------

AT_2 = {"steps": 2}
EVENTS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "out of order": (
        [{"at": {"steps": 4}, "depth": {}}, {"at": AT_2, "depth": {}}],
        ("event 2 (at 2 steps) lies before the event that precedes it", "order of time"),
    ),
    "unreachable": (
        [{"at": {"steps": 60}, "depth": {}}],
        ("event 1 (at 60 steps)", "trainer.max_steps 6", "raise max_steps"),
    ),
    "unreachable tokens": ([{"at": {"tokens": 1e9}, "depth": {}}], ("(at 1,000,000,000 tokens)", "cannot be reached")),
    "nothing": ([{"at": AT_2}], ("grows nothing at 2 steps", "give depth, width or grow")),
    "two triggers": ([{"at": {"steps": 2, "tokens": 9}, "depth": {}}], ("exactly one of", "steps, tokens")),
    "no trigger": ([{"at": {}, "depth": {}}], ("exactly one of",)),
    "no unit": ([{"at": 2, "depth": {}}], ("at: 2 lacks a unit: write {steps: 2}, or tokens",)),
    "negative": ([{"at": {"steps": -2}, "depth": {}}], ("at.steps", "not negative")),
    "factor": ([{"at": AT_2, "depth": {"factor": 1}}], ("depth.factor must be at least 2, got 1",)),
    "width factor": ([{"at": AT_2, "width": {"factor": 1}}], ("width.factor must be at least 2, got 1",)),
    "noise": ([{"at": AT_2, "width": {"noise": -1}}], ("width.noise must be a finite number and not negative",)),
    "all kept": (
        [{"at": AT_2, "depth": {"keep_first": 5}}],
        ("Interpose: keep_first 5", "nothing to copy of 2"),
    ),
    "layer": ([{"at": AT_2, "depth": {"layers": [0, 9]}}], ("Layers: layers must be some of 0..1", "0..1", "[0, 9]")),
    "method": ([{"at": AT_2, "depth": {"method": "stak"}}], ("depth.method", "'interposition', 'stack'", "'stak'")),
    "misspelt": ([{"at": AT_2, "dept": {"factor": 2}}], ("'dept'", "events", "did you mean 'depth'?")),
    "misspelt trigger": ([{"at": {"step": 2}, "depth": {}}], ("'step'", "did you mean 'steps'?")),
    "misspelt below": ([{"at": AT_2, "depth": {"facto": 2}}], ("'facto'", "events.depth", "did you mean 'factor'?")),
    "rewarm": ([{"at": AT_2, "depth": {}, "rewarm": {"steps": 0}}], ("rewarm.steps must be at least 1",)),
    "peak": ([{"at": AT_2, "depth": {}, "rewarm": {"steps": 1, "peak": 0}}], ("rewarm.peak", "greater than 0, got 0")),
    "whose rate": ([{"at": AT_2, "depth": {}, "rewarm": {"steps": 1, "who": "old"}}], ("rewarm.who", "'all', 'new'")),
    "trained": ([{"at": AT_2, "depth": {}, "train": "nwe"}], ("events.train", "'all', 'new', 'old'", "'nwe'")),
    "trained for": ([{"at": AT_2, "depth": {}, "train_steps": 5}], ("train_steps", "got 5 beside train: all")),
    "operator": (
        [{"at": AT_2, "grow": [{"class_path": "lit_recycle.growth.operators.WidenHiden"}]}],
        ("no operator 'WidenHiden'; did you mean 'WidenHidden'?",),
    ),
    "operator's key": (
        [{"at": AT_2, "grow": [{"class_path": "WidenHidden", "init_args": {"size": 64}}]}],
        ("no key 'size' in trainer.callbacks.events.grow: the operator has factor",),
    ),
    "nothing new": (
        [{"at": AT_2, "grow": [{"class_path": "PruneExperts", "init_args": {"num_experts": 2}}], "train": "new"}],
        ("event 1 (at 2 steps) adds nothing to the model that train: new could mean",),
    ),
    "no operator": ([{"at": AT_2, "grow": ["Solr"]}], ("events.grow", "no class is known as Solr")),
    "no class": ([{"at": AT_2, "grow": [5]}], ("events.grow takes a class's name, or class_path", "got 5")),
    "not in a list": ([{"at": AT_2, "grow": "Solar"}], ("events.grow must be a list, got Solar",)),
    "argument": (
        [{"at": AT_2, "grow": [{"class_path": "Upcycle", "init_args": {"num_experts": "four"}}]}],
        ("events.grow.num_experts must be of type int, got 'four'",),
    ),
    "nothing trained": (
        [
            {"at": AT_2, "depth": {}, "train": "new"},
            {"at": {"steps": 3}, "depth": {"layers": [0, 2]}, "train": "old"},
        ],
        ("nothing would be trained after event 2 (at 3 steps)", "train_steps"),
    ),
}


def with_events(path: Path, events: list[dict[str, Any]]) -> Path:
    callback = {"class_path": GROWTH, "init_args": {"events": events}}
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return path


@pytest.mark.parametrize("command", ["fit", "plan"])
@pytest.mark.parametrize("case", EVENTS)
def test_events_that_cannot_be(
    refused: Refused, tmp_path: Path, case: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, says = EVENTS[case]
    if "nothing" not in case:  # that is seen when the model is there

        def no_data(*_: Any) -> None:
            raise AssertionError("data was prepared")

        monkeypatch.setattr(TextData, "prepare_data", no_data)
    files = (config(tmp_path / "run"), with_events(tmp_path / "events.yaml", events))
    refused(command, "--config", files[0], "--config", files[1], says=(f"event {len(events)}", *says))


def test_growth_without_events(refused: Refused, tmp_path: Path) -> None:
    files = (config(tmp_path / "run"), with_events(tmp_path / "events.yaml", []))
    refused("fit", "--config", files[0], "--config", files[1], says=("GrowthCallback.events is empty", "leave"))


EVERY = {"until": {"steps": 3}}
WARMUPS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "neither": ("SequenceLengthWarmup", {"root": 2.0}, ("takes either start and over, or stages",)),
    "multiple": (
        "SequenceLengthWarmup",
        {"start": 12, "over": {"steps": 3}},
        ("12 tokens", "multiple of 8"),
    ),
    "too long": ("SequenceLengthWarmup", {"start": 40, "over": {"steps": 3}}, ("40 tokens", "data.seq_len 32: raise")),
    "two units": (
        "SequenceLengthWarmup",
        {"start": 8, "over": {"steps": 3, "tokens": 9}},
        ("exactly one of",),
    ),
    "misspelt": ("SequenceLengthWarmup", {"stages": [{"seq_len": 8, "til": 3}]}, ("'til'", "did you mean 'until'?")),
    "none": ("BatchSizeWarmup", {"stages": []}, ("BatchSizeWarmup.stages is empty",)),
    "no unit": (
        "BatchSizeWarmup",
        {"stages": [{"accumulate": 2, "until": 3}]},
        ("stage 1 of BatchSizeWarmup: until: 3 lacks a unit",),
    ),
    "no micro-batch": ("BatchSizeWarmup", {"stages": [{"accumulate": 0, **EVERY}]}, ("accumulate must be at least 1",)),
    "order": (
        "BatchSizeWarmup",
        {"stages": [{"accumulate": 1, **EVERY}, {"accumulate": 2, **EVERY}]},
        ("until must grow from stage to stage",),
    ),
    "growth": (
        "GrowthCallback",
        {"events": [{"at": AT_2, "depth": {}, "seq_len": 64}]},
        ("event 1 (at 2 steps) sets 64 tokens",),
    ),
    "both": ("GrowthCallback", {"start_seq_len": 8, "events": [{"at": AT_2, "depth": {}}]}, ("take one of them",)),
}


def warmup(case: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The callbacks of a configuration, and what is said of them."""
    name, arguments, says = WARMUPS[case]
    callbacks = [{"class_path": f"lit_recycle.callbacks.{name}", "init_args": arguments}]
    if case == "both":
        arguments = {"start": 8, "over": {"steps": 3}}
        callbacks += [{"class_path": "lit_recycle.callbacks.SequenceLengthWarmup", "init_args": arguments}]
    return callbacks, says


@pytest.mark.parametrize("command", ["fit", "plan"])
@pytest.mark.parametrize("case", WARMUPS)
def test_warmups_that_cannot_be(refused: Refused, tmp_path: Path, case: str, command: str) -> None:
    callbacks, says = warmup(case)
    (tmp_path / "warmup.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    refused(command, "--config", config(tmp_path / "run"), "--config", tmp_path / "warmup.yaml", says=says)


RUN_ONLY = {
    *("no path", "all for validation"),
    *("checkpoint", "no such tokenizer", "within a step", "interval by the clock", "no such strategy"),
    *("devices by number", "devices in a list"),
    *("stochastic averaging", "averaging"),
}
"""What depends on the trainer, or lies on the machine that the run is planned for."""
NOT_PLANNED = RUN_ONLY | {"accumulation by epochs"}


@pytest.mark.parametrize("case", sorted(OPTIONS.keys() - NOT_PLANNED))
@pytest.mark.filterwarnings("ignore::UserWarning:jsonargparse")
def test_a_plan_is_refused_for_what_a_run_is(refused: Refused, tmp_path: Path, case: str) -> None:
    options, says = OPTIONS[case]
    refused("plan", "--config", config(tmp_path / "run"), *options, says=says)


@pytest.mark.parametrize("case", FILES)
def test_a_plan_reads_the_same_files(refused: Refused, tmp_path: Path, case: str) -> None:
    text, says = FILES[case]
    (tmp_path / "wrong.yaml").write_text(text)
    refused("plan", "--config", config(tmp_path / "run"), "--config", tmp_path / "wrong.yaml", says=says)


def test_a_plan_without_its_growth_is_none(refused: Refused, tmp_path: Path) -> None:
    path = config(tmp_path / "run")
    path.write_text(
        path.read_text().replace("lit_recycle.callbacks.GrowthCallback", "lit_recycle.callbacks.GrowthCallbak")
    )
    refused("plan", "--config", path, says=("trainer.callbacks", "GrowthCallbak"))


UNSEEN = {
    "later than the end": ("--trainer.val_check_interval", "7"),
    "at the end of an endless epoch": ("--trainer.check_val_every_n_epoch", "1"),
    "in the second epoch": ("--trainer.check_val_every_n_epoch", "2", "--trainer.val_check_interval", "2"),
}
SEEN = {
    "in time": ("--trainer.val_check_interval", "6"),
    "at the end of an epoch": ("--trainer.check_val_every_n_epoch", "1", "--trainer.limit_train_batches", "2"),
    "by the clock": ("--trainer.val_check_interval", "00:00:00:01"),
}


@pytest.mark.parametrize("case", [*UNSEEN, *SEEN])
def test_a_validation_that_never_comes_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path, case: str) -> None:
    options = (UNSEEN | SEEN)[case]
    argv = ["--config", str(config(tmp_path / "run", trainer__limit_val_batches=1)), *options]
    assert main(["plan", *argv]) == 0
    told = "nothing is validated in this run: set trainer.check_val_every_n_epoch to null"
    assert (told in " ".join(capsys.readouterr().out.split())) == (case in UNSEEN)
    run = start("fit", *argv, log=tmp_path / "log")
    assert run.wait() == [0] and (told in " ".join(run.output.split())) == (case in UNSEEN), run.output
    if case != "by the clock":  # how long these steps take nobody knows
        (losses,) = (line for line in run.output.splitlines() if "validation loss at the end" in line)
        assert any(letter.isdigit() for letter in losses) == (case in SEEN), losses


@pytest.mark.parametrize(
    ("name", "arguments", "until", "size"),
    [
        ("SequenceLengthWarmup", {"start": 8}, {"over": {"steps": 6}}, "24 tokens per sample and 2 micro-batches"),
        ("SequenceLengthWarmup", {"start": 8}, {"over": {"steps": 5}}, None),
        ("BatchSizeWarmup", {"accumulate": 1}, {"until": {"tokens": 5000}}, "32 tokens per sample and 1 micro-batches"),
        ("BatchSizeWarmup", {"accumulate": 1}, {"until": {"steps": 4}}, None),
    ],
)
def test_a_warmup_that_the_run_does_not_come_through_is_told(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    arguments: dict[str, Any],
    until: dict[str, Any],
    size: str | None,
) -> None:
    given = arguments | until if name == "SequenceLengthWarmup" else {"stages": [arguments | until]}
    callbacks = [{"class_path": f"lit_recycle.callbacks.{name}", "init_args": given}]
    path = config(tmp_path / "run", trainer__callbacks=callbacks, trainer__accumulate_grad_batches=2)
    assert main(["plan", "--config", str(path)]) == 0
    run = start("fit", "--config", path, log=tmp_path / "log")
    assert run.wait() == [0], run.output
    for told in (capsys.readouterr().out, run.output):
        found = [line for line in told.splitlines() if "a warm-up ends after the run" in line]
        assert len(found) == bool(size) and all(f"trainer.max_steps 6 has {size}" in line for line in found), told


def test_a_plan_tells_hours_at_a_speed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = config(tmp_path / "run")
    assert main(["plan", "--config", str(path), "--tokens-per-second", "100", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert rows[0]["hours"] == pytest.approx(rows[0]["tokens"] / 100 / 3600)
    slower = rows[1]["flops_per_token"] / rows[0]["flops_per_token"]
    assert rows[1]["hours"] == pytest.approx(rows[1]["tokens"] / 100 / 3600 * slower)
    assert sum(row["hours"] for row in rows) > 0 and [row["start_step"] for row in rows] == [0, 2, 4]


def test_a_plan_takes_its_speed_from_a_run(refused, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Twice: the run has grown in between, and FLOPs are done as fast in all stages."""
    path, run = config(tmp_path / "run"), tmp_path / "measured"
    run.mkdir()
    refused("plan", "--config", path, "--tokens-per-second", run / "none", says=("--tokens-per-second", "none"))
    lines = [
        "step,compute/tokens,compute/flops,compute/tokens_per_second",
        "9,100,1e6,50",
        "19,200,2e6,50",
        "29,300,4e6,25",
    ]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert main(["plan", "--config", str(path), "--tokens-per-second", str(run), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [row["hours"] * 3600 for row in rows] == pytest.approx([row["flops"] / 0.5e6 for row in rows])


# --- data ------------------------------------------------------------------------------------------------------------

DATA: dict[str, tuple[str, bytes | None, tuple[str, ...]]] = {
    "missing": ("none.txt", None, ("none.txt", "there is no text at")),
    "empty": ("empty.txt", b"", ("empty.txt", "no text")),
    "short": ("short.txt", b"hello", ("fewer than one sample", "seq_len + 1 = 33", "lower seq_len")),
    "no text": ("binary.txt", b"\xff\xfe\x00\x80" * 99, ("binary.txt", "not UTF-8")),
    "no JSON": ("lines.jsonl", b'{"text": "a"}\n{"text": \n', ("lines.jsonl", "not JSON")),
    "ids": ("ids.npy", b"\xff\xff" * 500, ("ids.npy", "the id 65535", "ids below 257")),
    "truncated ids": ("ids.bin", b"\0\0" * 500 + b"\0", ("ids.bin", "truncated", "uint16")),
    "no such field": ("lines.jsonl", b'{"words": "a"}\n', ("lines.jsonl", "no field 'text'", "set text_field")),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_trained_on(refused: Refused, tmp_path: Path, case: str) -> None:
    name, content, says = DATA[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused("fit", "--config", config(tmp_path / "run"), "--data.path", tmp_path / name, says=says)
    kept = {"cache"} if case == "short" else set()  # what a text has been tokenised to, in hours perhaps
    left = {path.name for path in tmp_path.iterdir()} - {name, "run.yaml"}
    assert left == kept, "what is refused leaves nothing else behind"


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one device, and the same sharded."""
    root = tmp_path_factory.mktemp("runs")
    started = [
        start("fit", "--config", config(root / "alone"), log=root / "log"),
        start("fit", "--config", config(root / "sharded"), *SHARDED, log=root / "sharded.log", world=2),
    ]
    for run in started:
        assert set(run.wait()) == {0}, run.output
    return root


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_checkpoint_is_not_grown_beyond_the_disk(refused: Refused, runs: Path, tmp_path: Path) -> None:
    path = runs / "alone/checkpoints/step=3.ckpt"
    says = (f"{tmp_path / 'grown.ckpt'} needs at least ", "GB free", "make room")
    refused("grow", path, tmp_path / "grown.ckpt", "--width", 10**12, says=says)


ADDRESSED = {
    "export": "{run}/step=3.ckpt {to}",
    "merge": "{run}/step=5.ckpt {run}/step=6.ckpt {to}",
    "grow": "{run}/step=3.ckpt {to} --depth 2",
    "augment": "{run}/../config.yaml {to} --model {run}/step=3.ckpt",
    "report": "{run} --out {to}",
    "advise": "--ckpt_path {run}/step=3.ckpt --flops 1e6 --out {to}",
}


@pytest.mark.parametrize("command", ADDRESSED)
def test_what_is_written_to_a_disk_alone_is_not_sent_to_an_address(
    refused: Refused, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    """And not written to a folder that is called like its protocol either."""
    monkeypatch.chdir(tmp_path)
    given = ADDRESSED[command].format(run=runs / "alone/checkpoints", to="s3://bucket/result")
    refused(command, *given.split(), says=("s3://bucket/result is an address", "give a path on this machine"))
    assert not list(tmp_path.iterdir())


FILES_OF_OTHERS: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "truncated": (lambda path, mark: cut_off(path), ("cut off", "use an older one")),
    "empty": (lambda path, mark: os.truncate(path, 0), ("cut off",)),
    "no checkpoint": (lambda path, mark: torch.save(torch.ones(3), path), ("not written by lit-recycle",)),
    "of another program": (
        lambda path, mark: torch.save({"state_dict": {"w": torch.ones(3)}}, path),
        ("not written by lit-recycle", "lit-recycle import"),
    ),
    "malicious": (
        lambda path, mark: torch.save({"hyper_parameters": Evil(mark)}, path),
        ("posix.mkdir", "never loaded"),
    ),
    "malicious pickle": (lambda path, mark: path.write_bytes(pickle.dumps(Evil(mark))) and None, ("no checkpoint",)),
}


@pytest.mark.parametrize("command", ["fit", "generate", "grow"])
@pytest.mark.parametrize("case", FILES_OF_OTHERS)
def test_files_that_are_no_checkpoints(refused: Refused, runs: Path, tmp_path: Path, case: str, command: str) -> None:
    path, mark = tmp_path / "some.ckpt", tmp_path / "executed"
    shutil.copy(runs / "alone/checkpoints/step=3.ckpt", path)
    spoil, says = FILES_OF_OTHERS[case]
    spoil(path, mark)
    before = path.read_bytes()
    argv: dict[str, tuple[object, ...]] = {
        "fit": ("--config", config(tmp_path / "run"), "--ckpt_path", path),
        "generate": ("--ckpt_path", path),
        "grow": (path, tmp_path / "grown.ckpt", "--depth", "2"),
    }
    refused(command, *argv[command], says=(str(path), *says))
    assert not mark.exists() and path.read_bytes() == before


def rewrite_index(path: Path, content: bytes) -> None:
    """By somebody who knows how to make the checksums right."""
    (path / ".metadata").write_bytes(content)
    rest = torch.load(path / "meta.pt", weights_only=True)
    save(rest | {"checksums": rest["checksums"] | checksums([path / ".metadata"])}, path / "meta.pt")


FOLDERS: dict[str, tuple[Callable[[Path, Path, Path], Any], tuple[str, ...]]] = {
    "missing shard": (lambda path, other, mark: (path / "__1_0.distcp").unlink(), ("__1_0.distcp", "missing")),
    "truncated shard": (lambda path, other, mark: cut_off(path / "__1_0.distcp"), ("__1_0.distcp", "cut off")),
    "mixed": (
        lambda path, other, mark: shutil.copy(other / "__1_0.distcp", path / "__1_0.distcp"),
        ("__1_0.distcp is damaged", "copy it again"),
    ),
    "no index": (lambda path, other, mark: (path / ".metadata").unlink(), ("cut off in writing", "use an older one")),
    "truncated index": (lambda path, other, mark: cut_off(path / ".metadata"), (".metadata", "cut off")),
    "malicious index": (
        lambda path, other, mark: rewrite_index(path, pickle.dumps(Evil(mark))),
        (".metadata", "posix.mkdir", "not loaded"),
    ),
    "foreign index": (lambda path, other, mark: rewrite_index(path, pickle.dumps({})), ("no index",)),
    "nonsense index": (lambda path, other, mark: rewrite_index(path, b"\x80\x04h\x05."), ("no index",)),
    "cut off": (lambda path, other, mark: (path / "meta.pt").unlink(), ("cut off in writing",)),
    "malicious rest": (
        lambda path, other, mark: torch.save({"hyper_parameters": Evil(mark)}, path / "meta.pt"),
        ("posix.mkdir", "never loaded"),
    ),
}


@pytest.mark.parametrize("command", ["fit", "generate", "consolidate"])
@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_folders_that_are_no_whole_checkpoints(
    refused: Refused, runs: Path, tmp_path: Path, case: str, command: str
) -> None:
    path, mark = tmp_path / "some.ckpt", tmp_path / "executed"
    shutil.copytree(runs / "sharded/checkpoints/step=3.ckpt", path)
    spoil, says = FOLDERS[case]
    spoil(path, runs / "sharded/checkpoints/step=4.ckpt", mark)
    argv: dict[str, tuple[object, ...]] = {
        "fit": ("--config", config(tmp_path / "run"), "--ckpt_path", path),
        "generate": ("--ckpt_path", path),
        "consolidate": (path, tmp_path / "whole.ckpt"),
    }
    refused(command, *argv[command], says=says)
    assert not mark.exists() and not (tmp_path / "whole.ckpt").exists()


def test_mixed_shards_end_all_processes(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.ckpt"
    shutil.copytree(runs / "sharded/checkpoints/step=3.ckpt", path)
    shutil.copy(runs / "sharded/checkpoints/step=4.ckpt/__1_0.distcp", path)
    argv = ("fit", "--config", config(tmp_path / "run"), *SHARDED, "--ckpt_path", path)
    run = start(*argv, log=tmp_path / "log", world=2)
    assert run.wait(300) == [2, 2]
    assert len(run.errors) == 1 and "__1_0.distcp is damaged" in run.errors[0] and "Traceback" not in run.output


def test_another_optimizer_ends_all_processes_of_a_sharded_run(runs: Path, tmp_path: Path) -> None:
    sgd = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1")
    source = runs / "sharded/checkpoints/step=3.ckpt"
    argv = ("fit", "--config", config(tmp_path / "run"), *SHARDED, *sgd, "--ckpt_path", source)
    run = start(*argv, log=tmp_path / "log", world=2)
    assert run.wait(300) == [2, 2]
    assert len(run.errors) == 1 and "model.optimizer is SGD" in run.errors[0] and "Traceback" not in run.output


def test_of_sharded_checkpoints_too_the_newest_whole_one(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sharded", tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    flip(checkpoints / "step=6.ckpt/__1_0.distcp", 0)
    flip(checkpoints / "step=5.ckpt/meta.pt", 0)
    run = start(
        "fit", "--config", config(tmp_path / "run"), *SHARDED, "--ckpt_path", "last", log=tmp_path / "l", world=2
    )
    assert run.wait() == [0, 0], run.output
    for name in ("step=6.ckpt/__1_0.distcp", "step=5.ckpt/meta.pt"):
        assert run.output.count(f"passed over: {checkpoints / name} is ") == 1, run.output
    assert run.output.count("growth: experts ×2, at step 4") == 1


def test_what_a_checkpoint_cannot_be_resumed_with(refused: Refused, runs: Path, tmp_path: Path) -> None:
    base = ("fit", "--config", config(tmp_path / "run"), "--ckpt_path", runs / "alone/checkpoints/step=3.ckpt")
    sgd = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1")
    refused(*base, *sgd, says=("AdamW", "model.optimizer is SGD", "model.init_from"))
    refused(*base, "--trainer.max_steps", "2", says=("step 3", "trainer.max_steps 2", "raise it"))
    past = with_events(tmp_path / "past.yaml", [{"at": {"steps": 1}, "depth": {}}])
    refused(*base, "--config", past, says=("1 steps", "in the past", "step 3"))
    later = ("fit", "--config", config(tmp_path / "run"), "--ckpt_path", runs / "alone/checkpoints/step=5.ckpt")
    refused(*later, "--growth.events.1.width.noise", "0.5", says=("event 2 (at 4 steps) lies in the past", "step 5"))


def test_a_growth_that_was_changed_since_is_told(runs: Path, tmp_path: Path) -> None:
    argv = ("fit", "--config", config(tmp_path / "run"), "--ckpt_path", runs / "alone/checkpoints/step=5.ckpt")
    for moved, times in ((("--growth.events.1.at.steps", 6, "--trainer.max_steps", 7), 1), ((), 0)):
        run = start(*argv, *moved, log=tmp_path / "log")
        assert run.wait() == [0], run.output
        said = "the checkpoint has grown, experts ×2 at step 4, by no event of this configuration"
        assert run.output.count(said) == times, run.output


def test_times_that_were_lost_in_a_copy_are_told(runs: Path, tmp_path: Path) -> None:
    """A run may have begun anew where an earlier one went further, so that times are what counts."""
    shutil.copytree(runs / "alone", tmp_path / "run")
    saved = tmp_path / "run/checkpoints"
    argv = ("fit", "--config", config(tmp_path / "run"), "--ckpt_path", "last", "--trainer.max_steps", 7)
    for newest, told in (("step=6.ckpt", 0), ("step=5.ckpt", 1)):
        os.utime(saved / newest, (time.time() + 60, time.time() + 60))
        run = start(*argv, log=tmp_path / "log")
        assert run.wait() == [0], run.output
        assert run.output.count(f"{saved / newest} is the newest by its time, and {saved}/") == told, run.output
        for path in saved.glob("*step=7*"):
            path.unlink()


def test_a_plan_is_of_a_run_from_its_beginning(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = runs / "alone/checkpoints/step=5.ckpt"
    for options, told in (((), False), (("--ckpt_path", str(checkpoint)), True)):
        assert main(["plan", "--config", str(config(tmp_path / "run")), *options]) == 0
        assert ("planned is the run from its beginning" in capsys.readouterr().out) == told


@pytest.mark.parametrize("made", ["merged", "sharded", "weights alone"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_weights_alone_are_not_gone_on_from(refused: Refused, runs: Path, tmp_path: Path, made: str) -> None:
    """A schedule would begin anew in the middle of a run."""
    path = tmp_path / "weights.ckpt"
    if made == "weights alone":
        saved = torch.load(runs / "alone/checkpoints/step=5.ckpt", weights_only=True)
        save({key: saved[key] for key in saved.keys() - {"optimizer_states", "lr_schedulers", "checksum"}}, path)
    else:
        folder = runs / ("alone" if made == "merged" else "sharded") / "checkpoints"
        assert main(["merge", str(folder / "step=5.ckpt"), str(folder / "step=6.ckpt"), str(path)]) == 0
    on = ("fit", "--config", config(tmp_path / "run"), "--ckpt_path", path, "--trainer.max_steps", "9")
    refused(*on, says=(f"{path} is of step", "has no optimizer state", "model.init_from instead"))


def test_options_that_the_checkpoints_optimizer_has_otherwise_are_told(runs: Path, tmp_path: Path) -> None:
    argv = ["fit", "--config", config(tmp_path / "run"), "--ckpt_path", runs / "alone/checkpoints/step=3.ckpt"]
    optimizer = ["--model.optimizer", "AdamW", "--model.optimizer.init_args.lr", 0.01]
    run = start(*argv, *optimizer, "--model.optimizer.init_args.betas", "[0.9,0.95]", log=tmp_path / "log")
    assert run.wait() == [0], run.output
    (told,) = (line for line in run.output.splitlines() if "checkpoint's optimizer is what goes on" in line)
    assert "lr 0.001, not 0.01" in told and "weight_decay 0.1, not 0.01" in told and "betas" not in told
    run = start(*argv, log=tmp_path / "log2")
    assert run.wait() == [0] and "checkpoint's optimizer is what goes on" not in run.output


def test_a_schedule_that_the_checkpoint_would_turn_into_another(refused: Refused, tmp_path: Path) -> None:
    """Above all the one that is to be longer: torch's cosine would rise again."""
    cosine = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": "${trainer.max_steps}"}}
    argv = ["fit", "--config", config(tmp_path / "run", model__lr_scheduler=cosine)]
    assert start(*argv, log=tmp_path / "log").wait() == [0]
    on = (*argv, "--ckpt_path", "last", "--trainer.max_steps", 12)
    refused(*on, says=("model.lr_scheduler.T_max is 12", "checkpoint's 6", "set it to that", "WarmupStableDecay"))
    linear = ("--model.lr_scheduler", "torch.optim.lr_scheduler.LinearLR")
    refused(*on, *linear, says=("model.lr_scheduler is LinearLR", "checkpoint's is another"))
    run = start(*on, "--model.lr_scheduler.init_args.T_max", 6, log=tmp_path / "log2")
    assert run.wait() == [0], run.output


def test_a_shape_that_contradicts_the_checkpoint_is_told_and_not_taken(runs: Path, tmp_path: Path) -> None:
    source = runs / "alone/checkpoints/step=5.ckpt"
    argv = ("fit", "--config", config(tmp_path / "run"), "--ckpt_path", source, "--model.config.num_layers", 3)
    run = start(*argv, log=tmp_path / "log")
    assert run.wait() == [0], run.output
    told = [line for line in run.output.splitlines() if "checkpoint's model is what goes on" in line]
    assert len(told) == 1 and "num_layers 2, not 3" in told[0]


def test_the_newest_whole_checkpoint_is_gone_on_from(refused: Refused, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "alone", tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    cut_off(checkpoints / "step=5.ckpt")
    flip(checkpoints / "step=6.ckpt", 0)
    log = tmp_path / "log"
    run = start("fit", "--config", config(tmp_path / "run"), "--ckpt_path", "last", log=log)
    assert run.wait() == [0], run.output
    for name, what in (("step=6.ckpt", "is damaged"), ("step=5.ckpt", "is no checkpoint, or one that was cut off")):
        assert f"passed over: {checkpoints / name} {what}" in run.output
    assert run.output.count("growth: experts ×2, at step 4") == 1 and "depth ×2, at" not in run.output
    for path in checkpoints.iterdir():
        os.truncate(path, 9)
    refused(
        "fit", "--config", config(tmp_path / "run"), "--ckpt_path", "last", says=("no checkpoint in", "can be read")
    )


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "key"),
    [(("--model.config.hidden_size", "32"), "model.config.hidden_size"), (("--data.seed", "3"), "data.seed")],
)
def test_processes_that_disagree_about_the_configuration(tmp_path: Path, option: tuple[str, str], key: str) -> None:
    argv = ["fit", "--config", str(config(tmp_path / "run")), *SHARDED]
    run = start_each([argv, [*argv, *option]], log=tmp_path / "log")
    assert run.wait(300) == [2, 2]
    assert len(run.errors) == 1 and "Traceback" not in run.output
    assert "process 1 has another configuration than process 0" in run.errors[0] and key in run.errors[0]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_console_is_free_of_what_users_cannot_use(runs: Path) -> None:
    output = (runs / "log").read_text()
    for noise in (
        "litlogger",
        "LeafSpec",
        "weights_only",
        "run from within Python",
        "exists and is not empty",
        "Traceback",
    ):
        assert noise not in output, output
    assert "growth: depth ×2, at step 2" in output


def test_a_run_that_begins_where_an_earlier_one_lies_is_told(tmp_path: Path) -> None:
    folder, command = tmp_path / "run/checkpoints", ("fit", "--config", config(tmp_path / "run"))
    folder.mkdir(parents=True)
    (folder / "step=3.ckpt").write_bytes(b"not whole, and nobody's business")
    run = start(*command, log=tmp_path / "log")
    assert run.wait() == [0] and f"{folder} holds an earlier run" in run.output
    run = start(*command, "--ckpt_path", folder / "step=6.ckpt", "--trainer.max_steps", 7, log=tmp_path / "log2")
    assert run.wait() == [0] and "earlier run" not in run.output


def test_a_loss_of_another_name_to_stop_by(tmp_path: Path) -> None:
    stop = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss")
    validated = ("--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 1)
    run = start("fit", "--config", config(tmp_path / "run"), *stop, *validated, log=tmp_path / "log")
    assert run.wait() == [2] and "Traceback" not in run.output
    assert len(run.errors) == 1 and "`val_loss`" in run.errors[0] and "`loss/val`" in run.errors[0]


def test_a_run_without_a_folder_is_in_the_current_one(tmp_path: Path) -> None:
    path = config(tmp_path / "run")
    values = yaml.safe_load(path.read_text())
    del values["trainer"]["default_root_dir"]
    path.write_text(yaml.safe_dump(values))
    run = start("fit", "--config", path, log=tmp_path / "log", before=partial(os.chdir, tmp_path))
    assert run.wait() == [0], run.output
    assert (tmp_path / "checkpoints/step=6.ckpt").is_file() and not (tmp_path / "None").exists()


def test_a_fast_run_to_try_a_configuration_does_not_miss_its_growths(tmp_path: Path) -> None:
    run = start("fit", "--config", config(tmp_path / "run"), "--trainer.fast_dev_run", "true", log=tmp_path / "log")
    assert run.wait() == [0], run.output
