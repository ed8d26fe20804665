"""Writes a Hugging Face folder of a checkpoint, one layer after the other: the model is never held whole.

A checkpoint's weights are read when they are needed, from the shards that hold them or from the mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.native import load_checkpoint, load_whole_checkpoint
from lit_recycle.checkpoints.remote import on_disk
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.optimizer import name_state
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.beside import said_beside, write_beside
from lit_recycle.hub.export_form import OWN, Form, form_of
from lit_recycle.hub.mtp import grown_layers, with_mtp_layers
from lit_recycle.hub.native_config import HFConfig
from lit_recycle.hub.native_names import hub_parts
from lit_recycle.hub.plan import GROWTH_FILE
from lit_recycle.hub.reader import FLOATS, HFFolder
from lit_recycle.hub.run_card import write_run_card
from lit_recycle.hub.shape import HubShape, shape_of
from lit_recycle.hub.transform import TORCH, converted, write
from lit_recycle.hub.writer import (
    OPTIMIZER_FILES,
    SHARD_SIZE,
    ShardFiles,
    Spec,
    lay_out,
    new_folder,
    parse_size,
    write_json,
)

OPTIMIZER, OPTIMIZER_GROUPS = OPTIMIZER_FILES
CODES = {dtype: code for code, dtype in TORCH.items()}


def export_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    family: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | int = SHARD_SIZE,
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
    shape = shape_of(checkpoint["hyper_parameters"]["config"])
    if optimizer:
        _check_optimizer(shape)
    form = form_of(shape, family)
    model = _Model(form, _plain_weights(checkpoint, path, shape), getattr(torch, dtype) if dtype else None)
    mtp_from, mtp = (None, {}) if drop_mtp else _mtp_layers(checkpoint)
    specs = [*model.specs(), *starmap(_spec, mtp.items())]
    shards = lay_out(specs, parse_size(max_shard_size))
    state = _optimizer_tensors(checkpoint, shape, form) if optimizer else {}
    nbytes = sum(shard.nbytes for shard in shards) + sum(tensor.nbytes for tensor in state.values())
    with new_folder(Path(destination).expanduser(), nbytes) as folder:
        with ShardFiles(folder, shards) as files:
            model.write(files)
            for name, tensor in mtp.items():
                write(tensor, CODES[tensor.dtype], files[name])
        write_json(folder / "config.json", _config(checkpoint, form, specs[0].dtype, mtp_from))
        if form.generation:
            write_json(folder / "generation_config.json", form.generation)
        if growths := checkpoint["hyper_parameters"]["growth"]:
            write_json(folder / GROWTH_FILE, {"growths": growths})
        write_beside(checkpoint, folder)
        write_run_card(checkpoint, shape, form.config["model_type"], folder)
        if optimizer:
            _write_optimizer(checkpoint, state, folder)
    return str(form.config["model_type"])


class _Model(NamedTuple):
    """A model on its way into a folder, one group of weights after the other.

    Attributes:
        form: How it is written.
        weights: Its weights by name within the LightningModule, each read when it is asked for.
        dtype: Type to convert them to.
    """

    form: Form
    weights: Mapping[str, Tensor]
    dtype: torch.dtype | None

    def specs(self) -> list[Spec]:
        """What will be written; nothing is read."""
        return [_spec(*named) for group in self.form.groups for named in self._converted(group, _like(self.weights))]

    def write(self, files: ShardFiles) -> None:
        """Write it; nothing of a group is held any more before the next one is read."""
        for group in self.form.groups:
            self._write_group(group, files)

    def _write_group(self, group: Sequence[str], files: ShardFiles) -> None:
        for name, tensor in self._converted(group, self.weights.__getitem__):
            write(tensor, CODES[tensor.dtype], files[name])

    def _converted(self, group: Sequence[str], read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """A group's tensors on the hub, one after the other."""
        tensors = {name: read(name) for name in group}
        if self.dtype is not None:
            kept = {n for n, t in tensors.items() if self.form.keeps_type(n) or not t.is_floating_point()}
            tensors = {n: t if n in kept else converted(t, self.dtype, n) for n, t in tensors.items()}
        yield from self.form.convert(tensors).items()


def _check_optimizer(shape: Shape) -> None:
    """Raises ``ValueError`` for a model whose optimizer's state has no form on the hub."""
    if isinstance(shape, HubShape):
        own = shape.config["model_type"]
        raise ValueError(f"the optimizer's state of a {own} model cannot be exported: leave --optimizer out")
    if "reparam" in shape.to_dict():
        raise ValueError("the optimizer's state is of branches, which an export merges: leave out --optimizer")


def _plain_weights(checkpoint: Mapping[str, Any], path: Path, shape: Shape) -> Mapping[str, Tensor]:
    """A checkpoint's weights, read when they are asked for; where they are branches, merged."""
    weights: Mapping[str, Tensor] = checkpoint["state_dict"] if "state_dict" in checkpoint else sharded.Stored(path)
    if not isinstance(shape, NativeModel) or "reparam" not in shape.to_dict():
        return weights
    plain = shape.merged({name.removeprefix(OWN): tensor for name, tensor in weights.items()})
    return {f"{OWN}{name}": tensor for name, tensor in plain.items()}


def _mtp_layers(checkpoint: Mapping[str, Any]) -> tuple[HFFolder | None, Mapping[str, Tensor]]:
    """Layers for multi-token prediction of the folder that the model came from, grown as it was, and that folder."""
    kept = (checkpoint.get("hub") or {}).get("mtp")
    return grown_layers(kept, checkpoint["hyper_parameters"]["growth"]) if kept else (None, {})


def _config(checkpoint: Mapping[str, Any], form: Form, code: str, mtp_from: HFFolder | None) -> HFConfig:
    """What ``config.json`` says; ``code`` is the weights' type, as safetensors calls it."""
    dtype = {of: name for name, of in FLOATS.items()}[code]
    return with_mtp_layers(form.config, mtp_from) | {"dtype": dtype} | said_beside(checkpoint)


def _like(weights: Mapping[str, Tensor]) -> Callable[[str], Tensor]:
    """Tensors of the weights' shapes and types that hold nothing."""
    if isinstance(weights, sharded.Stored):
        return weights.like
    return lambda name: torch.empty_like(weights[name], device="meta")


def _spec(name: str, tensor: Tensor) -> Spec:
    return Spec(name, CODES[tensor.dtype], tuple(tensor.shape))


def _optimizer_tensors(checkpoint: Mapping[str, Any], shape: Shape, form: Form) -> dict[str, Tensor]:
    """State as ``{hub name}/{key}``."""
    assert isinstance(shape, NativeModel)
    states = checkpoint.get("optimizer_states") or []
    if len(states) != 1:
        raise ValueError("the checkpoint holds no optimizer state: leave out --optimizer")
    parts = hub_parts(shape.config, form.config["model_type"])
    return {
        f"{hub_name}/{key}": part
        for name, state in name_state(states[0])["state"].items()
        for key, value in state.items()
        for hub_name, part in parts[name.removeprefix(OWN)].split(torch.as_tensor(value))
    }


def _write_optimizer(checkpoint: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    # A scalar stands at several names, and safetensors stores no memory twice.
    save_file({name: t.contiguous() if t.dim() else t.clone() for name, t in tensors.items()}, folder / OPTIMIZER)
    write_json(folder / OPTIMIZER_GROUPS, name_state(checkpoint["optimizer_states"][0])["param_groups"])
