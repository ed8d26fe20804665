"""Growth inside a run, on one device: it goes on, it resumes, and it is the growth that happens on disk."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers import DEVICES
from lightning.pytorch.callbacks import StochasticWeightAveraging
from runs import CONFIG, EVENTS, assert_equal, assert_same_training_state, fit, half_precision_scaler
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.callbacks.weight_norm import WeightNormMonitor
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.growth import optimizer as optimizer_growth
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.model.kernels import grouped
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.training import regrow
from lit_recycle.training.module import LitMoE


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed: a checkpoint after every step, and the anchors."""
    root = tmp_path_factory.mktemp("runs") / "whole"
    fit(root)
    return root / "checkpoints"


def test_a_run_grows_at_its_events_and_goes_on(tmp_path: Path) -> None:
    _, module, losses = fit(tmp_path / "run")
    assert len(losses) == 9 and all(torch.tensor(losses).isfinite())
    assert (module.config.num_layers, module.config.num_experts, module.config.top_k) == (6, 6, 4)
    assert [record["steps"] for record in module.growth] == [3, 6]
    assert sum(p.numel() for p in module.parameters()) == module.config.num_params()
    flops = [CONFIG, CONFIG.replace(num_layers=6), module.config]
    assert module.tokens_seen == 9 * 4 * 32
    assert module.flops_per_batch == 4 * 32 * module.config.num_flops_per_token(32), "what ThroughputMonitor reads"
    assert module.flops_spent == sum(3 * 4 * 32 * c.num_flops_per_token(32) for c in flops)


@pytest.mark.parametrize("name", ["step=1", "step=3", "anchor-step=3", "step=4", "step=6", "anchor-step=6", "step=8"])
def test_resumed_anywhere_it_ends_bit_for_bit_the_same(whole: Path, tmp_path: Path, name: str) -> None:
    _, module, _ = fit(tmp_path / "run", ckpt_path=whole / f"{name}.ckpt")
    assert len(module.growth) == 2
    assert_same_training_state(whole / "step=9.ckpt", tmp_path / "run/checkpoints/step=9.ckpt")


def test_resuming_needs_no_word_of_the_growth_from_python_either(whole: Path, tmp_path: Path) -> None:
    class Unprepared(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            pl_module.set_shape(NativeModel(CONFIG), [])

    fit(tmp_path / "run", ckpt_path=whole / "step=8.ckpt", callbacks=[Unprepared()])
    assert_same_training_state(whole / "step=9.ckpt", tmp_path / "run/checkpoints/step=9.ckpt")


@pytest.mark.parametrize(("step", "event"), list(zip((3, 6), EVENTS, strict=True)))
def test_growth_in_a_run_is_growth_of_its_anchor_on_disk(
    whole: Path, tmp_path: Path, step: int, event: GrowthEvent
) -> None:
    grow_checkpoint(whole / f"anchor-step={step}.ckpt", tmp_path / "grown.ckpt", *event.operators)
    offline = load_checkpoint(tmp_path / "grown.ckpt")
    in_run = grown_in_run(whole / f"anchor-step={step}.ckpt", tmp_path)
    assert_equal(in_run["state_dict"], offline["state_dict"], "weights")
    assert_equal(in_run["optimizer_states"], offline["optimizer_states"], "optimizer")
    assert in_run["hyper_parameters"]["config"] == offline["hyper_parameters"]["config"]


def grown_in_run(anchor: Path, root: Path) -> dict:
    """What a run holds right after the event that follows its anchor."""

    class SaveAtOnce(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
            if not (root / "now.ckpt").exists():
                trainer.save_checkpoint(root / "now.ckpt", weights_only=False)

    fit(root / "run", ckpt_path=anchor, callbacks=[SaveAtOnce()], steps=7)
    return load_checkpoint(root / "now.ckpt")


def test_training_goes_on_from_a_checkpoint_grown_on_disk(whole: Path, tmp_path: Path) -> None:
    grow_checkpoint(whole / "anchor-step=3.ckpt", tmp_path / "grown.ckpt", EVENTS[0].depth)
    _, module, losses = fit(tmp_path / "run", ckpt_path=tmp_path / "grown.ckpt")
    assert len(module.growth) == 2 and len(losses) == 6
    a, b = (load_checkpoint(d / "step=9.ckpt")["state_dict"] for d in (whole, tmp_path / "run/checkpoints"))
    assert_equal(a, b, "weights")


def test_events_fire_between_whole_steps_when_gradients_accumulate(tmp_path: Path) -> None:
    events = [GrowthEvent(Trigger(steps=2), depth=Depth(2)), GrowthEvent(Trigger(steps=3), width=Width(2))]
    kwargs = dict(steps=5, events=events, batch_size=2, accumulate_grad_batches=2)
    _, module, losses = fit(tmp_path / "a", **kwargs)
    assert len(losses) == 10 and [r["steps"] for r in module.growth] == [2, 3]
    assert module.samples_seen == 20
    fit(tmp_path / "b", ckpt_path=tmp_path / "a/checkpoints/anchor-step=3.ckpt", **kwargs)
    assert_same_training_state(tmp_path / "a/checkpoints/step=5.ckpt", tmp_path / "b/checkpoints/step=5.ckpt")


@pytest.mark.parametrize("unit", ["flops", "chinchilla"])
def test_triggers_in_flops(tmp_path: Path, unit: str) -> None:
    flops = 2.5 * 4 * 32 * CONFIG.num_flops_per_token(32)
    value = flops if unit == "flops" else flops / chinchilla_flops(CONFIG)
    _, module, _ = fit(tmp_path / "run", steps=4, events=[GrowthEvent(Trigger(**{unit: value}), depth=Depth(2))])
    assert [record["steps"] for record in module.growth] == [3]


@pytest.mark.parametrize("policy", ["carry", "fresh_copies", "reset"])
def test_optimizer_policies_in_a_run(tmp_path: Path, policy: str) -> None:
    event = GrowthEvent(Trigger(steps=2), depth=Depth(2), width=Width(2), optimizer_state=policy)

    class Look(L.Callback):
        norms: dict[str, float]

        def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
            state, names = trainer.optimizers[0].state, dict(module.named_parameters())
            moments = {n: state[p]["exp_avg"].norm().item() for n, p in names.items() if p in state}
            if trainer.global_step == 2:
                self.norms = moments

    look = Look()
    fit(tmp_path / "run", steps=3, events=[event], callbacks=[look])
    if policy == "reset":
        assert not look.norms
        return
    original, copy = (look.norms[f"model.layers.{i}.attn.q_proj.weight"] for i in (0, 1))
    assert original > 0
    assert copy == (original if policy == "carry" else 0)


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_the_small_model_is_let_go_before_the_large_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_a_cycle: bool
) -> None:
    class Watch(GrowthHooks, L.Callback):
        def on_growth_start(self, trainer: L.Trainer, module: L.LightningModule, event: GrowthEvent) -> None:
            self.small = [weakref.ref(p) for p in module.parameters()]
            self.small += [weakref.ref(p.grad) for p in module.parameters()]
            if in_a_cycle:  # as wrappers and hooks make them
                module.model.layers[0].me = [module.model.layers[0]]

    watch, alive, build = Watch(), [], LitMoE.build

    def building(module: LitMoE) -> MoETransformer:
        alive.append(sum(ref() is not None for ref in getattr(watch, "small", [])))
        return build(module)

    monkeypatch.setattr(LitMoE, "build", building)
    gc.disable()  # so that nobody else collects
    try:
        fit(tmp_path / "run", steps=3, events=[GrowthEvent(Trigger(steps=2), depth=Depth(2))], callbacks=[watch])
    finally:
        gc.enable()
    assert watch.small and alive == [0, 0]


def test_moments_are_let_go_as_they_are_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, lived, grow = {}, [], optimizer_growth.each_grown_state

    class Watch(GrowthHooks, L.Callback):
        def on_growth_start(self, trainer: L.Trainer, module: L.LightningModule, event: GrowthEvent) -> None:
            state = trainer.optimizers[0].state
            small.update({name: weakref.ref(state[p]["exp_avg_sq"]) for name, p in module.named_parameters()})

    def watched(*args: Any) -> Iterator[tuple[str, Any]]:
        for name, state in grow(*args):
            yield name, state
            lived.append({name for name, ref in small.items() if ref() is not None})

    monkeypatch.setattr(regrow, "each_grown_state", watched)
    fit(tmp_path / "run", steps=3, events=[GrowthEvent(Trigger(steps=2), width=Width(2))], callbacks=[Watch()])
    gathered = {name for name in small if name.endswith(("gate_up", "experts.down", "router.weight"))}
    assert gathered and len(lived) == len(small)
    for before, alive in enumerate(lived):
        assert not alive & gathered & set(list(small)[:before]), "all but the one that was grown last"
    assert lived[-1] - gathered == small.keys() - gathered, "what did not change goes on, uncopied"


def test_a_run_starts_from_the_weights_of_a_checkpoint_with_fresh_counters(whole: Path, tmp_path: Path) -> None:
    source = load_checkpoint(whole / "step=6.ckpt")
    module = {"init_from": str(whole / "step=6.ckpt"), "optimizer": still, "balance_rate": 0.0}
    trainer, model, _ = fit(tmp_path / "run", steps=1, config=None, events=[], module=module)
    assert model.config.num_layers == 6 and model.samples_seen == 4 and trainer.global_step == 1
    assert_equal(
        load_checkpoint(tmp_path / "run/checkpoints/step=1.ckpt")["state_dict"], source["state_dict"], "weights"
    )


class Applied(L.Callback):
    """The rates with which the optimizer steps."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_run_from_the_weights_of_a_grown_one_does_what_its_own_events_say(tmp_path: Path) -> None:
    """Not what those of the first run said, at steps of that one; and also where they are the same."""
    ramp = Rewarm(2, start_factor=0.1)
    events = [GrowthEvent(Trigger(steps=2), Depth(2), train="new", rewarm=ramp)]
    fit(tmp_path / "first", steps=4, events=events)
    source = tmp_path / "first/checkpoints/step=4.ckpt"
    applied, options = Applied(), {"config": None, "module": {"init_from": str(source)}}
    _, model, _ = fit(tmp_path / "second", steps=4, events=events, callbacks=[applied], **options)
    assert model.config.num_layers == 12 and [record["steps"] for record in model.growth] == [2, 2]
    assert applied.rates == pytest.approx([1e-3, 1e-3, 1e-4, 5.5e-4])
    saved = tmp_path / "second/checkpoints"
    name = "model.embed.weight"  # old rows, which the first run had frozen
    assert not torch.equal(load_checkpoint(saved / "step=1.ckpt")["state_dict"][name], weights_of(source)[name])
    fit(tmp_path / "again", steps=4, events=events, ckpt_path=saved / "step=3.ckpt", **options)
    assert_same_training_state(saved / "step=4.ckpt", tmp_path / "again/checkpoints/step=4.ckpt")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["state_dict"]


def still(params: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.0)


def test_what_cannot_follow_a_growth_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="StochasticWeightAveraging"):
        fit(tmp_path / "run", callbacks=[StochasticWeightAveraging(1e-3)])


@pytest.mark.parametrize(
    ("triggers", "message"),
    [
        ([Trigger(steps=50)], "cannot be reached"),
        ([Trigger(steps=5), Trigger(steps=2)], "order"),
        ([Trigger(tokens=1e12)], "cannot be reached"),
    ],
)
def test_events_that_cannot_happen_are_refused_before_training(
    tmp_path: Path, triggers: list[Trigger], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", events=[GrowthEvent(at, depth=Depth(2)) for at in triggers])


def test_an_event_in_the_past_is_refused_on_resume(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in the past"):
        fit(tmp_path / "run", events=[GrowthEvent(Trigger(steps=1), depth=Depth(2))], ckpt_path=whole / "step=2.ckpt")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_run_in_bfloat16_grows_and_resumes(tmp_path: Path, precision: str) -> None:
    _, module, losses = fit(tmp_path / "whole", precision=precision)
    assert len(module.growth) == 2 and losses[-1] < losses[0]
    before = tmp_path / "whole/checkpoints/step=5.ckpt"
    fit(tmp_path / "again", precision=precision, ckpt_path=before)
    assert_same_training_state(tmp_path / "whole/checkpoints/step=9.ckpt", tmp_path / "again/checkpoints/step=9.ckpt")


def test_a_run_in_float64_grows_and_is_monitored(tmp_path: Path) -> None:
    _, module, losses = fit(tmp_path, precision="64-true", callbacks=[WeightNormMonitor(1)])
    assert len(module.growth) == 2 and losses[-1] < losses[0]
    assert {p.dtype for p in module.parameters()} == {torch.float64}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_in_every_precision(tmp_path: Path, precision: str, fused: bool) -> None:
    """A step of plain SGD is as long as the clipped gradient, whoever divides it by the scale of float16."""
    module = {
        "optimizer": lambda params: SGD(params, lr=1.0, fused=fused),
        "lr_scheduler": lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
        "balance_rate": 0.0,
    }
    options = half_precision_scaler(1024.0) if precision == "16-mixed" else {"precision": precision}
    fit(tmp_path, steps=2, events=[], module=module, gradient_clip_val=0.01, **options)
    first, second = (load_checkpoint(tmp_path / f"checkpoints/step={i}.ckpt")["state_dict"] for i in (1, 2))
    moved = torch.cat([(second[name] - first[name]).flatten() for name in first])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_blocks_grow_and_are_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """On a CPU with torch's grouped product all the same, and whole graphs that are not made into code."""
    options = dict(precision="bf16-mixed", device=device)
    expected = fit(tmp_path / "plain", **options)[2]
    monkeypatch.setattr(grouped, "has_grouped_product", lambda device, dtype: dtype == torch.bfloat16)
    compiled: list[int] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compiled.append(len(inputs))
        return backend(graph, inputs)

    backend = torch._dynamo.lookup_backend("aot_eager" if device == "cpu" else "inductor")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted, fullgraph=True))
    _, module, losses = fit(tmp_path / "compiled", module={"compile_blocks": True}, **options)
    assert losses == pytest.approx(expected, abs=2e-3 if device == "cpu" else 2e-2) and len(module.growth) == 2
    assert len(compiled) == 2 * 3  # in each stage once with gradients and once without, for all of its layers


def test_blocks_are_compiled_only_where_products_of_experts_are_one_kernel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compile_blocks needs a GPU"):
        fit(tmp_path, precision="bf16-mixed", module={"compile_blocks": True})
