"""``lit-recycle eval MODEL…``: tasks of lm-eval for several models, in one table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lit_recycle.commands.without_gc import without_gc

EXAMPLES = """example, what a growth and the training after it have changed:
  cd runs/mine/checkpoints
  lit-recycle eval HF_DIR anchor-step=400.ckpt last.ckpt --tasks arc_easy,hellaswag
"""


def main(argv: list[str]) -> int:
    """Evaluate one model after the other, and print what all of them have reached."""
    options = parse(argv)
    with without_gc():
        from rich.console import Console
        from rich.table import Table

        from lit_recycle.evaluation.models import evaluate_model
        from lit_recycle.sampling.sampled import device_of

    device = device_of(options.device)
    found = {str(model): evaluate_model(model, options, device) for model in options.models}
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    table = Table("metric", *short_names(list(found)))
    metrics = [name for name in next(iter(found.values())) if not name.endswith("_stderr")]
    for metric in metrics:
        cells = [f"{values[metric]:.4f}{_spread(values.get(f'{metric}_stderr'))}" for values in found.values()]
        table.add_row(metric, *cells)
    Console().print(table)
    return 0


def _spread(stderr: float | None) -> str:
    return "" if stderr is None else f" ± {stderr:.4f}"


def short_names(models: Sequence[str]) -> list[str]:
    """As much of the ends of paths as tells them apart."""
    parts = [Path(model).parts for model in models]
    for length in range(1, max(map(len, parts))):
        names = [str(Path(*part[-length:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(models)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lit-recycle eval",
        description="Evaluate checkpoints and Hugging Face folders on tasks of lm-eval: pip install lit-recycle[eval]",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="checkpoint of this project, or Hugging Face folder")
    parser.add_argument("--tasks", required=True, type=lambda text: text.split(","), help="names, joined by commas")
    parser.add_argument("--include_path", help="folder of task files of your own")
    parser.add_argument("--limit", type=int, help="questions of each task; all when not given")
    parser.add_argument("--num_fewshot", type=int, help="examples before each question; what the task says")
    parser.add_argument("--batch_size", type=int, default=8, help="questions at a time (8)")
    parser.add_argument("--device", help="cuda where there is one, or cpu")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {options.batch_size}")
    return options
