"""What the monitors of a configuration cost, as a share of the training time.

    python benchmarks/monitor_cost.py --config configs/quickstart.yaml --trainer.max_steps 100

Takes the options of `lit-recycle fit`. Time is that of Lightning's profiler in the callbacks' hooks of a whole run; a
length that is a multiple of the monitors' intervals counts each of them fairly. What a process pays once is left out:
importing matplotlib, and the hooks at the beginning and end of the run.
"""

from __future__ import annotations

import sys
import tempfile

from lightning.pytorch.profilers import SimpleProfiler
from rich.console import Console
from rich.table import Table

import lit_recycle.report.plots  # noqa: F401 (a process imports it once)
from lit_recycle.commands.trainer import RecycleCLI

SHOWN = ("Monitor", "TensorBoardLayout", "RunProgressBar")
PER_STEP = ("on_train_batch_start", "on_train_batch_end", "on_validation_end")


def main(argv: list[str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        cli = RecycleCLI("fit", [*argv, "--trainer.profiler", "simple", "--trainer.default_root_dir", root])
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        profiler = cli.trainer.profiler
        assert isinstance(profiler, SimpleProfiler)
        steps = cli.trainer.global_step
    times = {action: sum(durations) for action, durations in profiler.recorded_durations.items()}
    whole = times["run_training_epoch"]
    costs: dict[str, float] = {}
    for action, seconds in times.items():
        name = action.removeprefix("[Callback]").split(".")[0].split("{")[0]
        if action.startswith("[Callback]") and action.endswith(PER_STEP) and any(s in name for s in SHOWN):
            costs[name] = costs.get(name, 0.0) + seconds
    table = Table(title=f"{steps} steps of {whole / steps * 1e3:.1f} ms")
    for head in ("callback", "ms per step", "share"):
        table.add_column(head, justify="left" if head == "callback" else "right")
    for name, seconds in sorted(costs.items(), key=lambda cost: -cost[1]):
        table.add_row(name, f"{seconds / steps * 1e3:.3f}", f"{seconds / whole:.2%}")
    table.add_row("all", f"{sum(costs.values()) / steps * 1e3:.3f}", f"{sum(costs.values()) / whole:.2%}")
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
