"""A checkpoint of branches merged for good into one of plain matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import AVERAGE, load_whole_checkpoint
from lit_recycle.destination import check_destination
from lit_recycle.hub.shape import shape_of
from lit_recycle.reparam.model import BranchedModel

PREFIX = "model."


def merge_branches(source: Path, destination: Path) -> BranchedModel:
    """Write a checkpoint whose matrices are what the model in training has made of its branches.

    It has no optimizer state, which belongs to branches; a run starts from it with ``model.init_from``.

    Args:
        source: A checkpoint of this project, a file or a folder of shards, of a model with branches.
        destination: The file to write; must not exist.

    Returns:
        The shape of the source.

    Raises:
        ValueError: For a checkpoint without branches, or a destination that exists.
    """
    check_destination(destination)
    checkpoint = load_whole_checkpoint(source)
    hyper = checkpoint["hyper_parameters"]
    if "reparam" not in hyper["config"]:
        raise ValueError(f"{source} was trained without branches: there is nothing to merge")
    shape = shape_of(hyper["config"])
    assert isinstance(shape, BranchedModel)
    weights = checkpoint["state_dict"]
    plain = {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}
    own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items() if name not in plain}
    plain |= {f"{PREFIX}{name}": tensor for name, tensor in shape.merged(own).items()}
    kept = {key: value for key, value in checkpoint.items() if key not in AVERAGE}
    growth = [{**record, **{key: _plain(record[key]) for key in ("before", "after")}} for record in hyper["growth"]]
    made: dict[str, Any] = {**kept, "state_dict": plain, "optimizer_states": [], "lr_schedulers": []}
    made["hyper_parameters"] = hyper | {"config": _plain(hyper["config"]), "growth": growth}
    save(made, destination)
    return shape


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "reparam"}
