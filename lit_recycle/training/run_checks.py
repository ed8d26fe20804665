"""What the parts of a run's configuration must not ask of each other, told before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_recycle.hub.shape import HubShape
from lit_recycle.model.kernels import grouped
from lit_recycle.training.schedules import check_to_the_end

if TYPE_CHECKING:
    from lit_recycle.training.module import LitMoE


def check_run(module: LitMoE, trainer: Trainer, data: Any, is_fit: bool) -> None:
    """Raises ``ValueError`` for a configuration whose parts do not fit each other, before anything is computed."""
    check_vocabulary(module, getattr(data, "vocab_size", 0))
    if module.spikes and getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError("model.spike_skip does not work with a scaler of gradients: set trainer.precision bf16-mixed")
    if isinstance(module.shape, HubShape):
        _check_transformers(module, module.shape, data)
    elif module.compile_blocks and not (
        trainer.precision in ("bf16-mixed", "bf16-true")
        and grouped.has_grouped_product(trainer.strategy.root_device, torch.bfloat16)
    ):
        raise ValueError(
            "model.compile_blocks needs a GPU and trainer.precision bf16-mixed or bf16-true: elsewhere the products"
            " of experts are a loop whose lengths change at every step"
        )
    if is_fit:
        _check_steps(trainer)


def _check_steps(trainer: Trainer) -> None:
    """Raises ``ValueError`` for what would begin or end within an optimizer step."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise ValueError(
            "GradientAccumulationScheduler acts when an epoch begins; a run is one epoch, and resumed within it,"
            " it would go on without accumulation: set trainer.accumulate_grad_batches"
        )
    # Lightning has no such attribute where validation goes by the clock.
    every, window = getattr(trainer, "val_check_interval", None), trainer.accumulate_grad_batches
    if every is None and window > 1:
        raise ValueError(
            "trainer.val_check_interval as a time may end within an optimizer step, where a checkpoint could not be"
            f" resumed exactly: give micro-batches, a multiple of trainer.accumulate_grad_batches {window}"
        )
    if isinstance(every, int) and every % window:
        raise ValueError(
            f"trainer.val_check_interval {every} must be a multiple of trainer.accumulate_grad_batches {window}: "
            "a checkpoint from within an optimizer step could not be resumed exactly"
        )


def _check_transformers(module: LitMoE, shape: HubShape, data: Any) -> None:
    """Raises ``ValueError`` for what a model of transformers cannot do here."""
    if module.compile_blocks:
        raise ValueError("model.compile_blocks is for this project's own model: leave it out for transformers")
    if getattr(data, "documents", "pack") == "mask" and (kind := shape.mixes_positions):
        raise ValueError(
            f"data.documents mask cannot keep documents apart in a {shape.config['model_type']} model, which has "
            f"{kind}: set data.documents pack"
        )


def check_vocabulary(module: LitMoE, tokens: int) -> None:
    """Raises ``ValueError`` for a tokenizer of more tokens than the model has."""
    vocabulary = module.shape.size("V")
    if tokens > vocabulary:
        if module.starts_from_weights:
            raise ValueError(
                f"model.init_from has a vocabulary of {vocabulary}, and the tokenizer has {tokens} ids: "
                "set data.tokenizer to the model's own"
            )
        raise ValueError(f"model.config.vocab_size {vocabulary} is smaller than the tokenizer's {tokens}: raise it")


def tell_of_length(module: LitMoE, seq_len: int) -> None:
    """Warn of samples longer than what the folder's model was made for.

    All families have rotary positions, or none: no table of them ends, but those beyond were never trained.
    """
    config = module.shape.config if isinstance(module.shape, HubShape) else (module.hub or {}).get("config", {})
    positions = config.get("max_position_embeddings") or seq_len
    if seq_len > positions:
        rank_zero_warn(
            f"data.seq_len {seq_len} is more than the folder's max_position_embeddings {positions}: the model has "
            "not seen positions beyond it, and its loss there may be high; lower data.seq_len, or raise the rotary "
            "base with an event's grow: [RotaryBase]"
        )


def check_first_step(module: LitMoE, steps: int) -> None:
    """Raises ``ValueError`` for what the optimizer or its schedule would refuse, in its first step or at the end."""
    with torch.device("meta"):
        whole = dict(module.make_model().named_parameters(prefix="model"))
    # Of one element each: some optimizers refuse parameters on the meta device.
    small = {n: torch.nn.Parameter(torch.zeros([1] * p.dim())) for n, p in whole.items()}
    optimizer = module.make_optimizer(small.items(), {})
    schedule = module.make_schedule(optimizer, steps)
    first = next(iter(small.values()))
    first.grad = torch.zeros_like(first)
    try:
        optimizer.step()
    except RuntimeError as error:
        raise ValueError(f"model.optimizer {type(optimizer).__name__} cannot train this model: {error}") from error
    check_to_the_end(schedule, steps)
