"""This project's own checkpoints on disk: read once they are checked, as models or as what they hold.

A checkpoint is a Lightning checkpoint: one file, or a folder of shards. Nothing in one is ever unpickled.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_recycle.addresses import Place
from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.remote import on_disk
from lit_recycle.checkpoints.sharded import CURRENT, NAMED
from lit_recycle.checksums import verify_archive
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.destination import check_destination
from lit_recycle.growth.optimizer import number_state
from lit_recycle.hub.shape import HubShape, shape_of
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.model.transformer import MoETransformer

if TYPE_CHECKING:
    pass

AVERAGE = (CURRENT, "averaging_state")
"""What is in a checkpoint only because of an average."""


def load_checkpoint(path: Place, shards: bool = True) -> dict[str, Any]:
    """A checkpoint's contents, tensors mapped from disk where the format allows it, once its checksums hold.

    Args:
        path: A checkpoint of this project, or its address. Of a sharded one all but the tensors is read.
        shards: Verify the shards of a sharded one, too. Where several processes are connected all must take part, and
            each reads its share.

    Raises:
        ValueError: For a file that is missing, damaged, foreign, or holds more than plain types and tensors.
    """
    path = file = on_disk(path)
    if path.is_dir():
        _refuse_other_folders(path)
        file = path / sharded.METADATA
        if not (file.is_file() and (path / sharded.INDEX).is_file()):
            raise ValueError(f"{path} is no sharded checkpoint, or one that was cut off in writing: use an older one")
    if not file.exists():
        raise ValueError(f"there is no checkpoint at {path}")
    verify_archive(file)
    checkpoint = _plain_load(file)
    hyper = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(hyper, dict) or not {"config", "growth"} <= hyper.keys():
        raise ValueError(
            f"{path} was not written by lit-recycle (it holds no model config): bring a Hugging Face model in with "
            "`lit-recycle import`"
        )
    needed = {"global_step", "optimizers", "checksums"} if path.is_dir() else {"global_step", "state_dict"}
    if missing := needed - checkpoint.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: it is no whole checkpoint; use an older one")
    if path.is_dir():
        sharded.verify(path, checkpoint["checksums"], shards)
        sharded.sizes(path)  # raises for an index that is none: before a run prepares its data
    return checkpoint


def _plain_load(path: Path) -> Any:
    """``torch.load`` of tensors and plain types; raises ``ValueError`` for all that goes wrong."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it all the same.
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise ValueError(
            f"{path} holds more than tensors and plain types{what}, which is never loaded: give a checkpoint of this "
            "program's own"
        ) from error
    except OSError:
        raise
    except Exception as error:  # an unpickler that meets nonsense raises whatever comes along
        reason = str(error).partition("weights_only")[0]
        raise ValueError(f"{path} is no checkpoint, or a damaged one: use an older one ({reason})") from error


def _refuse_other_folders(path: Path) -> None:
    """Folders that are taken for a checkpoint, each with the way on."""
    if (path / "config.json").is_file():
        raise ValueError(
            f"{path} is a Hugging Face folder and no checkpoint of a run: train it with --model.init_from {path}, or "
            f"make a checkpoint of it with `lit-recycle import {path} model.ckpt`"
        )
    if found := sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")], key=lambda p: p.stat().st_mtime_ns):
        raise ValueError(f"{path} is a folder of checkpoints: give one of them, the newest is {found[-1]}")


def load_whole_checkpoint(path: Place, scratch: Path | None = None) -> dict[str, Any]:
    """A checkpoint with all its tensors, whether it is one file or sharded, as Lightning has it on one device.

    Args:
        path: A checkpoint of this project, or its address.
        scratch: A folder in which the tensors of a sharded checkpoint are laid out on disk instead of in memory.
    """
    path = on_disk(path)
    rest = load_checkpoint(path)
    if not path.is_dir():
        return rest
    tensors = sharded.load_whole(path, scratch)
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition("/")
        if kind in NAMED:
            weights.setdefault(kind, {})[parameter] = tensor
    optimizers = [number_state(sharded.join(tensors, rest, i)) for i in range(len(rest["optimizers"]))]
    del rest["optimizers"]
    return rest | weights | {"optimizer_states": optimizers}


def read_hyperparameters(path: Place) -> dict[str, Any]:
    """What a checkpoint says of its model: shape, past growths, coefficients. Plain types; tensors are not read."""
    return load_checkpoint(path, shards=False)["hyper_parameters"]


def load_model(path: Place) -> tuple[MoETransformer | TransformersModel, Tokenizer]:
    """The model of a checkpoint, ready for evaluation, and the tokenizer that it was trained with."""
    checkpoint = load_whole_checkpoint(path)
    model = model_of(checkpoint)
    tokenizer = checkpoint.get("TextData", checkpoint).get("tokenizer")
    if tokenizer is None:
        raise ValueError(f"{path} holds no tokenizer: it was not trained on TextData")
    return model.eval(), Tokenizer.from_dict(tokenizer)


def trained_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights with which training goes on, which are not those under ``state_dict`` beside an average."""
    return checkpoint.get(CURRENT, checkpoint["state_dict"])


def model_of(checkpoint: Mapping[str, Any]) -> MoETransformer | TransformersModel:
    """The model of a whole checkpoint, with its weights."""
    shape = shape_of(checkpoint["hyper_parameters"]["config"])
    model: MoETransformer | TransformersModel
    with torch.device("meta"):
        if isinstance(shape, HubShape):
            model = TransformersModel(shape)
        else:
            model = shape.prepared(MoETransformer(shape.config))
    weights = {name.removeprefix("model."): tensor for name, tensor in checkpoint["state_dict"].items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def consolidate(src: Place, dst: Path) -> None:
    """Make one file of a sharded checkpoint. Tensors pass through a scratch file beside ``dst``, not through memory.

    Raises:
        ValueError: For a source that is no whole sharded checkpoint, or a destination that exists.
    """
    src, dst = on_disk(src), Path(dst)
    if not src.is_dir():
        raise ValueError(f"{src} is no sharded checkpoint: only a folder can be consolidated")
    check_destination(dst)
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dst.parent, prefix=f".{dst.name}.scratch-") as scratch:
        save(load_whole_checkpoint(src, Path(scratch)), dst)
