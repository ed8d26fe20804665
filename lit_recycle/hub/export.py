"""Writes a Hugging Face folder of a checkpoint, one layer after the other: the model is never held whole.

A checkpoint's weights are read when they are needed, from the shards that hold them or from the mapped file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.native import load_checkpoint, load_whole_checkpoint
from lit_recycle.checkpoints.remote import on_disk
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.optimizer import name_state
from lit_recycle.hub.beside import said_beside, write_beside
from lit_recycle.hub.mtp import grown_layers, with_mtp_layers
from lit_recycle.hub.native_config import HFConfig, to_hf
from lit_recycle.hub.native_names import Parts, hub_parts
from lit_recycle.hub.plan import FLOATS, GROWTH_FILE
from lit_recycle.hub.run_card import write_run_card
from lit_recycle.hub.shape import INSIDE, HubShape, build, shape_of
from lit_recycle.hub.transform import TORCH, write
from lit_recycle.hub.writer import OPTIMIZER_FILES, ShardFiles, Spec, lay_out, new_folder, parse_size, write_json

OPTIMIZER, OPTIMIZER_GROUPS = OPTIMIZER_FILES
CODES = {dtype: code for code, dtype in TORCH.items()}


class Form(NamedTuple):
    """How a model is written.

    Attributes:
        config: Its ``config.json``.
        groups: Names of weights that are converted together.
        convert: The hub's tensors, by name, of such a group.
        keeps_type: Whether a weight is not converted to another type with the rest.
        generation: Its ``generation_config.json``, if it has one.
    """

    config: HFConfig
    groups: Sequence[Sequence[str]]
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
    keeps_type: Callable[[str], bool]
    generation: HFConfig | None = None


def export_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    family: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    optimizer: bool = False,
    drop_mtp: bool = False,
) -> str:
    """Write a Hugging Face folder of a checkpoint of this project, whole or sharded.

    Args:
        source: The checkpoint.
        destination: Folder to be written; must not exist.
        family: ``model_type`` to write; the first that expresses the model when not given.
        dtype: Type to convert weights to, but for balancing biases; as they are when not given.
        max_shard_size: Size of a safetensors file.
        optimizer: Write the optimizer's state too, under the same names, for a later import.
        drop_mtp: Leave out the layers for multi-token prediction of the folder that the model came from.

    Returns:
        The ``model_type`` written.

    Raises:
        ValueError: If no family, or not that family, expresses the model, or the checkpoint cannot be read.
    """
    path = on_disk(source)
    checkpoint = load_whole_checkpoint(path) if optimizer else load_checkpoint(path)
    hyper = checkpoint["hyper_parameters"]
    shape = shape_of(hyper["config"])
    weights: Mapping[str, Tensor] = checkpoint["state_dict"] if "state_dict" in checkpoint else sharded.Stored(path)
    if isinstance(shape, HubShape):
        form = _of_transformers(shape, family, optimizer)
    else:
        assert isinstance(shape, NativeModel)
        if "reparam" in hyper["config"]:
            if optimizer:
                raise ValueError("the optimizer's state is of branches, which an export merges: leave out --optimizer")
            plain = shape.merged({name.removeprefix(OWN): tensor for name, tensor in weights.items()})
            weights = {f"{OWN}{name}": tensor for name, tensor in plain.items()}
        form = _of_ours(shape, family)
    wanted = getattr(torch, dtype) if dtype else None
    specs = [_spec(name, t) for group in form.groups for name, t in _converted(form, group, _like(weights), wanted)]
    kept = None if drop_mtp else (checkpoint.get("hub") or {}).get("mtp")
    folder_of_mtp, mtp = grown_layers(kept, hyper["growth"]) if kept else (None, {})
    specs += [_spec(name, tensor) for name, tensor in mtp.items()]
    shards = lay_out(specs, parse_size(max_shard_size))
    state: dict[str, Tensor] = {}
    if optimizer:
        assert isinstance(shape, NativeModel)
        state = dict(_optimizer_tensors(checkpoint, hub_parts(shape.config, form.config["model_type"])))
    nbytes = sum(shard.nbytes for shard in shards) + sum(tensor.nbytes for tensor in state.values())
    with new_folder(Path(destination).expanduser(), nbytes) as folder:
        with ShardFiles(folder, shards) as files:
            for group in form.groups:
                _write_group(form, group, weights, wanted, files)
            for name, tensor in mtp.items():
                write(tensor, CODES[tensor.dtype], files[name])
        held = {code: name for name, code in FLOATS.items()}[specs[0].dtype]
        config = with_mtp_layers(form.config, folder_of_mtp)
        write_json(folder / "config.json", config | {"dtype": held} | said_beside(checkpoint))
        if hyper["growth"]:
            write_json(folder / GROWTH_FILE, {"growths": hyper["growth"]})
        if form.generation:
            write_json(folder / "generation_config.json", form.generation)
        write_beside(checkpoint, folder)
        write_run_card(checkpoint, shape, form.config["model_type"], folder)
        if optimizer:
            _write_optimizer(checkpoint, state, folder)
    return form.config["model_type"]


OWN = "model."
"""What stands before the names of our own model's weights."""


def _of_ours(shape: NativeModel, family: str | None) -> Form:
    config = to_hf(shape.config, family)
    parts = hub_parts(shape.config, config["model_type"])

    def convert(group: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t for name, tensor in group.items() for n, t in parts[name.removeprefix(OWN)].split(tensor)}

    return Form(config, [[f"{OWN}{name}"] for name in parts], convert, lambda name: name.endswith("balance_bias"))


def _of_transformers(shape: HubShape, family: str | None, optimizer: bool) -> Form:
    """As transformers writes it: it is asked to turn its own names and layout into those of the hub, layer by layer."""
    from transformers.core_model_loading import revert_weight_conversion  # what ``save_pretrained`` calls

    own = str(shape.config["model_type"])
    if family not in (None, own):
        raise ValueError(f"{family} does not express this model: it is a {own} model of transformers")
    if optimizer:
        raise ValueError(f"the optimizer's state of a {own} model cannot be exported: leave --optimizer out")
    with torch.device("meta"):
        model = build(shape.config)
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    layers: dict[int, list[str]] = {}
    for name in model.state_dict():
        if name not in left_out:
            layer = shape.naming.parse(f"{INSIDE}{name}").layer
            layers.setdefault(-1 if layer is None else layer, []).append(f"{INSIDE}{name}")
    model.config.architectures = [type(model).__name__]

    def convert(group: dict[str, Tensor]) -> dict[str, Tensor]:
        return revert_weight_conversion(model, {name.removeprefix(INSIDE): tensor for name, tensor in group.items()})

    config = json.loads(model.config.to_json_string()) | {"use_cache": True}
    generation = json.loads(model.generation_config.to_json_string()) if model.can_generate() else None
    groups, naming = list(layers.values()), shape.naming
    return Form(config, groups, convert, lambda name: naming.parse(name).axes.label == "balance", generation)


def _write_group(
    form: Form, group: Sequence[str], weights: Mapping[str, Tensor], dtype: torch.dtype | None, files: ShardFiles
) -> None:
    """Write a group; nothing of it is held any more before the next one is read."""
    for name, tensor in _converted(form, group, weights.__getitem__, dtype):
        write(tensor, CODES[tensor.dtype], files[name])


def _like(weights: Mapping[str, Tensor]) -> Callable[[str], Tensor]:
    """Tensors of the weights' shapes and types that hold nothing."""
    if isinstance(weights, sharded.Stored):
        return weights.like
    return lambda name: torch.empty_like(weights[name], device="meta")


def _converted(
    form: Form, group: Sequence[str], read: Callable[[str], Tensor], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """A group's tensors on the hub, one after the other."""
    tensors = {name: read(name) for name in group}
    if dtype is not None:
        tensors = {n: t if form.keeps_type(n) or not t.is_floating_point() else t.to(dtype) for n, t in tensors.items()}
    yield from form.convert(tensors).items()


def _spec(name: str, tensor: Tensor) -> Spec:
    return Spec(name, CODES[tensor.dtype], tuple(tensor.shape))


def _optimizer_tensors(checkpoint: Mapping[str, Any], parts: Mapping[str, Parts]) -> Iterator[tuple[str, Tensor]]:
    """State as ``{hub name}/{key}``."""
    states = checkpoint.get("optimizer_states") or []
    if len(states) != 1:
        raise ValueError("the checkpoint holds no optimizer state: leave out --optimizer")
    for name, state in name_state(states[0])["state"].items():
        for key, value in state.items():
            for hub_name, part in parts[name.removeprefix("model.")].split(torch.as_tensor(value)):
                yield f"{hub_name}/{key}", part


def _write_optimizer(checkpoint: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    # A scalar stands at several names, and safetensors stores no memory twice.
    save_file({name: t.contiguous() if t.dim() else t.clone() for name, t in tensors.items()}, folder / OPTIMIZER)
    write_json(folder / OPTIMIZER_GROUPS, name_state(checkpoint["optimizer_states"][0])["param_groups"])
