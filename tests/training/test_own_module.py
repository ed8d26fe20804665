"""Modules and data of a user's own: the page about them is run, resumed and sharded; what they lack is named."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from runs import STRATEGIES, TEXT, assert_equal, assert_same_training_state, on_processes

from lit_recycle.callbacks import GrowthCallback
from lit_recycle.checkpoints.io import AtomicCheckpointIO
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.commands import grow
from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.operators import DuplicateExperts, Interpose, WidenHidden, WidenInner
from lit_recycle.hub.shape import shape_of

PAGE = (Path(__file__).parents[2] / "docs/grow-your-own-module.md").read_text()
MODULE, RUN, ON_DISK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EVENTS = [
    GrowthEvent(at=Trigger(steps=2), grow=[Interpose(2, zero_output=True)]),
    GrowthEvent(at=Trigger(steps=4), grow=[WidenInner("dense", factor=2)]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_gpt.py").write_text(MODULE)
    return folder


@pytest.fixture
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(folder))
    import my_gpt

    return my_gpt


def test_the_page_runs(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "my_corpus").symlink_to(TEXT)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(RUN, names)
    said = capsys.readouterr().out
    assert "GPTShape(num_layers=4, hidden_size=32, inner_size=128) ['depth ×2', 'inner width (dense) ×2']" in said
    assert "loss, same batch" in said and "experts" not in said
    losses = [(r["loss_before"], r["loss_after"]) for r in names["module"].growth]
    for before, after in losses:
        assert after == pytest.approx(before, abs=1e-5)
    assert names["module"].shape.num_params() == sum(p.numel() for p in names["module"].parameters())
    assert names["module"].tokens_seen == 60 * 8 * 64


def fit(
    own: Any,
    root: Path,
    strategy: str = "auto",
    ckpt_path: Path | None = None,
    events: list[GrowthEvent] = EVENTS,
    **options: Any,
) -> list[float]:
    losses: list[float] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            losses.append(float(trainer.callback_metrics["loss/train"]))

    L.seed_everything(3)
    saver = ModelCheckpoint(root, "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1 if strategy == "auto" else 2,
        strategy=STRATEGIES[strategy](),
        max_steps=6,
        max_epochs=-1,
        callbacks=[GrowthCallback(events, dirpath=str(root)), saver, Keep()],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=root,
        **options,
    )
    if strategy == "auto":
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    trainer.fit(own.LitGPT(), datamodule=own.Bytes(TEXT), ckpt_path=ckpt_path, weights_only=True)
    return losses


@pytest.mark.parametrize("step", [2, 3, 4])
def test_it_resumes(own: Any, folder: Path, step: int) -> None:
    """Weights and state; the page's data begin anew with each process, so that the batches are others."""
    if not (folder / "whole").exists():
        fit(own, folder / "whole")
    again = folder / f"again {step}"
    fit(own, again, ckpt_path=folder / f"whole/step={step}.ckpt")
    assert (again / "step=6.ckpt").exists()
    if step == 2:
        assert_same_training_state(folder / "whole/anchor-step=2.ckpt", folder / "whole/step=2.ckpt")


def test_grown_on_disk_it_goes_on_as_grown_in_the_run(
    own: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page has it, with the optimizer's state; no command reads such a checkpoint, and says so."""
    if not (folder / "whole").exists():
        fit(own, folder / "whole")
    anchor = folder / "whole/anchor-step=4.ckpt"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.ckpt").symlink_to(anchor)
    monkeypatch.chdir(tmp_path)
    exec(ON_DISK, {})
    for name, start in (("in run", anchor), ("on disk", tmp_path / "grown.ckpt")):
        fit(own, tmp_path / name, ckpt_path=start)
    in_run, on_disk = (load_whole_checkpoint(tmp_path / name / "step=6.ckpt") for name in ("in run", "on disk"))
    for key in ("state_dict", "optimizer_states", "progress"):
        assert_equal(in_run[key], on_disk[key], key)
    with pytest.raises(ValueError, match="of num_layers, hidden_size, inner_size, is none of this version's"):
        grow.main([str(anchor), "again.ckpt", "--depth", "2"])
    with pytest.raises(ValueError, match="of num_layers, hidden_size, is none of this version's: one of a module of"):
        shape_of({"num_layers": 2, "hidden_size": 32})


def test_the_step_that_an_epochs_end_cuts_short_is_one(own: Any, tmp_path: Path) -> None:
    """Epochs of three batches, in steps of two and of one: the growths come after one of each."""
    events = [GrowthEvent(Trigger(steps=step), grow=[Interpose(2, zero_output=True)]) for step in (2, 3)]
    fit(own, tmp_path, events=events, accumulate_grad_batches=2, limit_train_batches=3)
    for step in (2, 3):
        anchor = load_whole_checkpoint(tmp_path / f"anchor-step={step}.ckpt")
        assert (anchor["global_step"], len(anchor["hyper_parameters"]["growth"])) == (step, step - 2)


def on_two(folder: str, strategy: str) -> None:
    sys.path.insert(0, folder)
    import my_gpt

    losses = fit(my_gpt, Path(folder) / strategy, strategy)
    (Path(folder) / f"{strategy}.json").write_text(json.dumps(losses))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_it_is_sharded(own: Any, folder: Path, strategy: str) -> None:
    """Both processes see the same batches, so that the losses are those of one."""
    alone = fit(own, folder / f"alone {strategy}")
    on_processes(2, on_two, str(folder), strategy)
    assert json.loads((folder / f"{strategy}.json").read_text()) == pytest.approx(alone, abs=1e-5)


class WithoutCounts(BoringDataModule):
    seq_len = 8


@pytest.mark.parametrize(
    ("module", "data", "says"),
    [
        ("boring", BoringDataModule, "the module BoringModel, which has no shape, growth, progress, build, set_shape"),
        ("own", WithoutCounts, "the data module WithoutCounts, which has no tokens_per_batch"),
        ("own", None, "counts tokens by the data module, and there is none"),
    ],
)
def test_what_is_lacking_is_named(own: Any, tmp_path: Path, module: str, data: Any, says: str) -> None:
    model = BoringModel() if module == "boring" else own.LitGPT()
    trainer = L.Trainer(max_steps=3, accelerator="cpu", callbacks=[GrowthCallback(EVENTS)], default_root_dir=tmp_path)
    given = {"datamodule": data()} if data else {"train_dataloaders": own.Bytes(TEXT).train_dataloader()}
    with pytest.raises(ValueError, match=re.escape(says)):
        trainer.fit(model, **given)


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        (WidenHidden(2), "the model has no hidden channels to widen"),
        (DuplicateExperts(2), "no routed experts to copy"),
    ],
)
def test_operators_that_do_not_fit_are_refused_before_the_run(
    own: Any, tmp_path: Path, operator: Any, says: str
) -> None:
    growth = GrowthCallback([GrowthEvent(at=Trigger(steps=1), grow=[operator])])
    trainer = L.Trainer(max_steps=3, accelerator="cpu", callbacks=[growth], default_root_dir=tmp_path, logger=False)
    with pytest.raises(ValueError, match=says):
        trainer.fit(own.LitGPT(), datamodule=own.Bytes(TEXT))


def refused(own: Any, tmp_path: Path, operator: Any, module: Any, steps: int = 1) -> str:
    """What a run is refused with, before the growth."""
    growth = GrowthCallback([GrowthEvent(at=Trigger(steps=steps), grow=[operator])])
    kept: dict[str, Any] = dict(logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer = L.Trainer(max_steps=steps + 1, accelerator="cpu", callbacks=[growth], default_root_dir=tmp_path, **kept)
    with pytest.raises(ValueError) as error:
        trainer.fit(module, datamodule=own.Bytes(TEXT))
    assert module.growth == [] and not any(p.is_meta for p in module.parameters())
    return str(error.value)


INNER, DEEPER = WidenInner("dense", factor=2), Interpose(2, zero_output=True)


@pytest.mark.parametrize(
    ("changes", "layers", "operator", "says"),
    [
        (
            {"up.weight": None},
            "",
            INNER,
            "makes model.blocks.0.up.weight of shape [64, 32], and make_model gives it [128",
        ),
        ({"up.weight": "up: D I*"}, "", INNER, "up.weight of shape [64, 32] the axis I where it has 32 entries"),
        ({"norm1.weight": "D I"}, "", INNER, "gives model.blocks.0.norm1.weight 2 axes, and its shape is [32]"),
        ({}, "blocks", DEEPER, "the output projections of layer 0 are not known by name"),
        ({}, "blocks", Interpose(2), "makes no model.blocks.2.norm1.weight, which make_model gives the grown model"),
        ({"down.weight": None, "out.weight": None}, "", DEEPER, "the output projections of layer 0 are not known"),
    ],
)
def test_tensors_described_wrongly_are_refused_before_the_run(
    own: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str | None],
    layers: str,
    operator: Any,
    says: str,
) -> None:
    naming = own.GPTShape.naming
    axes = {name: text for name, text in {**naming.axes, **changes}.items() if text}
    monkeypatch.setattr(own.GPTShape, "naming", dataclasses.replace(naming, axes=axes, layers=layers or naming.layers))
    assert says in refused(own, tmp_path, operator, own.LitGPT())


def test_a_bias_that_zero_output_would_leave_is_refused(own: Any, tmp_path: Path) -> None:
    class Biased(own.LitGPT):  # type: ignore[name-defined]
        def make_model(self) -> Any:
            model = super().make_model()
            for block in model.blocks:
                block.down = type(block.down)(self.shape.inner_size, self.shape.hidden_size)
            return model

    assert "down.bias is added to the residual stream as down.weight is" in refused(own, tmp_path, DEEPER, Biased())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"I": "inner_size"}, "GPTShape.fields must name the field of the number of layers"),
        ({"L": "num_layers", "I": "inner"}, "GPTShape.fields names 'inner' for I, and GPTShape has no such field"),
    ],
)
def test_fields_that_are_not_there_are_named(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], says: str
) -> None:
    monkeypatch.setattr(own.GPTShape, "fields", fields)
    assert says in refused(own, tmp_path, INNER, own.LitGPT())


def test_a_module_that_counts_no_tokens_is_told_after_one_step(own: Any, tmp_path: Path) -> None:
    class Uncounted(own.LitGPT):  # type: ignore[name-defined]
        def count(self, samples: int, tokens: int) -> None:
            pass

    assert "Uncounted.training_step has counted no tokens" in refused(own, tmp_path, DEEPER, Uncounted(), steps=3)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_hidden_size_grows_with_the_tensors_outside_of_the_layers_named(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    others = {f"{prefix}embed.weight": "V D", f"{prefix}head.weight": "V D*"}
    axes = own.GPTShape.naming.axes | {"qkv.weight": "qkv D*"}
    naming = dataclasses.replace(own.GPTShape.naming, others=others, axes=axes)
    monkeypatch.setattr(own.GPTShape, "naming", naming)
    monkeypatch.setattr(own.GPTShape, "fields", {"L": "num_layers", "D": "hidden_size"})
    said = refused(own, tmp_path, WidenHidden(2), own.LitGPT())
    assert "makes model.blocks.0.qkv.weight of shape [96, 64], and make_model gives it [192, 64]" in said
