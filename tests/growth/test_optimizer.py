"""Optimizer state under growth, against what the optimizer itself would have kept."""

import pytest
import torch
from helpers import assert_equal_to_rounding, built, grown, grown_by, loss, plan_of, tiny, tokens
from maps import is_layer_copy, plan_of_maps, source_of
from torch import nn
from torch.optim import SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.names import Naming
from lit_recycle.growth.native import NATIVE, NativeModel
from lit_recycle.growth.operators import DuplicateExperts, Interpolate
from lit_recycle.growth.optimizer import check_optimizer_state, grow_optimizer_state, name_state, number_state
from lit_recycle.growth.plan import plan_growth

QUIET = Width(noise=0.0)
EXPERT_NAME = "layers.0.moe.experts.down"


class Lion(Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023); keeps its step as an int, as many outside of torch do."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("exp_avg", torch.zeros_like(p))
                state["step"] = state.get("step", 0) + 1
                p.sub_(momentum.lerp(p.grad, 0.1).sign(), alpha=group["lr"])
                momentum.lerp_(p.grad, 0.01)


OPTIMIZERS = {
    "AdamW": lambda p: AdamW(p, lr=1e-2),
    "Adam": lambda p: Adam(p, lr=1e-2),
    "AMSGrad": lambda p: AdamW(p, lr=1e-2, amsgrad=True),
    "Adamax": lambda p: Adamax(p, lr=1e-2, eps=1e-30),
    "NAdam": lambda p: NAdam(p, lr=1e-2),
    "RAdam": lambda p: RAdam(p, lr=1e-2),
    "SGD": lambda p: SGD(p, lr=1e-2),
    "SGD with momentum": lambda p: SGD(p, lr=1e-2, momentum=0.9),
    "RMSprop": lambda p: RMSprop(p, lr=1e-2),
    "RMSprop centred with momentum": lambda p: RMSprop(p, lr=1e-2, centered=True, momentum=0.9),
    "Adagrad": lambda p: Adagrad(p, lr=1e-2),
    "Adadelta": lambda p: Adadelta(p),
    "Rprop": lambda p: Rprop(p, lr=1e-2),
    "Lion": Lion,
}


def state_after(make, gradients) -> dict:
    """What an optimizer keeps of one parameter after steps with these gradients."""
    param = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make([param])
    for gradient in gradients:
        param.grad = gradient.clone()
        optimizer.step()
    return dict(optimizer.state[param])


def named_state(model, optimizer) -> dict[str, dict]:
    return {name: dict(optimizer.state[p]) for name, p in model.named_parameters() if p in optimizer.state}


def grow_state(plan, states, policy="carry"):
    return grow_optimizer_state(plan, states, policy, "TheOptimizer")


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_carried_state_is_what_the_divided_gradient_would_have_left(name, factor):
    """Gradients far above every epsilon, so that only their powers count."""
    generator = torch.Generator().manual_seed(0)
    gradients = [1e4 * torch.randn(2, 3, 2, generator=generator, dtype=torch.float64) for _ in range(4)]
    plan = plan_of_maps((0,), (tuple(e for e in range(2) for _ in range(factor)),))
    before = {EXPERT_NAME: state_after(OPTIMIZERS[name], gradients)}
    carried = grow_state(plan, before)[EXPERT_NAME]
    expected = state_after(OPTIMIZERS[name], [g.repeat_interleave(factor, 0) / factor for g in gradients])
    assert carried.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(carried[key], value, rtol=1e-6, atol=0, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("factor", [2, 3])
def test_factored_state_is_carried_along_each_dimension(factor):
    """Adafactor's means over a dimension, of a gradient that is divided among copies."""
    generator = torch.Generator().manual_seed(0)
    gradients = [1e4 * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(4)]
    plan = plan_of_maps((0,), (tuple(e for e in range(2) for _ in range(factor)),))
    before = {EXPERT_NAME: state_after(Adafactor, gradients)}
    check_optimizer_state(before, {EXPERT_NAME: gradients[0].shape}, "Adafactor")
    carried = grow_state(plan, before)[EXPERT_NAME]
    expected = state_after(Adafactor, [g.repeat_interleave(factor, 0) / factor for g in gradients])
    assert carried.keys() == expected.keys() >= {"row_var", "col_var"}
    for key, value in expected.items():
        torch.testing.assert_close(carried[key], value, rtol=1e-6, atol=0, msg=lambda m, key=key: f"{key}: {m}")


def test_the_next_update_of_a_copy_is_that_of_its_source():
    """m/√v is what it was, so that α=0 growth leaves the whole course of training under AdamW as it was."""
    model = built(tiny(shared_expert_size=4, balance_bias=True))
    options = {"lr": 3e-3, "eps": 1e-40, "weight_decay": 0.1}
    optimizer = AdamW(model.parameters(), **options)

    def train(model, optimizer, seed):
        optimizer.zero_grad()
        loss(model, tokens(model.config, batch=8, seed=seed)).backward()
        optimizer.step()

    for seed in range(5):
        train(model, optimizer, seed)
    width = Width(factor=3, noise=0.0)
    plan = plan_of(model.config, None, width)
    wide = grown(model, width=width)
    wide_optimizer = AdamW(wide.parameters(), **options)
    params = dict(wide.named_parameters())
    for name, state in grow_state(plan, named_state(model, optimizer)).items():
        wide_optimizer.state[params[name]] = {k: v.clone() for k, v in state.items()}
    for seed in range(5, 8):
        train(model, optimizer, seed)
        train(wide, wide_optimizer, seed)
    for name, param in model.named_parameters():
        duplicated = ".router." in name or ".experts." in name
        expected = param.repeat_interleave(3, dim=0) if duplicated else param
        assert_equal_to_rounding(params[name], expected, scale=1.0)


@pytest.fixture(scope="module")
def trained():
    """A model and its AMSGrad state by name, after three steps."""
    model = built(tiny(dense_layers=[1], dense_size=4))
    optimizer = AdamW(model.parameters(), lr=1e-3, amsgrad=True)
    for seed in range(3):
        loss(model, tokens(model.config, batch=8, seed=seed)).backward()
        optimizer.step()
    return model, named_state(model, optimizer)


def fresh_dicts(states):
    return {name: dict(state) for name, state in states.items()}


MOMENTS = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}


def test_carry(trained):
    model, states = trained
    plan = plan_of(model.config, Depth(), QUIET)
    after = grow_state(plan, fresh_dicts(states))
    assert list(after) == [name for name, _ in grown(model, Depth(), QUIET).named_parameters()]
    for name, state in after.items():
        place = NATIVE.parse(name)
        source = states[source_of(plan, name, states)]
        assert state["step"] == 3
        for key, power in MOMENTS.items():
            expected = (
                source[key].repeat_interleave(2, 0) / 2**power
                if place.axes.expert_dimension is not None
                else source[key]
            )
            assert torch.equal(state[key], expected), (name, key)


def test_carried_state_of_copies_is_their_own(trained):
    model, states = trained
    plan = plan_of(model.config, Depth(factor=3), None)
    after = grow_state(plan, fresh_dicts(states))
    pointers = [value.untyped_storage().data_ptr() for state in after.values() for value in state.values()]
    assert len(set(pointers)) == len(pointers), "scalars too: a step that is shared is counted twice"
    assert after["layers.0.attn.q_proj.weight"]["exp_avg"] is states["layers.0.attn.q_proj.weight"]["exp_avg"]


def test_fresh_copies_start_at_zero_beside_carried_originals(trained):
    model, states = trained
    plan = plan_of(model.config, Depth(), Width(factor=3, noise=0.0))
    after = grow_state(plan, fresh_dicts(states), "fresh_copies")
    params = dict(grown(model, Depth(), Width(factor=3, noise=0.0)).named_parameters())
    assert after.keys() == params.keys()
    for name, state in after.items():
        assert {state[key].shape for key in MOMENTS} == {params[name].shape}, name
        place = NATIVE.parse(name)
        source = states[source_of(plan, name, states)]
        if is_layer_copy(plan, place.layer):
            assert not any(value.any() for value in state.values()), name
            continue
        assert state["step"] == 3
        for key, power in MOMENTS.items():
            expected = source[key]
            if place.axes.expert_dimension is not None:
                expected = torch.zeros_like(state[key])
                expected[::3] = source[key] * 3.0**-power
            assert torch.equal(state[key], expected), (name, key)


def test_reset_leaves_nothing(trained):
    model, states = trained
    plan = plan_of(model.config, Depth(), QUIET)
    states = fresh_dicts(states)
    assert grow_state(plan, states, "reset") == {}
    assert not states, "let go at once"


def test_state_is_let_go_after_its_last_use(trained):
    model, states = trained
    plan = plan_of(model.config, Depth(method="stack"), QUIET)
    states = fresh_dicts(states)
    grow_state(plan, states)
    assert not states


def test_parameters_without_state_have_none_after_growth(trained):
    """A parameter that was frozen has no state."""
    model, states = trained
    states = {name: dict(state) for name, state in states.items() if "norm" not in name}
    after = grow_state(plan_of(model.config, Depth()), states)
    assert after and not any("norm" in name for name in after)


def test_plain_numbers_are_carried():
    plan = plan_of_maps((0, 0), ((0, 0), (0, 0)))
    state = {"exp_avg": torch.ones(1, 2, 2), "step": 7, "flag": None}
    check_optimizer_state({EXPERT_NAME: state}, {EXPERT_NAME: torch.Size([1, 2, 2])}, "Lion")
    after = grow_state(plan, {EXPERT_NAME: state})
    assert [(s["step"], s["flag"]) for s in after.values()] == [(7, None)] * 2


# --- by name and by number ---


def two_groups(model):
    """Norms apart, as one leaves them out of weight decay: their numbers are not in the model's order."""
    named = list(model.named_parameters())
    norms = [(n, p) for n, p in named if "norm" in n]
    return AdamW([{"params": norms, "weight_decay": 0.0}, {"params": [x for x in named if "norm" not in x[0]]}])


def test_state_by_name_is_that_of_each_parameter_and_goes_back():
    model = built(tiny())
    optimizer = two_groups(model)
    loss(model, tokens(model.config)).backward()
    model.embed.weight.grad = None  # one parameter without state
    optimizer.step()
    numbered = optimizer.state_dict()
    named = name_state(numbered)
    expected = named_state(model, optimizer)
    assert named["state"].keys() == expected.keys() and "embed.weight" not in expected
    for name, state in expected.items():
        assert all(torch.equal(named["state"][name][key], value) for key, value in state.items())
    assert [group["weight_decay"] for group in named["param_groups"]] == [0.0, 0.01]
    assert not any("params" in group for group in named["param_groups"])
    back = number_state(named)
    assert back["param_groups"] == numbered["param_groups"]
    assert back["state"].keys() == numbered["state"].keys()
    assert all(back["state"][i] == state for i, state in numbered["state"].items())


def test_state_without_names_is_refused():
    optimizer = AdamW(built(tiny()).parameters())
    with pytest.raises(ValueError, match="does not name its parameters"):
        name_state(optimizer.state_dict())


# --- refusals ---


def test_state_of_real_optimizers_passes_the_check(trained):
    model, states = trained
    check_optimizer_state(states, {name: p.shape for name, p in model.named_parameters()}, "AdamW")


def test_state_of_another_shape_is_refused():
    state = {"w": {"sketch": torch.ones(2, 5)}}
    with pytest.raises(ValueError, match=r"^CAME keeps 'sketch' of shape \(2, 5\) .*optimizer_state: reset"):
        check_optimizer_state(state, {"w": torch.Size([2, 3])}, "CAME")


@pytest.mark.parametrize("value", [[torch.ones(2)], {"left": torch.ones(2)}], ids=["list", "dict"])
def test_state_of_no_known_form_is_refused(value):
    """As in Shampoo and SOAP, which keep lists of matrices."""
    with pytest.raises(ValueError, match=r"^SOAP keeps 'factors' as a (list|dict) for w of shape .*: reset"):
        check_optimizer_state({"w": {"factors": value}}, {"w": torch.Size([2])}, "SOAP")


def test_state_of_unknown_kind_is_refused_where_the_gradient_is_split():
    plan = plan_of_maps((0,), ((0, 0),))
    states = {EXPERT_NAME: {"mystery": torch.ones(1, 2, 2)}}
    with pytest.raises(ValueError, match=r"'mystery' of TheOptimizer .*optimizer_state: reset"):
        grow_state(plan, states)


def test_state_of_unknown_kind_is_carried_where_the_gradient_is_whole():
    plan = plan_of_maps((0, 0), ((0,), (0,)))
    after = grow_state(plan, {EXPERT_NAME: {"mystery": torch.ones(1, 2, 2)}})
    assert all(torch.equal(state["mystery"], torch.ones(1, 2, 2)) for state in after.values())


def test_state_of_experts_in_tensors_of_their_own_is_no_case():
    naming = Naming(layers="layers", axes={})
    plan = plan_of_maps((0,), ((0, 0),), naming=naming)
    with pytest.raises(AssertionError, match="all experts"):
        grow_optimizer_state(plan, {"layers.0.experts.0.w": {"exp_avg": torch.ones(2)}}, "carry", "AdamW")


def test_carrying_through_two_doublings_is_carrying_through_four():
    """Rounding aside, growing by two twice carries what growing by four carries."""
    state = {"exp_avg": torch.rand(2, 3, 4), "exp_avg_sq": torch.rand(2, 3, 4)}

    def carry(state, factor):
        experts = tuple(e for e in range(len(state["exp_avg"])) for _ in range(factor))
        return grow_state(plan_of_maps((0,), (experts,)), {EXPERT_NAME: state})[EXPERT_NAME]

    for key, value in carry(state, 4).items():
        assert_equal_to_rounding(carry(carry(state, 2), 2)[key], value)


def test_what_comes_of_a_frozen_layer_and_of_another_one_begins_without_state():
    """As long as a parameter is frozen an optimizer keeps nothing of it."""
    plan = plan_growth(NativeModel(tiny()), [Interpolate()])
    states = {f"layers.{i}.ffn_norm.weight": {"exp_avg": torch.ones(8)} for i in (0, 1)}
    assert sorted(grow_state(plan, states)) == [f"layers.{j}.ffn_norm.weight" for j in (0, 1, 2)]


def test_channels_that_are_drawn_anew_have_no_state_and_the_others_theirs():
    model = built(tiny(expert_size=6))
    drop, plain = (DuplicateExperts(2, noise=0.0, redraw=share) for share in (0.5, 0.0))
    redrawn, copied = grown_by(model, drop).state_dict(), grown_by(model, plain).state_dict()
    states = {name: {"exp_avg": torch.ones_like(weight)} for name, weight in model.named_parameters()}
    carried = grow_state(plan_growth(NativeModel(model.config), [drop]), states)
    names = [name for name in carried if ".experts." in name]
    for name in names:
        drawn = redrawn[name] != copied[name]
        assert drawn.sum() * 4 == drawn.numel(), "half of each copy"
        assert torch.equal(carried[name]["exp_avg"], torch.where(drawn, 0.0, 0.5).double())
    assert len(names) == 2 * model.config.num_layers
    for up, down in zip(names[::2], names[1::2], strict=True):
        gates_EFD, outputs_EDF = ((redrawn[name] != copied[name]) for name in (up, down))
        channels_EF = outputs_EDF.all(1)
        assert torch.equal(channels_EF, outputs_EDF.any(1)) and channels_EF.sum() * 4 == channels_EF.numel()
        assert torch.equal(gates_EFD, channels_EF.repeat(1, 2).unsqueeze(2).expand_as(gates_EFD)), "the same ones"


def test_a_mean_over_copied_entries_is_scaled_by_the_mean_of_their_factors():
    """Of uneven copies Adafactor's mean over all rows can be carried no better."""
    gradients = [1e4 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)]
    name, plan = "layers.0.moe.router.weight", plan_of_maps((0,), ((0, 0, 1),))
    before = {name: state_after(Adafactor, gradients)}
    rows, columns = (before[name][key].clone() for key in ("row_var", "col_var"))
    carried = grow_state(plan, before)[name]
    shares = torch.tensor([[0.25], [0.25], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(carried["row_var"], rows[[0, 0, 1]] * shares)
    torch.testing.assert_close(carried["col_var"], columns * 0.5)
