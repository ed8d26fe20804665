"""Makes a checkpoint of a Hugging Face folder, for the families that our model expresses exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from lit_recycle.checkpoints.atomic import save
from lit_recycle.destination import check_destination
from lit_recycle.growth.history import of_earlier_run
from lit_recycle.growth.optimizer import number_state
from lit_recycle.hub.beside import kept_beside, tokenizer_of
from lit_recycle.hub.checksums import find_checksums, verified
from lit_recycle.hub.dequantize import plain_weights
from lit_recycle.hub.folder_tensors import open_tensors
from lit_recycle.hub.mtp import split_off
from lit_recycle.hub.native_config import read_native
from lit_recycle.hub.native_names import Parts, hub_parts, native_shapes
from lit_recycle.hub.plan import GROWTH_FILE
from lit_recycle.hub.reader import HFFolder, open_folder, read_json
from lit_recycle.hub.transform import converted
from lit_recycle.hub.writer import OPTIMIZER_FILES
from lit_recycle.model.config import MoEConfig

OPTIMIZER, OPTIMIZER_GROUPS = OPTIMIZER_FILES


def import_folder(
    source: str | Path, destination: str | Path, *, dtype: str | None = None, checksums: str | Path | None = None
) -> MoEConfig:
    """Make a checkpoint that training goes on from, of a Hugging Face folder.

    Weights, tokenizer, and optimizer state where an export has left some. The whole model is held in
    memory, as training it will.

    Args:
        source: Folder of a family that our model expresses (``native_config.expressible``).
        destination: Checkpoint file to be written; must not exist.
        dtype: Type to convert weights to; as they are when not given.
        checksums: A file with the SHA-256 of the source's files; those that the folder has itself when not given.

    Returns:
        The shape of the model.

    Raises:
        ValueError: If our model does not express the source exactly, or a file is missing or damaged.
    """
    destination = Path(destination).expanduser()
    check_destination(destination)
    folder, tensors = plain_weights(open_folder(source, checksums))
    config = read_native(folder.path, folder.config)
    parts = hub_parts(config, folder.config["model_type"])
    folder, mtp = split_off(folder)
    check_complete(folder, parts)
    if found := next((stored for stored in folder.tensors.values() if stored.dtype[0] in "IU"), None):
        raise ValueError(f"{found.origin} holds integers, and config.json says no quantisation: give the plain weights")
    state = [path for path in [folder.path / OPTIMIZER] if path.is_file()]
    with verified({**folder.checksums, **find_checksums(folder.path, state)}):
        weights = _read_weights(folder, tensors, config, parts, dtype)
        optimizer = _read_optimizer(folder.path, parts)
    checkpoint: dict[str, Any] = {
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
        "hyper_parameters": {"config": config.to_dict(), "growth": of_earlier_run(past_growths(folder.path))},
        "progress": {"samples_seen": 0, "tokens_seen": 0, "flops_spent": 0},
        "optimizer_states": optimizer,
        "lr_schedulers": [],
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
    }
    if tokenizer := tokenizer_of(folder):
        checkpoint["tokenizer"] = tokenizer
    checkpoint["hub"] = kept_beside(folder, tokenizer)
    if mtp:
        past = len(checkpoint["hyper_parameters"]["growth"])
        checkpoint["hub"]["mtp"] = {"folder": str(folder.path.resolve()), "growths": past}
    save(checkpoint, destination)
    return config


def _read_weights(
    folder: HFFolder,
    tensors: Mapping[str, Tensor],
    config: MoEConfig,
    parts: Mapping[str, Parts],
    dtype: str | None,
) -> dict[str, Tensor]:
    """A folder's weights by our names, as another type where one is given."""
    weights: dict[str, Tensor] = {}
    for name, shape in native_shapes(config).items():
        if name not in parts:
            weights[name] = weights["embed.weight"]
            continue
        tensor = parts[name].join(tensors)
        if tensor.shape != shape:
            raise ValueError(f"{folder.path}: {name} has shape {list(tensor.shape)}, config.json says {list(shape)}")
        if dtype and not name.endswith("balance_bias"):
            tensor = converted(tensor, getattr(torch, dtype), f"{folder.path}: {name}")
        weights[name] = tensor
    return weights


def check_complete(folder: HFFolder, parts: Mapping[str, Parts]) -> None:
    """Nothing missing, and nothing there that would be left out."""
    used: set[str] = set()
    for part in parts.values():
        names = {name for names in part.names for name in names}
        used |= {part.fused} if part.fused is not None and part.fused in folder.tensors else names
    missing = sorted(used - folder.tensors.keys())
    if missing:
        raise ValueError(f"{folder.path} has no tensor {missing[0]}; fetch its files again")
    left = {name for name in folder.tensors if not name.endswith("rotary_emb.inv_freq")} - used
    if folder.config.get("tie_word_embeddings"):
        left -= {"lm_head.weight"}
    if left:
        raise ValueError(f"{folder.path} holds {min(left)}, which our model has no place for")


def past_growths(folder: Path) -> list[dict[str, Any]]:
    """Past growths, if this project's own training has written them all."""
    path = folder / GROWTH_FILE
    growths = read_json(path)["growths"] if path.is_file() else []
    return growths if all("before" in growth and "after" in growth for growth in growths) else []


def _read_optimizer(folder: Path, parts: Mapping[str, Parts]) -> list[dict[str, Any]]:
    if not (folder / OPTIMIZER).is_file():
        return []
    with open_tensors(folder / OPTIMIZER) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    keys = sorted({name.rsplit("/", 1)[1] for name in tensors})
    state: dict[str, dict[str, Tensor]] = {}
    for name, part in parts.items():
        first = part.names[0][0]
        for key in (key for key in keys if f"{first}/{key}" in tensors):
            held = {n: tensors[f"{n}/{key}"] for names in part.names for n in names}
            whole = held[first] if held[first].dim() == 0 else part.join(held)
            state.setdefault(f"model.{name}", {})[key] = whole
    return [number_state({"state": state, "param_groups": read_json(folder / OPTIMIZER_GROUPS)})]
