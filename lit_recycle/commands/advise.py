"""``lit-recycle advise``: a schedule for a checkpoint or a configuration and a budget, as YAML that runs as it is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_recycle.addresses import Place, place_of
from lit_recycle.advice.law import Forecast, Part
from lit_recycle.advice.rules import advise
from lit_recycle.advice.runs import read_runs
from lit_recycle.advice.situation import Situation
from lit_recycle.commands.advised_run import NO_END, left_out, length, shape_with, to_yaml
from lit_recycle.commands.merged_config import load_config, resolved
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.destination import check_local
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import Shape, sizes


def main(argv: list[str]) -> int:
    """Print the YAML, with the reasons as comments."""
    options, rest = parse(argv)
    paths = options.config or [_config_beside(options.ckpt_path)]
    if options.out:
        _check_out(options.out, paths)
    written = load_config([*(word for path in paths for word in ("--config", str(path))), *rest])
    config = resolved(written)
    if checkpoint := options.ckpt_path or config.get("ckpt_path"):
        written["ckpt_path"] = str(checkpoint)
    saved = _read(place_of(checkpoint)) if checkpoint else None
    past = [record["event"] for record in saved["hyper_parameters"]["growth"]] if saved else []
    situation = _situation(config, saved, options)
    advice = advise(situation, Forecast(read_runs(options.runs)) if options.runs else None)
    advice.remarks += left_out(config, len(past))
    text = to_yaml(written, length(config, situation, advice, len(past)), advice, past)
    _check(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
        print("\n".join(line for line in text.splitlines() if line.startswith("#")))
        print(f"\nlit-recycle fit --config {options.out}")
    else:
        sys.stdout.write(text)
    return 0


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="lit-recycle advise",
        description="Recommend when and how to grow: a whole configuration for `lit-recycle fit`, each line of the "
        "schedule with its source. Further options override the configuration: --data.batch_size 32.",
    )
    parser.add_argument("--ckpt_path", type=place_of, default=None, help="checkpoint to go on from, or its address")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="the run's, as for fit several one over the other; the one beside the checkpoint by default",
    )
    parser.add_argument(
        "--sunk_tokens",
        type=float,
        default=None,
        help="what model.init_from was trained on before this run; its model card says it",
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--flops", type=float, help="FLOPs to spend from here on")
    budget.add_argument(
        "--tokens", type=float, help="tokens, as the present model would be trained on; its FLOPs count"
    )
    budget.add_argument("--hours", type=float, help="device hours; needs --flops_per_second")
    parser.add_argument("--flops_per_second", type=float, default=None, help="of a device, as training reaches it")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="finished runs on the same data, from which losses are predicted: run folders, or results of experiments",
    )
    parser.add_argument("--out", type=Path, default=None, help="file for the YAML; standard output when not given")
    options, rest = parser.parse_known_args(argv)
    if not (options.ckpt_path or options.config):
        raise ValueError("give --ckpt_path, --config, or both: what is to be trained")
    if (options.hours is None) != (options.flops_per_second is None):
        raise ValueError("--hours and --flops_per_second belong together")
    return options, rest


def _check_out(out: Path, configs: Sequence[Path]) -> None:
    """Raises ``ValueError`` for a file that is read, and would lose its comments, or that lies on a server."""
    check_local(out)
    if out.resolve() in (path.resolve() for path in configs):
        raise ValueError(f"--out {out} is the configuration that is read: give another file, and compare the two")


def _check(text: str) -> None:
    """Raises ``ValueError`` for what ``fit`` would refuse: keys that there are not came with the configuration."""
    with without_gc():
        from lit_recycle.commands.dry_run import DryRun

    with TemporaryDirectory() as folder:
        path = Path(folder) / "advice.yaml"
        path.write_text(text, encoding="utf-8")
        DryRun(["--config", str(path)])


def _config_beside(checkpoint: Place) -> Path:
    if not isinstance(checkpoint, Path):
        raise ValueError(f"no config.yaml is looked for at an address, {checkpoint}: give the run's with --config")
    if not checkpoint.exists():
        raise ValueError(f"there is no checkpoint {checkpoint}")
    if (checkpoint / "config.json").is_file():
        raise ValueError(
            f"{checkpoint} is a Hugging Face folder, and --ckpt_path takes checkpoints of this project: give it as "
            "--model.init_from, with --config (configs/recycle.yaml is for it)"
        )
    for folder in checkpoint.resolve().parents[:2]:
        if (folder / "config.yaml").exists():
            return folder / "config.yaml"
    raise ValueError(f"there is no config.yaml beside {checkpoint}: give the run's with --config")


def _read(checkpoint: Place) -> dict[str, Any]:
    if str(checkpoint) in ("last", "best"):
        raise ValueError(f"advise takes the checkpoint itself, and ckpt_path is {checkpoint}: give its path")
    with without_gc():  # only now: --help needs no torch
        from lit_recycle.checkpoints.native import load_whole_checkpoint

    return load_whole_checkpoint(checkpoint)


def _situation(config: dict[str, Any], saved: dict[str, Any] | None, options: argparse.Namespace) -> Situation:
    run = shape_with(config, [])
    shape, seq_len = run.shape, run.pace.seq_len
    progress = Progress(0, 0, 0)
    known: dict[str, Any] = _before(config, shape, seq_len, options.sunk_tokens)
    if saved:
        from lit_recycle.hub.shape import shape_of
        from lit_recycle.training.weight_stats import norm_profile

        shape = shape_of(saved["hyper_parameters"]["config"])
        counters = saved.get("progress", {"tokens_seen": 0, "flops_spent": 0})
        progress = Progress(saved.get("global_step", 0), counters["tokens_seen"], counters["flops_spent"])
        known["profile"] = norm_profile(saved["state_dict"]).tolist()
        known["optimizer"] = bool(saved.get("optimizer_states"))
        known["rate"] = _rate(saved)
        known["past"] += _past(saved["hyper_parameters"]["growth"], shape, progress)
    if not isinstance(shape, NativeModel):
        raise ValueError("advise knows this project's own models, and this one is trained through transformers")
    if options.flops is not None:
        budget = options.flops
    elif options.tokens is not None:
        budget = options.tokens * shape.num_flops_per_token(seq_len)
    else:
        budget = options.hours * 3600 * options.flops_per_second
    most = NO_END * shape.num_flops_per_token(seq_len)
    if not 0 < budget <= most:
        raise ValueError(
            f"--flops, --tokens or --hours: the budget must be positive and at most {most:.3g} FLOPs, which are "
            f"{NO_END:.0e} tokens, got {budget:g} FLOPs"
        )
    return Situation(shape.config, progress, budget, seq_len=seq_len, **known)


def _before(config: dict[str, Any], start: Shape, seq_len: int, sunk_tokens: float | None) -> dict[str, Any]:
    """What is known of the model that the run began with, from before it.

    Raises:
        ValueError: It is not said how long it was trained, or of a new model it is.
    """
    source = (config.get("model") or {}).get("init_from")
    if source is None:
        if sunk_tokens is not None:
            raise ValueError("--sunk_tokens is of a model.init_from, and there is none: leave it out")
        return {"past": ()}
    if sunk_tokens is None:
        raise ValueError(
            f"how long {source} was trained is not known, and the moment of a growth depends on it: give "
            "--sunk_tokens, the tokens that its model card speaks of"
        )
    if not 0 <= sunk_tokens <= NO_END:
        raise ValueError(f"--sunk_tokens must be from 0 to {NO_END:.0e}, got {sunk_tokens:g}")
    past = (Part(sunk_tokens, start.num_active_params(), start.num_params()),) if sunk_tokens else ()
    return {"past": past, "before": sunk_tokens * start.num_flops_per_token(seq_len), "optimizer": False}


def _past(growth: list[dict[str, Any]], shape: Shape, progress: Progress) -> tuple[Part, ...]:
    """What a checkpoint was trained through, stage by stage."""
    ends = [*(record["tokens"] for record in growth), progress.tokens]
    passed = [*(record["sizes_before"] for record in growth), sizes(shape)]
    stages = zip([0, *ends], ends, passed, strict=False)
    return tuple(Part(end - begin, size["active_params"], size["params"]) for begin, end, size in stages if end > begin)


def _rate(saved: dict[str, Any]) -> float | None:
    """The checkpoint's learning rate as a share of the full one."""
    for schedule in saved.get("lr_schedulers", []):
        if schedule.get("base_lrs") and schedule.get("_last_lr"):
            return schedule["_last_lr"][0] / schedule["base_lrs"][0]
    return None
