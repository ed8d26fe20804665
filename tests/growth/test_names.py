"""What names say: layer 1 is not layer 11, and the names of a grown model are all there, in the model's order."""

import pytest
import torch
from helpers import built, configs, plan_of, tiny
from hypothesis import given
from hypothesis import strategies as st
from maps import plan_of_maps, source_of

from lit_recycle.growth.axes import UNKNOWN, parse_axes
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.native import NATIVE, SIZES, NativeModel
from lit_recycle.model.transformer import MoETransformer

DOWN = parse_axes("down: D+ F*")
PER_EXPERT = Naming(
    layers=r"model\.layers",
    axes={"mlp.experts.{e}.down_proj.weight": "down: D+ F*", "mlp.gate.weight": "router: E D*"},
)


@pytest.mark.parametrize(
    ("name", "layer", "expert"),
    [
        ("model.layers.1.mlp.experts.1.down_proj.weight", 1, 1),
        ("model.layers.11.mlp.experts.1.down_proj.weight", 11, 1),
        ("model.layers.1.mlp.experts.11.down_proj.weight", 1, 11),
        ("model.layers.111.mlp.experts.111.down_proj.weight", 111, 111),
        ("model.layers.0.mlp.experts.10.down_proj.weight", 0, 10),
    ],
)
def test_layers_and_experts_are_read_whole(name, layer, expert):
    place = PER_EXPERT.parse(name)
    assert place == Place("model.layers", layer, "mlp.experts.{e}.down_proj.weight", expert, DOWN)
    assert place.name == name


@pytest.mark.parametrize(
    "name",
    [
        "layers.1.mlp.gate.weight",
        "my_model.layers.1.mlp.gate.weight",
        "draft.model.layers.1.mlp.gate.weight",
        "model.layers.x.mlp.gate.weight",
        "model.layers.1",
        "model.layers1.mlp.gate.weight",
        "modelxlayers.1.mlp.gate.weight",
        "model.norm.weight",
    ],
)
def test_a_prefix_matches_whole_or_not_at_all(name):
    assert PER_EXPERT.parse(name) == Place("", None, name, None, UNKNOWN)


@pytest.mark.parametrize(
    "suffix",
    [
        "mlp.shared_experts.1.down_proj.weight",  # another module
        "mlp.experts.down_proj",  # all experts in one tensor
        "mlp.experts.1",  # nothing after the index
        "mlp.experts.1x.down_proj.weight",
        "mlp.myexperts.1.down_proj.weight",
    ],
)
def test_no_expert_where_none_is_named(suffix):
    place = PER_EXPERT.parse(f"model.layers.3.{suffix}")
    assert (place.layer, place.expert, place.suffix, place.axes) == (3, None, suffix, UNKNOWN)
    assert place.name == f"model.layers.3.{suffix}"


@pytest.mark.parametrize("prefix", ["layers", "model.layers"])
def test_native_names(prefix):
    place = NATIVE.parse(f"{prefix}.12.moe.experts.gate_up")
    assert place == Place(prefix, 12, "moe.experts.gate_up", None, parse_axes("E ([gate up] F) D*"))
    assert not NATIVE.parse(f"{prefix}.12.moe.experts.gate_up.more").axes.known
    assert not NATIVE.parse(f"{prefix}.12.more.moe.experts.gate_up").axes.known
    assert NATIVE.parse(f"x{prefix}.12.moe.experts.gate_up").layer is None


@given(configs())
def test_the_table_names_every_dimension_of_every_tensor(config):
    """With its size, so that no axis is mistaken for another."""
    model = NativeModel(config)
    with torch.device("meta"):
        tensors = MoETransformer(config).state_dict()
    for name, tensor in tensors.items():
        place = model.naming.parse(name)
        assert place.axes.known and len(place.axes.dimensions) == tensor.dim(), name
        for dimension, length in zip(place.axes.dimensions, tensor.shape, strict=True):
            expected = 1
            for axis in dimension.factors:
                if axis != "one":
                    expected *= model.size(axis, place.layer) if axis in SIZES else len(axis)
            assert length == expected, (name, dimension)


def test_every_output_projection_of_the_model_is_known():
    model = MoETransformer(tiny(dense_layers=[0], dense_size=4, shared_expert_size=4))
    outputs = {NATIVE.parse(n).suffix for n in model.state_dict() if NATIVE.parse(n).axes.writes_residual}
    assert outputs == {"attn.o_proj.weight", "mlp.down.weight", "moe.shared.down.weight", "moe.experts.down"}


def test_a_tensor_knows_its_source():
    plan = plan_of_maps((0, 0, 1), ((0, 1), (0, 1), (0, 0, 1, 1)), naming=PER_EXPERT)
    names = [f"model.layers.{i}.mlp.experts.{e}.down_proj.weight" for i in range(2) for e in range(2)]
    names.append("model.norm.weight")
    assert source_of(plan, names[0].replace("0.mlp.experts.0", "2.mlp.experts.3"), names) == names[3]
    assert source_of(plan, "model.norm.weight", names) == "model.norm.weight"


def test_experts_of_their_own_names_are_grown_in_order():
    names = ["embed", *(f"model.layers.{i}.mlp.experts.{e}.w" for i in range(2) for e in range(2)), "norm"]
    plan = plan_of_maps((1, 0), ((0, 0, 1, 1), (0, 1, 0)), naming=PER_EXPERT)
    found = [r.target.name for r in plan.recipes(names)[-1]]
    assert [(name, source_of(plan, name, names)) for name in found] == [
        ("embed", "embed"),
        ("model.layers.0.mlp.experts.0.w", "model.layers.1.mlp.experts.0.w"),
        ("model.layers.0.mlp.experts.1.w", "model.layers.1.mlp.experts.0.w"),
        ("model.layers.0.mlp.experts.2.w", "model.layers.1.mlp.experts.1.w"),
        ("model.layers.0.mlp.experts.3.w", "model.layers.1.mlp.experts.1.w"),
        ("model.layers.1.mlp.experts.0.w", "model.layers.0.mlp.experts.0.w"),
        ("model.layers.1.mlp.experts.2.w", "model.layers.0.mlp.experts.0.w"),
        ("model.layers.1.mlp.experts.1.w", "model.layers.0.mlp.experts.1.w"),
        ("norm", "norm"),
    ]


@given(
    configs(),
    st.none() | st.builds(Depth, st.integers(2, 3), st.sampled_from(["interposition", "stack"])),
    st.none() | st.builds(Width, st.integers(2, 3)),
    st.sampled_from(["", "model."]),
)
def test_grown_names_and_shapes_are_those_of_the_grown_model(config, depth, width, prefix):
    if depth is None and width is None:
        return
    plan = plan_of(config, depth, width)
    with torch.device("meta"):
        expected = MoETransformer(plan.after.config).state_dict(prefix=prefix)
    tensors = built(config).state_dict(prefix=prefix)
    shapes = {name: tensor.shape for name, tensor in grow_tensors(plan, dict(tensors))}
    assert list(shapes) == list(expected)
    assert shapes == {name: tensor.shape for name, tensor in expected.items()}


def test_eleven_layers_of_eleven_experts_do_not_mix():
    """Each tensor holds its own layer and expert, so that a wrong source shows."""
    sources = {
        f"model.layers.{i}.mlp.experts.{e}.down_proj.weight": torch.tensor([i, e]) for i in range(12) for e in range(12)
    }
    plan = plan_of_maps(tuple(range(12)) * 2, (tuple(e for e in range(12) for _ in range(2)),) * 24, naming=PER_EXPERT)
    found = dict(grow_tensors(plan, sources))
    assert len(found) == 24 * 24
    for j in range(24):
        for e in range(24):
            assert found[f"model.layers.{j}.mlp.experts.{e}.down_proj.weight"].tolist() == [j % 12, e // 2]
