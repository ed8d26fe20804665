"""Learning-rate schedules for pretraining."""

from __future__ import annotations

import math
import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


class WarmupStableDecay(LambdaLR):
    """Linear warm-up, a constant rate, and a linear decay to ``final_factor`` over the last steps (Hu et al. 2024).

    Growth belongs into the constant phase.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the whole run, usually ``${trainer.max_steps}``.
        warmup_steps: Steps from zero to the full rate.
        decay_steps: Steps of the decay, at the end.
        final_factor: What is left of the rate at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        decay_steps: int = 0,
        final_factor: float = 0.1,
    ) -> None:
        if warmup_steps < 0 or decay_steps < 0 or warmup_steps + decay_steps > total_steps:
            raise ValueError(
                f"warmup_steps {warmup_steps} and decay_steps {decay_steps} do not fit into total_steps {total_steps}; "
                "set model.lr_scheduler.warmup_steps and decay_steps to fewer"
            )
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor must lie in 0..1, got {final_factor}")
        decay_start = total_steps - decay_steps

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            if step <= decay_start or decay_steps == 0:
                return 1.0
            done = min((step - decay_start) / decay_steps, 1.0)
            return 1.0 - (1.0 - final_factor) * done

        super().__init__(optimizer, factor)


def check_to_the_end(schedule: LRScheduler, steps: int) -> None:
    """Ask a schedule, which is of no use afterwards, for the rate after so many steps and for its state.

    Raises:
        ValueError: It has none: it ends before, as ``OneCycleLR`` may, or its function gives no number.
    """
    name = f"model.lr_scheduler {type(schedule).__name__}"
    schedule.last_epoch = steps - 1
    try:
        with warnings.catch_warnings(action="ignore"):  # that no step of the optimizer was before it
            schedule.step()
        rates = [float(rate) for rate in schedule.get_last_lr()]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"{name} has no rate at the run's end, trainer.max_steps {steps}: {error}; set its length in init_args"
        ) from error
    if not all(map(math.isfinite, rates)):
        raise ValueError(f"{name} gives the rate {rates[0]} at the run's end: set its init_args to others")
    try:
        schedule.state_dict()
    except AttributeError as error:
        raise ValueError(
            f"{name} cannot be kept in a checkpoint: {error}; give a function that is written in Python"
        ) from error
