"""Options for some parameters, from patterns of names: applied, refused, kept through growth and resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from processes import config
from runs import CONFIG, assert_same_training_state, fit

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.cli import main
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger
from lit_recycle.growth.operators import Upcycle
from lit_recycle.training.module import LitMoE
from lit_recycle.training.muon import Muon
from lit_recycle.training.optimized import default_optimizer

GROUPS: list[dict[str, Any]] = [
    {"pattern": r"\.router\.", "lr": 1e-4, "weight_decay": 0.0},
    {"pattern": "experts", "lr": 3e-3, "name": "experts"},
    {"pattern": r"^model\.(embed|norm)\.", "weight_decay": 0.05, "betas": (0.5, 0.6)},
]


def adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.1, fused=True)


def muon(params: Any) -> torch.optim.Optimizer:
    return Muon(params, lr=1e-2, adamw_lr=1e-3)


def groups_of(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in optimizer.param_groups}


def optimizer_of(module: LitMoE) -> torch.optim.Optimizer:
    module.build()
    return module.make_optimizer(module.named_parameters(), {})


def test_the_first_pattern_that_is_found_chooses() -> None:
    groups = groups_of(optimizer_of(LitMoE(CONFIG, optimizer=adamw, param_groups=GROUPS)))
    assert list(groups) == [r"\.router\.", "experts", "experts/vectors", GROUPS[2]["pattern"], "matrices", "vectors"]
    options = {
        name: (g["initial_lr"] if "initial_lr" in g else g["lr"], g["weight_decay"]) for name, g in groups.items()
    }
    assert list(options.values()) == [(1e-4, 0), (3e-3, 0.1), (3e-3, 0), (1e-3, 0.05), (1e-3, 0.1), (1e-3, 0)]
    assert [g["betas"] for g in groups.values()] == [(0.9, 0.999)] * 3 + [(0.5, 0.6)] + [(0.9, 0.999)] * 2
    names = {name: g["param_names"] for name, g in groups.items()}
    assert names[GROUPS[2]["pattern"]] == ["model.embed.weight", "model.norm.weight"]
    assert all(".experts." in n for n in names["experts"]) and not names["experts/vectors"]
    assert all("router" in n for n in names[r"\.router\."]) and len(names[r"\.router\."]) == 3
    assert all("norm" in n for n in names["vectors"]) and names["matrices"]
    assert not any({"axes", "algorithm"} & group.keys() for group in groups.values())


def test_muon_divides_groups_that_do_not_say_their_algorithm() -> None:
    wanted = [{"pattern": "layers.0", "lr": 0.5}, {"pattern": "embed|layers.1.*down", "algorithm": "muon", "lr": 0.1}]
    groups = groups_of(optimizer_of(LitMoE(CONFIG, optimizer=muon, param_groups=wanted)))
    found = {name: (g["algorithm"], g["lr"], len(g["params"]) > 0) for name, g in groups.items()}
    assert found == {
        "layers.0/muon": ("muon", 0.5, True),
        "layers.0/adamw": ("adamw", 0.5, True),
        "layers.0/vectors": ("adamw", 0.5, True),
        "embed|layers.1.*down": ("muon", 0.1, True),
        "embed|layers.1.*down/vectors": ("adamw", 0.1, False),
        "matrices/muon": ("muon", 1e-2, True),
        "matrices/adamw": ("adamw", 1e-3, True),
        "vectors": ("adamw", 1e-3, True),
    }
    assert "model.embed.weight" in groups["embed|layers.1.*down"]["param_names"]
    assert groups["vectors"]["weight_decay"] == 0


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"lr": 1.0}], r"model\.param_groups\[0\] needs a pattern"),
        ([{"pattern": "(", "lr": 1.0}], r"model\.param_groups\[0\]\.pattern '\(' is no regular expression"),
        ([{"pattern": "a"}], "says nothing of its parameters: give lr"),
        (
            [{"pattern": "a", "betas": [0.9, 1]}],
            r"param_groups\[0\]\.betas must be numbers in 0\.\.1, .*got \[0\.9, 1\]",
        ),
        ([{"pattern": "a", "betas": 0.9}], r"param_groups\[0\]\.betas must be numbers in 0\.\.1, .*got 0\.9"),
        ([{"pattern": "a", "eps": -1}], r"param_groups\[0\]\.eps must be a finite number and not negative, got -1"),
        ([{"pattern": "a", "lr": -1}], r"param_groups\[0\]\.lr must be a finite number and not negative, got -1"),
        (
            [{"pattern": "a", "weight_decay": "x"}],
            r"param_groups\[0\]\.weight_decay must be a finite number .* got 'x'",
        ),
        ([{"pattern": "a", "lr": 1}, {"pattern": "a", "lr": 2}], "are called a, a: give each a name of its own"),
        ([{"pattern": "a", "lr": 1, "name": "vectors"}], "other than matrices and vectors"),
        ([{"pattern": "embed", "lrr": 1}], r"param_groups\[0\]\.lrr: AdamW has no such option for a group; it has lr,"),
    ],
)
def test_groups_that_say_nothing_sensible_are_refused(groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer_of(LitMoE(CONFIG, optimizer=adamw, param_groups=groups))


@pytest.mark.parametrize(
    "groups",
    [
        [{"pattern": "rooter", "lr": 1.0}],
        [{"pattern": "experts", "lr": 1.0}, {"pattern": "experts.down", "lr": 2.0}],
        [{"pattern": r"layers\.6\.", "lr": 1.0}],
    ],
    ids=["misspelt", "taken", "not even grown"],
)
def test_a_pattern_that_chooses_nothing_is_refused_before_training(
    groups: list[dict[str, Any]], tmp_path: Path
) -> None:
    steps: list[int] = []

    class Note(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            steps.append(trainer.global_step)

    events = [GrowthEvent(Trigger(steps=1), Depth(2))]
    with pytest.raises(ValueError, match=r"model\.param_groups: the pattern .* chooses no parameter"):
        fit(tmp_path / "run", steps=2, events=events, module={"param_groups": groups}, callbacks=[Note()])
    assert not steps


DENSE: dict[str, Any] = {"num_experts": 0, "dense_layers": (0, 1, 2), "dense_size": 8, "shared_expert_size": 0}


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_groups_go_through_a_growth_that_fills_them(optimizer: Any, tmp_path: Path) -> None:
    """No router and no fourth layer at the start: the patterns are those of the whole run, and rates follow them."""
    groups = [
        {"pattern": "router", "lr": 1e-4, "weight_decay": 0.0},
        {"pattern": r"layers\.[345]\.", "lr": 2e-4},
        {"pattern": r"\.mlp\.", "lr": 3e-4},
    ]
    events = [GrowthEvent(Trigger(steps=2), Depth(2), grow=[Upcycle(3, 2)])]
    module = {"param_groups": groups, "optimizer": optimizer}
    run: dict[str, Any] = dict(steps=5, events=events, config=CONFIG.replace(**DENSE), module=module)
    trainer, _, _ = fit(tmp_path / "whole", **run)
    found = groups_of(trainer.optimizers[0])
    assert [len(g["params"]) for name, g in found.items() if "router" in name][-1] == 6
    assert {g["initial_lr"] for name, g in found.items() if "router" in name} == {1e-4}
    deep = [g for name, g in found.items() if name.startswith("layers")]
    assert {g["initial_lr"] for g in deep} == {2e-4} and sum(len(g["params"]) for g in deep) == 3 * 8
    saved = tmp_path / "whole/checkpoints"
    for step in (1, 3):
        fit(tmp_path / f"from-{step}", ckpt_path=saved / f"step={step}.ckpt", **run)
        assert_same_training_state(saved / "step=5.ckpt", tmp_path / f"from-{step}/checkpoints/step=5.ckpt")


def test_a_checkpoint_that_was_grown_on_disk_finds_its_groups_again(tmp_path: Path) -> None:
    """A router made of a dense network belongs to another group than it: state is taken over by name."""
    module = {"optimizer": muon}
    fit(tmp_path / "run", steps=2, events=[], config=CONFIG.replace(**DENSE), module=module)
    small, grown = tmp_path / "run/checkpoints/step=2.ckpt", tmp_path / "grown.ckpt"
    grow_checkpoint(small, grown, Upcycle(3, 2))
    trainer, module_after, _ = fit(tmp_path / "on", steps=3, events=[], ckpt_path=grown, module=module)
    state = trainer.optimizers[0].state
    kinds = {name: set(state[p]) for name, p in module_after.named_parameters()}
    assert kinds["model.layers.0.moe.router.weight"] == {"exp_avg", "exp_avg_sq", "step"}
    assert kinds["model.layers.0.moe.experts.down"] == {"momentum_buffer"}
    assert load_checkpoint(tmp_path / "on/checkpoints/step=3.ckpt")["global_step"] == 3


def test_other_groups_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=1, events=[])
    with pytest.raises(
        ValueError, match=r"has 2 groups of parameters, and this one 3: go on with the model.param_groups"
    ):
        fit(
            tmp_path / "on", steps=2, events=[], ckpt_path=tmp_path / "run/checkpoints/step=1.ckpt",
            module={"param_groups": [{"pattern": "router", "lr": 1.0, "weight_decay": 0.0}]},
        )  # fmt: skip


def test_the_rate_of_a_group_is_the_one_that_moves_it(tmp_path: Path) -> None:
    """Plain SGD: what a group has moved is in proportion to its rate; decay is the group's own."""

    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=1e-2)

    def moved(name: str, groups: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        module = {"optimizer": sgd, "param_groups": groups, "balance_rate": 0.0}
        module["lr_scheduler"] = lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)
        fit(tmp_path / name, steps=2, events=[], module=module, gradient_clip_val=None)
        first, second = (load_checkpoint(tmp_path / name / f"checkpoints/step={i}.ckpt") for i in (1, 2))
        return {n: second["state_dict"][n] - w for n, w in first["state_dict"].items()}

    still = [{"pattern": ".", "lr": 0.0}]
    assert not any(delta.any() for delta in moved("still", still).values())
    only = moved("only", [{"pattern": "router", "lr": 1.0}, *still])
    assert all(("router.weight" in name) == bool(delta.any()) for name, delta in only.items())


PAGE = Path(__file__).parents[2] / "docs/training.md"
BLOCKS = [block.split("```")[0] for block in PAGE.read_text().split("```yaml")[1:]]
"""Parts of configurations, and at the end a whole one, which test_all_at_once runs."""


def test_the_default_optimizer_is_the_first_on_the_page() -> None:
    told = yaml.safe_load(BLOCKS[0])["model"]["optimizer"]
    default = default_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert told["class_path"] == "torch.optim.AdamW" and type(default) is torch.optim.AdamW
    told["init_args"]["betas"] = tuple(told["init_args"]["betas"])
    assert told["init_args"].items() <= default.defaults.items()


@pytest.mark.parametrize("block", [block for block in BLOCKS if "seed_everything" not in block])
def test_the_page_on_training_configures_runs(block: str, tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(block)
    assert main(["plan", "--config", str(config(tmp_path / "run")), "--config", str(tmp_path / "page.yaml")]) == 0
