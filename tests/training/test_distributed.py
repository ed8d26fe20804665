"""Growth on several processes: the same losses, the same tensors, checkpoints that fit any number of processes.

All runs of a number of processes are made by one group of processes, in the fixture; the tests look at what they left.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from runs import CONFIG, EVENTS, PROCESSES, SaveAtOnce, assert_equal, fit, on_processes
from torch.distributed.tensor import DTensor

from lit_recycle.callbacks import growth
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_checkpoint, load_whole_checkpoint
from lit_recycle.cli import main
from lit_recycle.growth.ledger import Ledger
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.kernels import grouped
from lit_recycle.model.transformer import Block
from lit_recycle.training.module import LitMoE
from lit_recycle.training.regrow import grow_in_run

STEPS = 9
RUNS = {2: ["ddp", "fsdp", "fsdp2", "fsdp2_full"], 4: ["fsdp2"]}
NAMES = [f"{world}-{strategy}" for world, strategies in RUNS.items() for strategy in strategies]
RESUMES = [
    ("2-fsdp", "step=2", 2, "fsdp2"),
    ("4-fsdp2", "anchor-step=6", 2, "fsdp"),
    ("4-fsdp2", "step=8", 2, "ddp"),
    ("1-auto", "step=4", 2, "fsdp2"),
    ("2-fsdp2_full", "anchor-step=3", 1, "auto"),
    ("2-ddp", "step=6", 2, "fsdp"),
    ("2-fsdp2", "step=5", 1, "auto"),
    ("2-fsdp2", "step=2", 2, "fsdp2"),
    ("2-fsdp2", "anchor-step=6", 2, "fsdp2"),
    ("2-fsdp2", "step=8", 2, "fsdp2"),
]
"""Checkpoint of which run, resumed on how many processes under which strategy: before, between and after events."""
SAVED = {"1-auto": (4, 6), "2-ddp": (6,), "2-fsdp": (2,), "2-fsdp2": (2, 5, 8, STEPS), "4-fsdp2": (8,)}
"""After which steps runs save, beside their anchors, for what is made of their checkpoints."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one device and under each strategy, and what was made of its checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    train(root, ["auto"])
    for world, strategies in RUNS.items():
        on_processes(world, train, root, strategies)
    resume_all(root)
    on_processes(2, second_round, root)
    return root


def train(root: Path, strategies: list[str]) -> None:
    for strategy in strategies:
        name = f"{processes()}-{strategy}"
        grown = SaveAtOnce(root / f"{name}-grown-{{step}}.ckpt", 3, 6)
        _, module, _ = fit_and_note(root / name, strategy, saves=SAVED.get(name, ()), callbacks=[grown])
        assert [record["steps"] for record in module.growth] == [3, 6]


def second_round(root: Path) -> None:
    resume_all(root)
    for strategy in ("ddp", "fsdp", "fsdp2"):
        fit_and_note(root / f"bf16-{strategy}", strategy, precision="bf16-mixed", saves=[STEPS])
    for strategy in ("fsdp", "fsdp2"):
        measure_events(root, strategy)
        fit(root / f"initial-{strategy}", strategy, steps=1, events=[], module=UNMOVED)
        source = {"init_from": str(root / "1-auto/checkpoints/step=6.ckpt")}
        fit(root / f"from-{strategy}", strategy, steps=1, events=[], config=None, module=UNMOVED | source)
    compiled_as_on_a_gpu(root)


def compiled_as_on_a_gpu(root: Path) -> None:
    grouped.has_grouped_product = lambda device, dtype: dtype == torch.bfloat16
    torch.compile = partial(torch.compile, backend="aot_eager", fullgraph=True)
    module = {"compile_blocks": True, "activation_checkpointing": True}
    fit_and_note(root / "bf16-compiled", "fsdp2", precision="bf16-mixed", saves=[STEPS], module=module)


def resume_all(root: Path) -> None:
    for source, name, world, strategy in RESUMES:
        if world == processes():
            target = root / resumed(source, name, world, strategy)
            fit_and_note(target, strategy, ckpt_path=root / source / f"checkpoints/{name}.ckpt", saves=[STEPS])


def measure_events(root: Path, strategy: str) -> None:
    """Note what each event makes and sends, in the process that holds the most."""
    costs = []

    def measured(trainer: L.Trainer, module: LitMoE, *args: object) -> None:
        before = held(module, trainer)
        with Ledger() as ledger:
            grow_in_run(trainer, module, *args)
            costs.append({"made": ledger.peak, "collectives": ledger.collectives, "received": ledger.received})
        costs[-1] |= {"before": before, "after": held(module, trainer), "block": block_bytes(module.config)}

    patch = pytest.MonkeyPatch()
    patch.setattr(growth, "grow_in_run", measured)
    even = CONFIG.replace(num_experts=4, hidden_size=64, expert_size=32)
    trainer, _, _ = fit(root / f"measured-{strategy}", strategy, config=even, saves=())
    patch.undo()
    if trainer.is_global_zero:
        (root / f"measured-{strategy}/costs.json").write_text(json.dumps(costs))


def held(module: LitMoE, trainer: L.Trainer) -> int:
    """Bytes of parameters and optimizer state that this process holds."""
    states = [v for state in trainer.optimizers[0].state.values() for v in state.values()]
    tensors = [*module.parameters(), *states]
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


def block_bytes(config: MoEConfig) -> int:
    """Weights and the two moments of one whole block."""
    with torch.device("meta"):
        return 3 * sum(p.nbytes for p in Block(config, 0).parameters())


def fit_and_note(root: Path, strategy: str, **kwargs: object) -> tuple:
    trainer, module, losses = fit(root, strategy, **kwargs)
    if trainer.is_global_zero:
        (root / "losses.json").write_text(json.dumps(losses))
    return trainer, module, losses


def processes() -> int:
    return int(os.environ.get(PROCESSES, 1))


def resumed(source: str, name: str, world: int, strategy: str) -> str:
    return f"{source}-{name}-on-{world}-{strategy}"


def still(params: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.0)


UNMOVED = {"optimizer": still, "balance_rate": 0.0}
"""A module that training leaves as it was."""


def losses_of(folder: Path) -> list[float]:
    return json.loads((folder / "losses.json").read_text())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2", "compiled"])
def test_a_run_in_bfloat16_grows_under_each_strategy(runs: Path, strategy: str) -> None:
    """With a fused optimizer and clipped gradients, which Lightning refuses to bring together."""
    precise, here = losses_of(runs / "1-auto"), losses_of(runs / f"bf16-{strategy}")
    assert len(here) == STEPS and here != precise
    assert here == pytest.approx(precise, abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_losses_do_not_depend_on_the_strategy(runs: Path, name: str) -> None:
    alone, here = losses_of(runs / "1-auto"), losses_of(runs / name)
    assert len(here) == STEPS
    assert here == pytest.approx(alone, abs=1e-5)


def test_a_sharded_checkpoint_is_consolidated_into_one_file(runs: Path, tmp_path: Path) -> None:
    source = runs / "4-fsdp2/checkpoints/step=8.ckpt"
    assert main(["consolidate", str(source), str(tmp_path / "one.ckpt")]) == 0
    assert main(["consolidate", str(source), str(tmp_path / "one.ckpt")]) == 2  # it exists
    one, whole = load_checkpoint(tmp_path / "one.ckpt"), load_whole_checkpoint(source)
    for key in ("state_dict", "optimizer_states", "hyper_parameters", "progress"):
        assert_equal(one[key], whole[key], key)
    assert [path.name for path in tmp_path.iterdir()] == ["one.ckpt"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [0, 1])
def test_growth_in_a_sharded_run_is_growth_of_its_anchor_on_disk(
    runs: Path, tmp_path: Path, name: str, number: int
) -> None:
    step, event = (3, 6)[number], EVENTS[number]
    anchor = runs / name / f"checkpoints/anchor-step={step}.ckpt"
    grow_checkpoint(anchor, tmp_path / "grown.ckpt", *event.operators)
    offline = load_whole_checkpoint(tmp_path / "grown.ckpt")
    in_run = load_whole_checkpoint(runs / f"{name}-grown-{step}.ckpt")
    assert_equal(in_run["state_dict"], offline["state_dict"], "weights")
    assert_equal(in_run["optimizer_states"][0]["state"], offline["optimizer_states"][0]["state"], "optimizer")
    assert in_run["hyper_parameters"]["config"] == offline["hyper_parameters"]["config"]


@pytest.mark.parametrize(("source", "name", "world", "strategy"), RESUMES)
def test_a_checkpoint_fits_any_strategy_and_number_of_processes(
    runs: Path, source: str, name: str, world: int, strategy: str
) -> None:
    expected, losses = losses_of(runs / "1-auto"), losses_of(runs / resumed(source, name, world, strategy))
    assert len(losses) == STEPS - int(name.rpartition("=")[2])
    assert losses == pytest.approx(expected[-len(losses) :], abs=1e-5)


@pytest.mark.parametrize("name", ["step=2", "anchor-step=6", "step=8"])
def test_resumed_on_as_many_processes_a_sharded_run_ends_bit_for_bit_the_same(runs: Path, name: str) -> None:
    folders = (runs / "2-fsdp2", runs / resumed("2-fsdp2", name, 2, "fsdp2"))
    a, b = (load_whole_checkpoint(folder / "checkpoints/step=9.ckpt") for folder in folders)
    for key in ("state_dict", "optimizer_states", "progress", "hyper_parameters"):
        assert_equal(a[key], b[key], key)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_sharded_initial_weights_are_those_of_one_device(runs: Path, tmp_path: Path, strategy: str) -> None:
    fit(tmp_path / "alone", steps=1, events=[], module=UNMOVED)
    alone = load_whole_checkpoint(tmp_path / "alone/checkpoints/step=1.ckpt")["state_dict"]
    here = load_whole_checkpoint(runs / f"initial-{strategy}/checkpoints/step=1.ckpt")["state_dict"]
    assert_equal(here, alone, strategy)
    assert CONFIG.num_params() == sum(t.numel() for n, t in alone.items() if "bias" not in n)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_a_sharded_run_starts_from_the_weights_of_a_checkpoint(runs: Path, strategy: str) -> None:
    source = load_whole_checkpoint(runs / "1-auto/checkpoints/step=6.ckpt")["state_dict"]
    here = load_whole_checkpoint(runs / f"from-{strategy}/checkpoints/step=1.ckpt")["state_dict"]
    assert_equal(here, source, strategy)


def test_growth_of_shards_that_line_up_sends_nothing(runs: Path) -> None:
    depth, width = json.loads((runs / "measured-fsdp2/costs.json").read_text())
    assert depth["collectives"] == width["collectives"] == 0


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_an_event_makes_no_more_than_the_grown_shard_and_one_block(runs: Path, strategy: str) -> None:
    """What it makes comes on top of the old shard, which it lets go bit by bit."""
    for cost in json.loads((runs / f"measured-{strategy}/costs.json").read_text()):
        assert cost["after"] > cost["before"] > 0
        assert cost["made"] <= cost["after"] + cost["block"]
