"""Models of transformers in a run: trained, grown, resumed, on any strategy, and written as transformers reads them."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from runs import TEXT, assert_equal, assert_same_training_state, fit, on_processes

from lit_recycle.callbacks import GrowthCallback
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.operators import Interpose, RotaryBase, Upcycle
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.in_memory import InMemory
from lit_recycle.hub.joined import whole
from lit_recycle.hub.reader import open_folder
from lit_recycle.hub.shape import INSIDE, HubShape, build
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.training.module import LitMoE

EVENTS = [
    GrowthEvent(Trigger(steps=2), depth=Depth(2)),
    GrowthEvent(Trigger(steps=4), width=Width(2, noise=0.01)),
]
STEPS = 6
QUICK = ("deepseek_v3", "gpt_oss")
"""With groups, a shared expert and a balancing bias; with biases, interleaved matrices and windows."""


def folder(root: Path, family: str, **changes: Any) -> Path:
    path = root / f"{family}-hf"
    if not path.exists():
        pico.save(pico.build(family, vocab_size=260, **changes), family, path)
    return path


def train(root: Path, family: str, name: str, strategy: str = "auto", **options: Any) -> tuple[LitMoE, list[float]]:
    start = {"init_from": str(folder(root, family)), "backend": "transformers"}
    options = {"events": EVENTS, "steps": STEPS, **options}
    _, module, losses = fit(root / family / name, strategy, config=None, module=start, **options)
    return module, losses


def test_length_and_rotary_base_grow_with_the_model(tmp_path: Path) -> None:
    event = GrowthEvent(Trigger(steps=2), depth=Depth(2), grow=[RotaryBase(500.0)], seq_len=32)

    def run(name: str, **options: Any) -> LitMoE:
        growth = GrowthCallback([event], start_seq_len=8)
        return train(tmp_path, "gpt_oss", name, events=[], before_growth=[growth], steps=4, **options)[0]

    module = run("whole")
    before, after = module.growth[0]["before"], module.shape
    per_token = [module.shape_of(before).num_flops_per_token(8), after.num_flops_per_token(32)]
    assert module.flops_spent == 2 * 4 * (8 * per_token[0] + 32 * per_token[1])
    saved = tmp_path / "gpt_oss/whole/checkpoints"
    for step in (1, 3):
        run(f"from {step}", ckpt_path=saved / f"step={step}.ckpt")
        assert_same_training_state(saved / "step=4.ckpt", tmp_path / f"gpt_oss/from {step}/checkpoints/step=4.ckpt")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


@pytest.mark.parametrize("family", pico.each(pico.FAMILIES))
def test_a_folder_gives_what_transformers_loads(tmp_path: Path, family: str) -> None:
    """In a model of more than text, the language model."""
    model = pico.build(family)
    pico.save(model, family, tmp_path)
    opened = open_folder(tmp_path)
    shape = HubShape.of(opened.config)
    given, state = InMemory(opened, shape), model.state_dict()
    has_more = any(name.startswith("model.language_model.") for name in state)
    with torch.device("meta"):
        names = build(shape.config).state_dict()
    for name in names:
        expected = state[name.replace("model.", "model.language_model.", 1) if has_more else name]
        assert torch.equal(whole(given[INSIDE + name]), expected), name


@pytest.mark.parametrize("family", pico.each(name for name, f in FAMILIES.items() if not f.text_config))
def test_built_without_memory_it_computes_the_same(family: str) -> None:
    """Buffers that no checkpoint holds are made anew; loss, load and counts are those of the model."""
    model = pico.build(family).eval()
    shape = HubShape.of(model.config.to_dict())
    with torch.device("meta"):
        ours = TransformersModel(shape).eval()
    ours.load_state_dict({f"hf.{name}": tensor for name, tensor in model.state_dict().items()}, assign=True)
    ids = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, (loss, routing) = model(ids).logits, ours(ids, labels_BS=ids)
        assert torch.equal(ours(ids)[0], logits)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert shape.num_params() == sum(p.numel() for p in model.parameters())
    layers = [count for count in shape.experts if count]
    assert (routing is None) == (not layers)
    if routing is not None:
        assert routing.counts_E.shape == (len(layers), layers[0])
        assert (routing.counts_E.sum(-1) == 24 * shape.top_k).all()
        assert torch.allclose(routing.scores_E.sum(-1), torch.ones(len(layers)))


@pytest.mark.parametrize("family", QUICK)
def test_it_grows_as_on_disk_and_goes_on_after_a_kill(root: Path, family: str) -> None:
    module, _ = train(root, family, "whole")
    assert isinstance(module.shape, HubShape) and module.shape.num_layers == 4
    assert [g["label"] for g in module.growth] == ["depth ×2", "experts ×2"]
    checkpoints = root / family / "whole/checkpoints"
    for step in (2, 3, 4):
        train(root, family, f"again {step}", ckpt_path=checkpoints / f"step={step}.ckpt")
        assert_same_training_state(checkpoints / "step=6.ckpt", root / family / f"again {step}/checkpoints/step=6.ckpt")
    grow_checkpoint(checkpoints / "anchor-step=2.ckpt", root / family / "grown.ckpt", Depth(2))
    train(root, family, "from disk", ckpt_path=root / family / "grown.ckpt", events=EVENTS[1:])
    from_disk, in_run = (
        load_whole_checkpoint(root / family / name / "checkpoints/step=6.ckpt") for name in ("from disk", "whole")
    )
    assert_equal(in_run["state_dict"], from_disk["state_dict"], "weights")


UPCYCLED = [GrowthEvent(Trigger(steps=2), grow=[Upcycle(3, 2, redraw=0.5), Interpose(2)])]


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "ernie4_5" else pytest.mark.families) for f in pico.UPCYCLED]
)
def test_a_dense_model_gets_experts_as_on_disk(root: Path, family: str) -> None:
    """Another class of transformers takes over; gate and up become one tensor, and what nobody trains stays so."""
    events = [GrowthEvent(Trigger(steps=2), grow=[Upcycle(4, 2, 2)])]
    folder(root, family, **pico.WITHOUT_WINDOWS.get(family, {}))
    module, _ = train(root, family, "whole", events=events, steps=4)
    (record,) = module.growth
    assert record["preserves_function"] and record["loss_after"] == pytest.approx(record["loss_before"], abs=1e-5)
    assert isinstance(module.shape, HubShape) and module.shape.config["model_type"] == pico.UPCYCLED[family]
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == (2 if family == "ernie4_5" else 0)
    checkpoints = root / family / "whole/checkpoints"
    for step in (1, 3):
        train(root, family, f"again {step}", events=events, steps=4, ckpt_path=checkpoints / f"step={step}.ckpt")
        assert_same_training_state(checkpoints / "step=4.ckpt", root / family / f"again {step}/checkpoints/step=4.ckpt")
    grow_checkpoint(checkpoints / "anchor-step=2.ckpt", root / family / "grown.ckpt", *events[0].operators)
    train(root, family, "from disk", ckpt_path=root / family / "grown.ckpt", events=[], steps=4)
    assert_equal(
        *(
            load_whole_checkpoint(root / family / n / "checkpoints/step=4.ckpt")["state_dict"]
            for n in ("from disk", "whole")
        ),
        "weights",
    )


def on_several(root: str, strategy: str) -> None:
    for family, options in SEVERAL.items():
        _, losses = train(Path(root), family, strategy, strategy, saves=(), **options)
        (Path(root) / family / f"{strategy}.json").write_text(json.dumps(losses))


SEVERAL: dict[str, dict[str, Any]] = {"granitemoe": {}, "granite": {"events": UPCYCLED, "steps": 4}}


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, list[float]]:
    """The losses of one process."""
    return {family: train(root, family, "alone", **options)[1] for family, options in SEVERAL.items()}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_two_processes_have_the_losses_of_one(root: Path, alone: dict[str, list[float]], strategy: str) -> None:
    on_processes(2, on_several, str(root), strategy)
    for family, losses in alone.items():
        assert json.loads((root / family / f"{strategy}.json").read_text()) == pytest.approx(losses, abs=1e-5)


LLAMA_3_1 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8, "rope_theta": 5e5}
ALIKE = {
    "olmoe": {},
    "qwen3_moe": {},
    "llama": {"rope_parameters": LLAMA_3_1 | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}, "head_dim": 8},
}
"""The last as Llama 3.1 has its rotary positions."""


@pytest.mark.parametrize("family", ALIKE)
def test_our_own_model_and_that_of_transformers_train_alike(tmp_path: Path, family: str) -> None:
    path, losses = folder(tmp_path, family, **ALIKE[family]), {}
    for backend in ("native", "transformers"):
        start = {"init_from": str(path), "backend": backend, "z_loss": 1e-3}
        grown = EVENTS if FAMILIES[family].routing else EVENTS[:1]
        _, module, losses[backend] = fit(tmp_path / backend, steps=20, events=grown, config=None, module=start)
        assert isinstance(module.shape, HubShape) == (backend == "transformers")
    assert len(losses["native"]) == 20 and module.shape.num_layers == 4
    assert losses["transformers"] == pytest.approx(losses["native"], rel=1e-4)


@pytest.mark.parametrize("family", ["granitemoe", "olmoe", "deepseek_v3"])
def test_documents_in_a_row_are_as_if_each_were_alone(family: str) -> None:
    model = pico.build(family).eval()
    ours = TransformersModel(HubShape.of(model.config.to_dict())).eval()
    ours.load_state_dict({f"hf.{name}": tensor for name, tensor in model.state_dict().items()})
    ids = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[0] * 5 + [1] * 7, [3] * 2 + [4] * 9 + [5]])
    with torch.no_grad():
        packed = ours(ids, documents_BS=documents)[0]
        for row, borders in enumerate([(0, 5, 12), (0, 2, 11, 12)]):
            for begin, end in pairwise(borders):
                alone = model(ids[row : row + 1, begin:end]).logits[0]
                torch.testing.assert_close(packed[row, begin:end], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["native", "transformers"])
@pytest.mark.parametrize("positions", [31, 32])
def test_samples_longer_than_the_positions_of_a_folder_are_told(tmp_path: Path, backend: str, positions: int) -> None:
    path = folder(tmp_path, "olmoe", max_position_embeddings=positions)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(tmp_path / "run", config=None, module={"init_from": str(path), "backend": backend}, events=[], steps=1)
    said = [str(warning.message) for warning in told if "max_position_embeddings" in str(warning.message)]
    assert len(said) == (positions < 32)
    assert not said or ("data.seq_len 32" in said[0] and "max_position_embeddings 31" in said[0])


@pytest.mark.parametrize(
    ("family", "data", "model", "says"),
    [
        ("minimax", {"documents": "mask"}, {}, "a minimax model, which has linear_attention: set data.documents pack"),
        ("gpt_oss", {"documents": "mask"}, {}, "in a gpt_oss model: transformers lets each see those before it"),
        ("granitemoe", {}, {"compile_blocks": True}, "model.compile_blocks is for this project's own model"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(
    root: Path, family: str, data: dict[str, Any], model: dict[str, Any], says: str
) -> None:
    start = {"init_from": str(folder(root, family)), "backend": "transformers", **model}
    with pytest.raises(ValueError, match=says):
        fit(root / "refused", config=None, module=start, data={"path": TEXT, **data}, events=[], steps=1)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ({"backend": "transformers"}, "needs a Hugging Face folder"),
        ({"backend": "torch"}, "must be auto, native or transformers, got 'torch'"),
    ],
)
def test_bad_starts(start: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LitMoE(**start)
