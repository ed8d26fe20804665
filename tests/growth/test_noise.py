"""Noise on copied experts: where it is, what it depends on, how large it is, and that it stays what it was."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from helpers import built, grown, plan_of, tiny
from maps import grow_one, plan_of_maps

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.names import Naming
from lit_recycle.growth.native import NATIVE, NativeModel
from lit_recycle.growth.noise import BLOCK
from lit_recycle.growth.plan import plan_growth

EXPERTS = ("moe.router.weight", "moe.experts.gate_up", "moe.experts.down")
WITH_EVERYTHING = dict(shared_expert_size=4, dense_layers=[1], dense_size=4, balance_bias=True)


def noise_of(width: Width, *, seed=0, event=0, model=None) -> dict[str, torch.Tensor]:
    """What growth added to the plain duplicates, by name."""
    model = model or built(tiny())
    quiet = grown(model, width=replace(width, noise=0.0)).state_dict()
    noisy = grown(model, None, width, seed, event).state_dict()
    return {name: noisy[name] - quiet[name] for name in quiet}


def test_noise_is_on_copied_experts_and_router_rows_alone():
    for name, noise in noise_of(Width(factor=3, noise=0.5), model=built(tiny(**WITH_EVERYTHING))).items():
        if name.split(".", 2)[-1] in EXPERTS:
            per_expert = noise.flatten(1).abs().amin(1)
            assert not noise[::3].any(), "originals"
            assert (per_expert.view(-1, 3)[:, 1:] > 0).all(), "copies"
        else:
            assert not noise.any(), name


def test_noise_differs_by_seed_event_layer_matrix_and_expert():
    """All tensors alike in shape and values, so that nothing but the key can make the noise differ."""
    model = built(tiny(hidden_size=4, expert_size=4))
    alike = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name, tensor in model.state_dict().items():
        if ".moe.experts." in name:
            tensor.copy_(alike.repeat(2, 1) if "gate_up" in name else alike)
    found = []
    for seed, event in ((0, 0), (1, 0), (0, 1), (10, 0), (1, 10)):
        noise = noise_of(Width(noise=1.0), seed=seed, event=event, model=model)
        for name, tensor in noise.items():
            if ".moe.experts." in name:
                found.extend(tensor[1::2].reshape(-1, 16))
    assert len(found) == 5 * 3 * 3 * 3  # seeds and events × layers × experts × matrices
    for a, b in itertools.combinations(torch.stack(found).sign().unbind(), 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("alpha", [0.01, 0.3])
def test_the_deviation_of_the_noise_is_relative_to_each_matrix(alpha):
    """Gate, up and down on their own, whatever their sizes: the mean is no part of the deviation."""
    model = built(tiny(hidden_size=64, expert_size=64))
    sizes = {"gate": (1.0, 3.0), "up": (100.0, 0.0), "down": (0.01, 1.0), "router": (5.0, -10.0)}
    for name, tensor in model.state_dict().items():
        if name.endswith("gate_up"):
            for matrix, part in zip(("gate", "up"), tensor.chunk(2, dim=1), strict=True):
                part.mul_(sizes[matrix][0]).add_(sizes[matrix][1])
        elif name.split(".", 2)[-1] in EXPERTS:
            scale, mean = sizes["down" if name.endswith("down") else "router"]
            tensor.mul_(scale).add_(mean)
    state = model.state_dict()
    for name, noise in noise_of(Width(noise=alpha), model=model).items():
        if name.split(".", 2)[-1] not in EXPERTS:
            continue
        parts = 2 if name.endswith("gate_up") else 1
        for source, drawn in zip(state[name].chunk(parts, 1), noise[1::2].chunk(parts, 1), strict=True):
            for e in range(3):
                n, deviation = drawn[e].numel(), alpha * source[e].std(correction=0).item()
                # Four standard errors of a deviation and of a mean
                assert drawn[e].std(correction=0).item() == pytest.approx(deviation, rel=4 * (2 * n) ** -0.5)
                assert drawn[e].mean().abs() < 4 * deviation / n**0.5


def test_matrices_that_alternate_along_the_last_axis_have_deviations_of_their_own():
    naming = Naming("layers", {"gate_up": "E D* (F [gate up])"})
    plan = plan_of_maps((0,), ((0, 0),), naming=naming, noise=0.1)
    source = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(0))
    source[..., 1::2] *= 1000
    noise = grow_one(plan, "layers.0.gate_up", source)[1] - source[0]
    for i in range(2):
        deviation = 0.1 * source[0, :, i::2].std().item()
        assert noise[:, i::2].std().item() == pytest.approx(deviation, rel=0.05)


def test_noise_is_drawn_in_float32_before_the_cast():
    model = built(tiny(hidden_size=16, expert_size=16), dtype=torch.bfloat16)
    exact = copy.deepcopy(model).float()
    for name, tensor in grown(model, width=Width(noise=0.1)).state_dict().items():
        expected = grown(exact, width=Width(noise=0.1)).state_dict()[name]
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected.bfloat16()), name


def test_the_noise_of_a_float64_model_is_that_of_float32():
    model = built(tiny(), dtype=torch.float32)
    exact = grown(copy.deepcopy(model).double(), width=Width(noise=0.1)).state_dict()
    for name, tensor in grown(model, width=Width(noise=0.1)).state_dict().items():
        torch.testing.assert_close(exact[name].float(), tensor, rtol=1e-6, atol=1e-7)


def test_a_matrix_of_many_blocks_is_noisy_to_its_end():
    plan = plan_of_maps((0,), ((0, 0),), noise=0.5)
    source = torch.randn(1, 3, BLOCK // 2 + 5, generator=torch.Generator().manual_seed(0))
    untouched = source.clone()
    noise = grow_one(plan, "layers.0.moe.experts.down", source)[1] - source[0]
    assert torch.equal(source, untouched)
    parts = noise.flatten().split(BLOCK // 4)
    assert all(part.std().item() == pytest.approx(0.5, rel=0.05) for part in parts if part.numel() > 1000)
    assert not torch.equal(parts[0], parts[4])
    assert (noise[-1, -100:] != 0).all()


def test_noise_does_not_depend_on_threads_or_on_the_order_of_tensors():
    model = built(tiny(hidden_size=128, expert_size=384), dtype=torch.float32)
    plan = plan_of(model.config, Depth(), Width(noise=0.1), seed=7)
    tensors = dict(model.state_dict())
    expected = dict(grow_tensors(plan, dict(tensors)))
    try:
        torch.set_num_threads(3)
        torch.manual_seed(123)
        for name, tensor in grow_tensors(plan, dict(reversed(tensors.items()))):
            assert torch.equal(tensor, expected[name]), name
    finally:
        torch.set_num_threads(1)


def test_noise_leaves_the_global_generator_alone():
    model = built(tiny())
    plan = plan_of(model.config, None, Width(noise=0.1))
    before = torch.get_rng_state()
    list(grow_tensors(plan, dict(model.state_dict())))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_noise_of_a_seed_stays_what_it_was():
    """Values as first drawn: a run that is resumed under a later version must find the same model."""
    plan = plan_of_maps((0,), ((0, 0),), noise=1.0, seed=5, event=1)
    source = torch.tensor([[-1.0, 1.0, -1.0, 1.0]])
    noise = grow_one(plan, "layers.0.moe.router.weight", source)[1] - source[0]
    torch.testing.assert_close(noise, torch.tensor([-0.561699, 1.329009, 0.690328, 1.143156]), rtol=0, atol=1e-6)


def test_experts_of_their_own_names_get_the_noise_of_those_in_one_tensor():
    """The same model in another family's names grows into the same model."""

    class Split(NativeModel):
        naming = Naming(
            "layers",
            {
                "moe.router.weight": NATIVE.axes["moe.router.weight"],
                "moe.experts.{e}.gate": "gate: F D*",
                "moe.experts.{e}.up": "up: F D*",
                "moe.experts.{e}.down": "down: D+ F*",
                "attn.o_proj.weight": "D+ (H P)*",
            },
        )

        def resized(self, sources, top_k=None):
            return Split(super().resized(sources, top_k).config)

    def split_up(state):
        result = {}
        for name, tensor in state.items():
            stem, _, matrices = name.rpartition(".experts.")
            if not stem:
                result[name] = tensor
                continue
            for e, expert in enumerate(tensor):
                names = matrices.split("_")
                for matrix, part in zip(names, expert.chunk(len(names)), strict=True):
                    result[f"{stem}.experts.{e}.{matrix}"] = part.clone()
        return result

    model = built(tiny(), dtype=torch.bfloat16)
    depth, width = Depth(zero_output=True), Width(factor=3, noise=0.2)
    plan = plan_growth(Split(model.config), [depth.operator, width.operator], seed=4, event=2)
    ours = split_up(grown(model, depth, width, seed=4, event=2).state_dict())
    theirs = dict(grow_tensors(plan, split_up(model.state_dict())))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor), name
