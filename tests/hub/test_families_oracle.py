"""Families against what transformers says of itself: types with experts, patterns over layers, names on the hub."""

import importlib
import re
from pathlib import Path

import pico
import pytest
import torch
from safetensors.torch import load_file

from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.families import FAMILIES, NOT_GROWN

LAYERS = 13
PATTERNED = [name for name, family in FAMILIES.items() if family.patterns and not family.text_config]
LISTED = [
    name
    for name, family in FAMILIES.items()
    if isinstance(family.dense, Kinds) and "mlp_layer_types" in family.dense.keys and not family.text_config
]


def configs(family, **keys):
    """A config of transformers with many layers, and what a folder says that leaves all lists to the family."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(pico.AS.get(family, family), num_hidden_layers=LAYERS, **keys)
    lists = {*FAMILIES[family].patterns, "mlp_layer_types", "per_layer_config"}
    return config, {key: value for key, value in config.to_dict().items() if key not in lists}


def test_every_model_with_experts_is_grown_or_has_a_reason():
    """All model types of transformers whose code has experts."""
    models = Path(importlib.import_module("transformers").__file__).parent / "models"
    types = set()
    for code in models.glob("*/modeling_*.py"):
        if re.search(r"use_experts_implementation|class \w*Experts\w*\(", code.read_text(encoding="utf-8")):
            configuration = code.with_name(code.name.replace("modeling_", "configuration_"))
            types |= set(re.findall(r'model_type(?:: \w+)? = "([^"]+)"', configuration.read_text(encoding="utf-8")))
    assert len(types) > 60
    parts = re.compile(r"vision|audio|encoder|talker|_sam_")  # of models that are listed themselves
    missing = sorted(name for name in types if not parts.search(name) and name not in {*FAMILIES, *NOT_GROWN})
    assert not missing and not set(FAMILIES) & set(NOT_GROWN)


def test_what_is_said_not_to_load_does_not():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LOADED

    general = [name for name, why in NOT_GROWN.items() if list(NOT_GROWN.values()).count(why) > 1]
    assert len(general) > 20 and not set(general) & set(LOADED)


@pytest.mark.parametrize("family", PATTERNED)
def test_patterns_are_those_of_transformers(family):
    """A list that a config leaves out means what transformers makes of it."""
    config, values = configs(family)
    for key, pattern in FAMILIES[family].patterns.items():
        assert list(pattern(values, LAYERS)) == list(getattr(config, key)), key


@pytest.mark.parametrize("family", LISTED)
def test_dense_layers_are_those_of_transformers(family):
    config, values = configs(family)
    found = [FAMILIES[family].is_dense(values, i) for i in range(LAYERS)]
    assert found == [kind == "dense" for kind in config.mlp_layer_types]


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.routing])
def test_names_on_the_hub_are_those_that_transformers_converts(family):
    """Each pattern of names by which transformers makes its experts' tensors is in the family's table."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    suffixes = FAMILIES[family].axes
    for step in get_checkpoint_conversion_mapping(pico.AS.get(family, family)) or ():
        if not isinstance(step, WeightConverter):
            continue
        for name in step.source_patterns:
            if "experts.*" in name and "shared" not in name:
                end = name.replace("\\.", ".").replace("experts.*", "experts.{e}").rstrip("$")
                assert any(suffix.endswith(end.lstrip(".^")) for suffix in suffixes), name


@pytest.mark.parametrize("family", pico.each(pico.FAMILIES))
def test_what_is_named_otherwise_in_memory_has_the_same_matrices(family, sources):
    """A tensor in memory is one of the hub's of the same name, or of the same matrices stacked."""
    folder, _ = sources(family)
    naming = FAMILIES[family].naming
    hub = load_file(folder / "model.safetensors")
    places = {name: naming.parse(name) for name in hub}
    by_suffix = {(place.layer, end(place)): name for name, place in places.items()}
    for name, tensor in pico.load(folder).state_dict().items():
        place = naming.parse(name)
        if (place.layer, end(place)) in by_suffix or place.is_routed or "vision" in name or "projector" in name:
            continue
        inner = place.axes.names & set("FSI")
        parts = [
            [other for other, p in places.items() if p.layer == place.layer and p.axes.matrices == (matrix,)]
            for matrix in place.axes.matrices
        ]
        parts = [[n for n in names if places[n].axes.names & set("FSI") == inner] for names in parts]
        if {"lm_head", "embed_tokens"} & set(name.split(".")):
            continue
        assert parts and all(len(names) == 1 for names in parts), name
        assert torch.equal(torch.cat([hub[names[0]] for names in parts]), tensor), name


def end(place):
    return place.suffix if place.layer is not None else ".".join(place.suffix.split(".")[-2:])
