"""Muon's update beside torch's own, on every kind of tensor, whole and cut among processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import built, loss, tiny, tokens
from hypothesis import given
from hypothesis import strategies as st
from processes import config
from torch import Tensor, nn

from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.cli import main
from lit_recycle.growth.axes import parse_axes
from lit_recycle.training.muon import Muon
from lit_recycle.training.orthogonal import Matrices, batches
from lit_recycle.training.owners import owners

OPTIONS = [
    {},
    {"nesterov": False, "momentum": 0.8, "weight_decay": 0.0},
    {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def torchs(start: Tensor, gradients: list[Tensor], **options) -> Tensor:
    """A matrix after steps of torch's Muon."""
    param = nn.Parameter(start.clone())
    optimizer = torch.optim.Muon([param], lr=0.1, **options)
    for gradient in gradients:
        param.grad = gradient.clone()
        optimizer.step()
    return param.detach()


def ours(named: dict[str, Tensor], gradients: dict[str, list[Tensor]], group=None, **options) -> dict[str, Tensor]:
    params = {name: nn.Parameter(start.clone()) for name, start in named.items()}
    optimizer = Muon([{"params": list(params.items()), **(group or {})}], lr=0.1, **options)
    for i in range(len(next(iter(gradients.values())))):
        for name, param in params.items():
            param.grad = gradients[name][i].clone()
        optimizer.step()
    return {name: param.detach() for name, param in params.items()}


@pytest.mark.parametrize("options", OPTIONS)
def test_matrices_are_updated_as_by_torch(options):
    """Several of a shape, which go in one batch, and a single one: the same bits."""
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5), (3, 1), (64, 96)]
    starts = {str(i): drawn(*shape, seed=i) for i, shape in enumerate(shapes)}
    gradients = {name: [drawn(*w.shape, seed=9 + j) for j in range(3)] for name, w in starts.items()}
    after = ours(starts, gradients, {"algorithm": "muon"}, **options)
    for name, start in starts.items():
        assert torch.equal(after[name], torchs(start, gradients[name], **options)), name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("E ([gate up] F) D*", (3, 8, 6)),
        ("([gate up] I) D*", (8, 6)),
        ("E (F [gate up]) D*", (3, 8, 6)),
        ("E D* ([gate up] F)", (3, 6, 8)),
        ("E D* (F [gate up])", (3, 6, 8)),
        ("down: E D+ F*", (3, 6, 4)),
    ],
)
def test_each_matrix_of_a_tensor_is_updated_as_by_torch_alone(axes, shape, options):
    """Gate and up, one beside the other or in turns, of each expert; transposed where inputs are rows."""

    def matrices(tensor: Tensor) -> list[Tensor]:
        found = []
        for expert in tensor if tensor.dim() == 3 else [tensor]:
            stored = expert.mT if "D* (" in axes else expert
            half = len(stored) // 2
            if "F [" in axes:
                found += [stored[::2], stored[1::2]]
            else:
                found += [stored[:half], stored[half:]] if "[" in axes else [stored]
        return found

    start, gradients = drawn(*shape), [drawn(*shape, seed=9 + j) for j in range(3)]
    hint = {"axes": {"w": parse_axes(axes)}}
    after = ours({"w": start}, {"w": gradients}, hint, **options)["w"]
    for i, matrix in enumerate(matrices(start)):
        expected = torchs(matrix.contiguous(), [matrices(g)[i].contiguous() for g in gradients], **options)
        assert torch.equal(matrices(after)[i], expected), i


@given(
    st.sampled_from(["E ([gate up] F) D*", "([gate up] I) D*", "E D* (F [gate up])", "(F [gate up]) D*", "X D*"]),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_matrices_taken_apart_come_together_again(axes, sizes):
    parsed = parse_axes(axes)
    stack = parsed.stack
    shape = sizes[-len(parsed.dimensions) :]
    if stack is not None:
        shape[stack[0]] *= 2
    tensor, layout = drawn(*shape), Matrices.of(parsed)
    apart = layout.apart(tensor)
    assert apart.dim() == 3 and apart.shape[-2:].numel() * len(apart) == tensor.numel()
    assert torch.equal(layout.together(apart.contiguous(), tensor.shape), tensor)


MODEL = tiny(
    dense_layers=[1], dense_size=6, shared_expert_size=4, shared_expert_gate=True, qkv_bias=True, qk_norm="full"
)


def test_hidden_matrices_get_muon_and_all_others_adamw():
    named = list(built(MODEL).named_parameters())
    muon, adamw = Muon([{"params": named}], adamw_lr=3e-4).param_groups
    others = {name for name, _ in named if name not in muon["param_names"]}
    assert others == set(adamw["param_names"]) and len(named) == len(muon["params"]) + len(adamw["params"])
    assert (muon["algorithm"], muon["lr"], adamw["algorithm"], adamw["lr"]) == ("muon", 1e-3, "adamw", 3e-4)
    kinds = {name.split(".", 2)[2] if name.startswith("layers") else name for name in muon["param_names"]}
    assert kinds == {
        *(f"attn.{part}_proj.weight" for part in "qkvo"),
        "mlp.gate_up.weight",
        "mlp.down.weight",
        "moe.experts.gate_up",
        "moe.experts.down",
        "moe.shared.gate_up.weight",
        "moe.shared.down.weight",
    }
    assert {"embed.weight", "lm_head.weight", "norm.weight", "layers.0.moe.router.weight"} <= others
    assert {"layers.0.moe.shared_gate.weight", "layers.0.attn.q_proj.bias", "layers.0.attn.q_norm.weight"} <= others


def test_the_others_are_updated_as_by_torchs_adamw():
    models = built(MODEL, dtype=torch.float32), built(MODEL, dtype=torch.float32)
    options = {"weight_decay": 0.1, "betas": (0.8, 0.9)}
    muon = Muon(models[0].named_parameters(), lr=0.1, adamw_lr=1e-2, adamw_eps=1e-6, **options)
    names = muon.param_groups[1]["param_names"]
    params = dict(models[1].named_parameters())
    adamw = torch.optim.AdamW([params[name] for name in names], lr=1e-2, eps=1e-6, fused=True, **options)
    for _ in range(3):
        loss(models[0], tokens(MODEL)).backward()
        for name, param in models[0].named_parameters():
            params[name].grad = param.grad.clone()
        muon.step()
        adamw.step()
        muon.zero_grad()
    for name, param in models[0].named_parameters():
        assert torch.equal(param, params[name]) == (name in names), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Muon([("a.weight", p)]), "cannot tell whether a.weight of shape .* say algorithm"),
        (lambda p: Muon([p]), "cannot tell whether a parameter without a name"),
        (lambda p: Muon([{"params": [p], "algorithm": "adam"}]), "algorithm must be muon or adamw, got 'adam'"),
        (lambda p: Muon([("layers.0.attn.q_proj.weight", p.view(-1))]), "each process holds a flat slice.*fsdp2"),
        (lambda p: Muon([{"params": [("b", p.view(-1))], "algorithm": "muon"}]), "Muon is for matrices, and b has"),
        (lambda p: Muon([("a", p)], eps=-1.0), r"Muon\.eps must be a finite number and not negative, got -1"),
        (lambda p: Muon([("a", p)], lr=-1.0), r"Muon\.lr must be a finite number and not negative, got -1"),
        (lambda p: Muon([("a", p)], adamw_lr=float("nan")), r"Muon\.adamw_lr must be"),
        (lambda p: Muon([("a", p)], betas=(0.9, 1.0)), r"Muon\.betas\[1\] must lie in 0..1"),
        (lambda p: Muon([("a", p)], ns_steps=0), r"Muon\.ns_steps must lie in 1..99, got 0"),
        (lambda p: Muon([("a", p)], adjust_lr_fn="rms"), r"Muon\.adjust_lr_fn must be original or match_rms_adamw"),
    ],
)
def test_what_muon_cannot_do_is_refused(make, message):
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        make(nn.Parameter(torch.zeros(2, 3)))


@pytest.mark.parametrize(("device", "rows"), [("meta", 2**12), ("cpu", 2**8)])
def test_batches_are_of_one_shape_and_bounded(device, rows):
    sizes = [(2, 3, 4), (1, 4, 3), (5, 3, 4), *[(1, rows, 2**11)] * 3]
    found = list(batches([torch.empty(size, device=device) for size in sizes]))
    assert sorted(found) == [[0, 2], [1], [3, 4], [5]]


def test_matrices_are_shared_out_by_their_work():
    shapes = [torch.Size(s) for s in [(8, 8), (4, 4), (4, 4), (4, 4), (8, 8), (16, 2)]]
    shared = owners(shapes, 2)
    assert sorted(i for owned in shared for i in owned) == list(range(6))
    assert [0 in owned for owned in shared] != [4 in owned for owned in shared]
    assert owners(shapes[:1], 3) == [[0], [], []]


def test_muon_and_groups_are_set_in_yaml(tmp_path: Path) -> None:
    path = config(
        tmp_path / "run",
        model__optimizer={"class_path": "lit_recycle.training.muon.Muon", "init_args": {"lr": 0.02, "adamw_lr": 3e-4}},
        model__param_groups=[{"pattern": "router", "lr": 1e-5}],
    )
    assert main(["plan", "--config", str(path)]) == 0
    assert main(["fit", "--config", str(path)]) == 0
    (saved,) = load_whole_checkpoint(tmp_path / "run/checkpoints/step=6.ckpt")["optimizer_states"]
    rates = {group["name"]: group["initial_lr"] for group in saved["param_groups"]}
    assert rates == {
        "router/muon": 1e-5,
        "router/adamw": 1e-5,
        "router/vectors": 1e-5,
        "matrices/muon": 0.02,
        "matrices/adamw": 3e-4,
        "vectors": 3e-4,
    }
