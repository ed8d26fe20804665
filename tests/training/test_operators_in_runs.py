"""Each operator in a run: bit for bit what its anchor grows into on disk, on any strategy, and kills lose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import CONFIG, SaveAtOnce, assert_equal, assert_same_training_state, by_name, fit, on_processes

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.operator import Cell, Operator
from lit_recycle.growth.operators import (
    DropLayers,
    DuplicateExperts,
    InsertEvery,
    Interpolate,
    Interpose,
    Layers,
    Middle,
    PruneExperts,
    PruneInner,
    RandomLayers,
    RotaryBase,
    Solar,
    Stack,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
    __all__,
)
from lit_recycle.growth.treatments import Noise, Treatment


@dataclass(frozen=True)
class NoisyLayers(Interpose):
    """Noise on copied layers, for which whole matrices must be seen, also of tensors that are cut along other axes."""

    is_elementwise = False

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        return [Noise(0.1)] if cell.is_layer_copy and len(cell.place.axes.dimensions) > 1 else []


DENSE: dict[str, Any] = {"num_experts": 0, "dense_layers": (0, 1, 2), "dense_size": 6, "shared_expert_size": 0}
CASES: dict[str, tuple[dict[str, Any], list[Operator]]] = {
    "Interpose": ({}, [Interpose(num_layers=5)]),
    "Stack": ({}, [Stack(2, keep_last=1, zero_output=True)]),
    "Layers": ({}, [Layers([2, 0, 2, 1])]),
    "Solar": ({}, [Solar(1)]),
    "InsertEvery": ({}, [InsertEvery(2)]),
    "Middle": ({}, [Middle(1, times=2)]),
    "Interpolate": ({}, [Interpolate(0.25)]),
    "RandomLayers": ({}, [RandomLayers(2)]),
    "RotaryBase": ({}, [RotaryBase(300.0)]),
    "DropLayers": ({}, [DropLayers([1])]),
    "DuplicateExperts": ({}, [DuplicateExperts(num_experts=5, by="norm", top_k=3, redraw=0.5, bias_noise=0.1)]),
    "DuplicateExperts, told apart": ({}, [DuplicateExperts(3, noise=0.0, symmetry_break=0.1)]),
    "DuplicateExperts, drawn": ({}, [DuplicateExperts(2, copies="draw", router="draw_all", order="appended")]),
    "PruneExperts": ({}, [PruneExperts(2)]),
    "PruneInner": ({}, [PruneInner(5, "shared")]),
    "PruneInner, experts": ({}, [PruneInner(5, "experts")]),
    "PruneInner, activation": ({}, [PruneInner(5, "experts", "activation"), WidenInner("shared")]),
    "Upcycle": (DENSE, [Upcycle(4, 2, 2, in_layers=[0, 2], redraw=0.5)]),
    "WidenInner": ({}, [WidenInner("experts", size=11, symmetry_break=0.1), WidenInner("shared")]),
    "WidenHeads": ({"num_heads": 4, "num_kv_heads": 2, "qk_norm": "full"}, [WidenHeads(3, symmetry_break=0.1)]),
    "WidenHidden": ({}, [WidenHidden(2, symmetry_break=0.1)]),
    "noise on layers": ({}, [NoisyLayers(2)]),
    "chosen behind others": (
        {},
        [
            WidenHidden(2, symmetry_break=0.1),
            DuplicateExperts(num_experts=5, by="norm", top_k=3),
            Interpose(2),
            PruneInner(6, "experts"),
        ],
    ),
    "several": ({}, [WidenHidden(2), DuplicateExperts(2, noise=0.1), Interpose(2), DropLayers([0])]),
}
BY_RUN: dict[str, tuple[dict[str, Any], list[Operator]]] = {
    "PruneExperts, load": ({}, [PruneExperts(2, "load")]),
    "DuplicateExperts, gradient": ({}, [DuplicateExperts(num_experts=5, by="norm_gradient", top_k=2)]),
}
"""What chooses by steps of the run is tried on one process in test_what_users_set.py, and here by ``make families``."""
ALL = CASES | BY_RUN
REFUSED = ("DuplicateExperts, gradient", "fsdp")
"""FSDP1's slices do not tell experts apart."""
STEP, END = 2, 4
AROUND = (STEP - 1, STEP + 1)
SAVED = (*AROUND, END)
STRATEGIES = ("ddp", "fsdp", "fsdp2")
QUICK = ("Upcycle", "several")
"""Cases that each run of the tests resumes on several processes; ``make families`` resumes all."""
WHOLE = (*QUICK, "PruneInner, activation")
"""Cases tried under DDP, where each process grows whole tensors as one device does: what is measured is reduced over
processes, and resumed.
"""


OF_SEVERAL_MODELS = {"BranchTrainMix"}
"""A run has one."""


def test_every_operator_is_tried() -> None:
    assert {type(op).__name__ for _, operators in CASES.values() for op in operators} >= set(
        __all__
    ) - OF_SEVERAL_MODELS


def run(root: Path, name: str, strategy: str = "auto", steps: int = END, **options: Any) -> None:
    """A run that grows at step 2 of 4."""
    changes, operators = ALL[name]
    policy = "fresh_copies" if name == "Stack" else "carry"
    events = [GrowthEvent(Trigger(steps=STEP), grow=operators, optimizer_state=policy)]
    fit(root / "run", strategy, steps=steps, events=events, config=CONFIG.replace(**changes), **options)


def grow_in_run(root: Path, name: str, strategy: str = "auto", saves: Sequence[int] = ()) -> None:
    folder = root / strategy / name.replace(", ", "-")
    steps = max(saves, default=STEP + 1)
    run(folder, name, strategy, steps, saves=saves, callbacks=[SaveAtOnce(folder / "grown.ckpt", STEP)])


def check(root: Path, name: str, strategy: str) -> None:
    folder = root / strategy / name.replace(", ", "-")
    policy = "fresh_copies" if name == "Stack" else "carry"
    anchor = folder / f"run/checkpoints/anchor-step={STEP}.ckpt"
    in_run = load_whole_checkpoint(folder / "grown.ckpt")
    maps = in_run["hyper_parameters"]["growth"][0]["maps"] if name in ("PruneInner, activation", *BY_RUN) else None
    grow_checkpoint(anchor, folder / "disk.ckpt", *ALL[name][1], optimizer_state=policy, maps=maps)
    on_disk = load_whole_checkpoint(folder / "disk.ckpt")
    assert_equal(in_run["state_dict"], on_disk["state_dict"], "weights")
    (ours,), (theirs,) = in_run["optimizer_states"], on_disk["optimizer_states"]
    assert_equal(by_name(ours), by_name(theirs), "optimizer")
    (a,), (b,) = in_run["hyper_parameters"]["growth"], on_disk["hyper_parameters"]["growth"]
    assert (a["maps"], a["event"]["grow"], a["after"]) == (b["maps"], b["event"]["grow"], b["after"])


@pytest.mark.parametrize("name", CASES)
def test_growth_in_a_run_is_growth_on_disk_and_resumed_around_it_ends_where_it_would_have(
    name: str, tmp_path: Path
) -> None:
    grow_in_run(tmp_path, name, saves=SAVED)
    check(tmp_path, name, "auto")
    resume(tmp_path, name, "auto")
    check_resumed(tmp_path, name, "auto")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("operators")
    on_processes(2, all_cases, root)
    return root


def all_cases(root: Path) -> None:
    for strategy in STRATEGIES:
        for name in cases_under(strategy):
            grow_in_run(root, name, strategy, saves=SAVED if name in QUICK else ())
            if name in QUICK:
                resume(root, name, strategy)


def cases_under(strategy: str) -> Sequence[str]:
    """Those that each run of the tests tries on two processes; ``make families`` tries all."""
    names = list(CASES)
    return {"ddp": WHOLE, "fsdp": sorted({*QUICK, *names[::2]}), "fsdp2": names}[strategy]


@pytest.mark.parametrize(("name", "strategy"), [(name, s) for s in STRATEGIES for name in cases_under(s)])
def test_growth_on_two_processes_is_growth_on_disk(name: str, strategy: str, sharded: Path) -> None:
    check(sharded, name, strategy)


def resume(root: Path, name: str, strategy: str) -> None:
    """A run that has saved around its growth, from before its growth and from after it."""
    folder = root / strategy / name.replace(", ", "-")
    for step in AROUND:
        saved = folder / f"run/checkpoints/step={step}.ckpt"
        run(folder / f"from-{step}", name, strategy, ckpt_path=saved, saves=[END])


def check_resumed(root: Path, name: str, strategy: str) -> None:
    folder = root / strategy / name.replace(", ", "-")
    for step in AROUND:
        again = folder / f"from-{step}/run/checkpoints/step={END}.ckpt"
        assert_same_training_state(folder / f"run/checkpoints/step={END}.ckpt", again)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", QUICK)
def test_a_resumed_run_on_two_processes_ends_where_it_would_have(name: str, strategy: str, sharded: Path) -> None:
    check_resumed(sharded, name, strategy)


def resume_all(root: Path, names: Sequence[str], strategy: str) -> None:
    for name in names:
        grow_in_run(root, name, strategy, saves=SAVED)
        resume(root, name, strategy)


PARTS = 5
"""Cases are tried one after the other by the same processes, in parts that end in time on a busy machine."""


@pytest.mark.families
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_operator_is_resumed_on_two_processes(strategy: str, part: int, tmp_path: Path) -> None:
    names = [name for name in list(ALL)[part::PARTS] if (name, strategy) != REFUSED]
    on_processes(2, resume_all, tmp_path, names, strategy)
    for name in names:
        check(tmp_path, name, strategy)
        check_resumed(tmp_path, name, strategy)
