"""``python -m lit_recycle.experiments``: plan, run, and write the page."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lit_recycle.commands.errors import sentence
from lit_recycle.experiments.definition import load_experiments
from lit_recycle.experiments.launch import Settings
from lit_recycle.experiments.repeated import HEAD, repeats
from lit_recycle.experiments.results import Results
from lit_recycle.experiments.runner import Runner


def main(argv: list[str]) -> int:
    """Returns 0, 1 where a run has failed, 2 for a user's mistake, 130 after an interruption."""
    options = parse(argv)
    try:
        return options.command(options)
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lit_recycle.experiments")
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("plan", plan, "what is left to run, and how long it will take"),
        ("run", run, "run what has no result yet; go on where it was interrupted"),
        ("page", page, "write docs/evidence.md and its figures from the results"),
        ("compare", compare, "whether results that were made again agree with the first ones"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.set_defaults(command=command)
        sub.add_argument("--configs", type=Path, default=Path("configs/experiments"))
        if command is compare:
            sub.add_argument("first", type=Path, help="folder of results")
            sub.add_argument("second", type=Path, help="folder of results, made elsewhere or again")
            continue
        sub.add_argument("--results", type=Path, default=Settings.results)
        if command is page:
            sub.add_argument("--docs", type=Path, default=Path("docs"), help="folder of evidence.md")
            continue
        sub.add_argument("only", nargs="*", help="names of experiments, in the order to run them; all when not given")
        sub.add_argument("--work", type=Path, default=Settings.work, help="checkpoints and logs")
        sub.add_argument("--workers", type=int, default=Settings.workers, help="runs side by side")
        sub.add_argument("--threads", type=int, default=Settings.threads, help="threads of each")
    return parser.parse_args(argv)


def _runner(options: argparse.Namespace) -> Runner:
    settings = Settings(options.work, options.results, options.workers, options.threads)
    return Runner(load_experiments(options.configs, options.only), settings)


def plan(options: argparse.Namespace) -> int:
    _print_plan(_runner(options))
    return 0


def run(options: argparse.Namespace) -> int:
    runner = _runner(options)
    _print_plan(runner)
    return runner.run()


def page(options: argparse.Namespace) -> int:
    from lit_recycle.experiments.page import write_page  # the others need no matplotlib

    print(write_page(load_experiments(options.configs), Results(options.results), options.docs))
    return 0


def compare(options: argparse.Namespace) -> int:
    """1 where no run is in both, or where fewer than three quarters of the losses agree."""
    for folder in (options.first, options.second):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: give one of results")
    found = repeats(load_experiments(options.configs), Results(options.first), Results(options.second))
    table = Table(title=f"{options.first} and {options.second}")
    for name in HEAD:
        table.add_column(name)
    for one in found:
        table.add_row(*one.row)
    console = Console()
    console.print(table)
    known = [one for one in found if one.verdict != "one seed only"]
    agree = sum(one.verdict == "agrees" for one in known)
    console.print(f"{agree} of {len(known)} means agree within two standard errors; by chance eight in nine do")
    losses = [one.verdict == "agrees" for one in known if one.metric == "loss"]
    return int(not found or sum(losses) < 0.75 * len(losses))


def _print_plan(runner: Runner) -> None:
    rows = runner.plan()
    table = Table(title=f"{runner.settings.workers} runs side by side, {runner.settings.threads} thread each")
    for name in ("experiment", "runs", "done", "FLOPs left", "time left"):
        table.add_column(name, justify="left" if name == "experiment" else "right")
    for row in rows:
        later = f" + {row['waiting']} runs" if row["waiting"] else ""
        table.add_row(
            row["experiment"], str(row["runs"]), str(row["done"]), f"{row['flops']:.2g}{later}", _clock(row["seconds"])
        )
    table.add_row("together", "", "", f"{sum(r['flops'] for r in rows):.2g}", _clock(sum(r["seconds"] for r in rows)))
    console = Console()
    console.print(table)
    if any(row["waiting"] for row in rows):
        console.print("Runs after the + wait for the best of a sweep; their time is not in the sum.")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
