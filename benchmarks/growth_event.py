"""A growth in a run beside cloning the same bytes: what it takes from the last small step to the first large one.

    python benchmarks/growth_event.py [--kinds depth width noise both] [--mb 1000] [--rounds 3] [--anchor]

A Lightning run on the CPU takes two steps, grows, and takes another. Measured is the time from the end of the second
step to the start of the third, by parts, and right after it, in the same process, the time of cloning all weights and
moments of the grown model, into fresh memory (which is the fair rival: a growth needs fresh memory as well) and into
memory that is already there. Before each of the two, free memory is handed back to the system, so that neither finds
what the other left. Memory is the resident peak of the event, from the kernel (Linux), with what malloc keeps of freed
tensors; with MALLOC_MMAP_THRESHOLD_=65536 in the environment it keeps nothing, and the peak is that of tensors alone.
The loss of one batch before and after is two forward passes: it costs what the batch costs, here 64 tokens.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from contest import resident
from table import Row
from torch import Tensor
from torch.utils.data import DataLoader

from lit_recycle.callbacks import growth
from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.model.config import MoEConfig
from lit_recycle.training import regrow
from lit_recycle.training.module import LitMoE

STEPS = 2
"""Optimizer steps before the growth; moments exist from the first one on."""

KINDS: dict[str, dict[str, Any]] = {
    "depth": {"depth": Depth(2)},
    "width": {"width": Width(2, noise=0.0)},
    "noise": {"width": Width(2, noise=0.01)},
    "both": {"depth": Depth(2), "width": Width(2, noise=0.0)},
}
WHAT = {"depth": "depth × 2", "width": "width × 2", "noise": "width × 2, noise 0.01", "both": "depth and width × 2"}

PARTS: dict[str, tuple[Any, str]] = {
    "anchor on disk": (L.Trainer, "save_checkpoint"),
    "loss of one batch, before and after": (growth, "batch_loss"),
    "building": (LitMoE, "build"),
    "wrapping": (L.pytorch.strategies.SingleDeviceStrategy, "setup"),
    "weights": (regrow.NamedGrowth, "set_up"),
    "optimizer state": (regrow.NamedGrowth, "give_states"),
    "letting go of the small model": (regrow.gc, "collect"),
}


@dataclass
class Event:
    """One growth: seconds by part, seconds of cloning, bytes."""

    seconds: float = 0.0
    parts: Counter[str] = field(default_factory=Counter)
    plain: float = 0.0
    """Seconds between two steps with no growth in between."""
    clone: float = 0.0
    copy: float = 0.0
    small: int = 0
    """Bytes of weights, gradients and moments before."""
    grown: int = 0
    """Bytes of weights and moments after."""
    peak: int = 0
    """Resident bytes at the peak of the event, without those that were no part of the model before it."""

    @property
    def moving(self) -> float:
        return self.seconds - self.parts["anchor on disk"]


class Tokens(L.LightningDataModule):
    """Random tokens, as many batches as anybody asks for."""

    seq_len, batch_size = 64, 1
    vocab_size, tokens_per_batch = 512, 64

    def train_dataloader(self) -> Any:
        ids = torch.randint(0, self.vocab_size, (self.batch_size, self.seq_len))
        return DataLoader([{"input_ids": ids, "labels": ids}] * (STEPS + 1), batch_size=None)


class Measured(LitMoE):
    """Looks at the clock when an optimizer step ends and when the next one starts."""

    event: Event
    ended = 0.0
    other = 0
    """Resident bytes that are no tensor of the model: torch itself."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.trainer.global_step == STEPS - 1:  # Lightning counts the step when this returns
            self.event.small = sum(t.nbytes for t in tensors(self, gradients=True))
            self.event.parts.clear()
            give_memory_back()
            self.other = resident() - self.event.small
        self.ended = time.perf_counter()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        seconds = time.perf_counter() - self.ended
        if self.trainer.global_step == STEPS - 1:
            self.event.plain = seconds
        if self.trainer.global_step == STEPS:
            self.event.seconds = seconds
            self.event.peak = resident("VmHWM") - self.other
            clone(self.event, [t.detach() for t in tensors(self)])
        return super().training_step(batch, batch_idx)


def tensors(module: LitMoE, gradients: bool = False) -> list[Tensor]:
    """Weights and optimizer state, and gradients on request."""
    (optimizer,) = module.trainer.optimizers
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    grads = [p.grad for p in module.parameters() if p.grad is not None and gradients]
    return [*module.parameters(), *states, *grads]


def clone(event: Event, sources: list[Tensor]) -> None:
    """Time both ways of cloning: what allocates, and what does not."""
    event.grown = sum(t.nbytes for t in sources)
    give_memory_back()
    started = time.perf_counter()
    clones = [t.clone() for t in sources]
    event.clone = time.perf_counter() - started
    started = time.perf_counter()
    for target, source in zip(clones, sources, strict=True):
        target.copy_(source)
    event.copy = time.perf_counter() - started


def give_memory_back() -> None:
    """Free memory goes back to the system, and the peak is that of now."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def watched(event: Event) -> Iterator[None]:
    """Let the time of each part count towards the event, without that of the parts in it."""
    inner: list[float] = []

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - started
                event.parts[name] += seconds - inner.pop()
                if inner:
                    inner[-1] += seconds

        return timed

    with ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            stack.enter_context(patch.object(owner, attribute, watch(name, getattr(owner, attribute))))
        yield


def config_for(kind: str, megabytes: int) -> MoEConfig:
    """A small model whose weights and moments take so many MB once it has grown."""
    layers = 2 if kind == "both" else 4
    config = MoEConfig(vocab_size=Tokens.vocab_size, hidden_size=512, num_layers=layers, num_experts=8, top_k=2)
    grown = config.replace(
        num_layers=layers * (2 if "depth" in KINDS[kind] else 1),
        num_experts=8 * (2 if "width" in KINDS[kind] else 1),
    )
    sizes = range(64, 65536, 64)
    return config.replace(
        expert_size=next(f for f in sizes if 12 * grown.replace(expert_size=f).num_params() >= megabytes * 1e6)
    )


def measure(kind: str, megabytes: int, anchor: bool) -> Event:
    """One run with one growth."""
    gc.collect()  # so that nothing of the run before is let go within the event
    event = Event()
    with tempfile.TemporaryDirectory() as folder, watched(event), redirect_stdout(io.StringIO()):
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=STEPS + 1,
            max_epochs=-1,
            limit_val_batches=0,
            callbacks=[GrowthCallback([GrowthEvent(Trigger(steps=STEPS), **KINDS[kind])], save_anchor=anchor)],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Measured(config_for(kind, megabytes))
        module.event = event
        trainer.fit(module, datamodule=Tokens())
    assert len(module.growth) == 1
    return event


def report(kind: str, events: list[Event]) -> Row:
    """Print the medians of some rounds, and give the table's row."""

    def median(value: Callable[[Event], float]) -> float:
        return statistics.median(map(value, events))

    moving, clone, copy = median(lambda e: e.moving), median(lambda e: e.clone), median(lambda e: e.copy)
    ratio = median(lambda e: e.moving / e.clone)
    small, grown, peak = events[0].small, events[0].grown, median(lambda e: e.peak)
    print(f"\n{WHAT[kind]}: {moving:.3f} s, {ratio:.2f} × cloning ({grown / 1e6:,.0f} MB, read and written)")
    print(f"  cloning into fresh memory {clone:.3f} s, into memory at hand {copy:.3f} s")
    parts = {name: median(lambda e, name=name: e.parts[name]) for name in PARTS}
    parts["the rest"] = median(lambda e: e.seconds - e.parts.total())
    parts["as between any two steps"] = median(lambda e: e.plain)
    for name, seconds in parts.items():
        print(f"  {name:<38}{seconds:>8.3f} s")
    print(
        f"  memory: small {small / 1e6:,.0f} MB (with gradients), grown {grown / 1e6:,.0f} MB, both "
        f"{(small + grown) / 1e6:,.0f} MB; at the peak {peak / 1e6:,.0f} MB"
    )
    return Row(f"growth event, {WHAT[kind]}", f"{moving:.2f} s", f"clone {clone:.2f} s", f"{ratio:.2f} ×", "≤ 2 ×")


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--mb", type=int, default=1000, help="weights and moments after the growth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--anchor", action="store_true", help="with the anchor checkpoint, which is told apart")
    options = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {options.rounds}")
    torch.ones(int(2.5e6) * options.mb // 4)  # a virtual machine may not have all of its memory yet
    events: dict[str, list[Event]] = {kind: [] for kind in options.kinds}
    for _ in range(options.rounds):
        for kind in options.kinds:
            events[kind].append(measure(kind, options.mb, options.anchor))
    return [report(kind, found) for kind, found in events.items()]


if __name__ == "__main__":
    main()
