"""This project's own checkpoints on disk: found, checked, and grown without a trainer.

A checkpoint is a Lightning checkpoint: one file, or a folder of shards. Nothing in one is ever unpickled.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_recycle.addresses import Place, place_of
from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.remote import checkpoints_at, on_disk
from lit_recycle.checkpoints.sharded import CURRENT, MASKS, NAMED, WEIGHTS
from lit_recycle.checksums import verify_archive
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.destination import check_destination, check_room
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Form, GrowthEvent, Trigger, operators_of
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.least_size import least_size
from lit_recycle.growth.masks import apply_masks, grow_masks
from lit_recycle.growth.measure import weight_facts
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.optimizer import check_optimizer_state, grow_optimizer_state, name_state, number_state
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.policy import OptimizerPolicy
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.shape import HubShape, shape_of
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.model.transformer import MoETransformer

if TYPE_CHECKING:
    from lightning import Trainer

AVERAGE = (CURRENT, "averaging_state")
"""What is in a checkpoint only because of an average."""


def checkpoint_folder(trainer: Trainer, dirpath: str | None = None) -> Place:
    """Where a callback of a run puts its checkpoints.

    Where it is told; or at the address to which ``ModelCheckpoint`` sends its own; or ``checkpoints`` in the run's
    folder.
    """
    if dirpath:
        return place_of(dirpath)
    return next(iter(_addresses(trainer)), Path(trainer.default_root_dir) / "checkpoints")


def checkpoint_folders(trainer: Trainer) -> set[Place]:
    """All folders that a run's callbacks write checkpoints to."""
    told = [c.dirpath for c in trainer.callbacks if getattr(c, "dirpath", None)]  # type: ignore[attr-defined]
    return {checkpoint_folder(trainer), *map(place_of, told)}


def _addresses(trainer: Trainer) -> list[str]:
    told = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    return [str(folder) for folder in told if folder and isinstance(place_of(folder), str)]


def checkpoints_of(trainer: Trainer) -> list[Place]:
    """What lies in the folders that a run's callbacks write checkpoints to, whole or not, the newest first."""
    found: list[tuple[float, Place]] = []
    for folder in checkpoint_folders(trainer):
        if isinstance(folder, str):
            found += checkpoints_at(folder)
        else:
            here = [path for pattern in ("*.ckpt", ".*.ckpt.old") for path in folder.glob(pattern)]
            # `last` may be a link to what a killed run was still writing.
            found += [(path.stat().st_mtime_ns / 1e9, path) for path in here if path.exists()]
    return [place for _, place in sorted(found, key=lambda pair: (pair[0], _last_number(pair[1])), reverse=True)]


def _last_number(place: Place) -> int:
    """That of a name, most often the step: stores tell times in seconds, in which several may have been saved."""
    return int((re.findall(r"\d+", str(place).rpartition("/")[2]) or [-1])[-1])


def is_leftover(path: Path) -> bool:
    """Whether a hidden file or folder among checkpoints is what a killed save has left, and nothing is lost with it."""
    if path.name.endswith(".part"):
        return True
    return path.name.endswith(".old") and path.with_name(path.name[1:].removesuffix(".old")).exists()


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """The newest whole checkpoint of a run; None before the first.

    Raises:
        ValueError: Where there are checkpoints and none of them is whole.
    """
    from lightning.pytorch.utilities.rank_zero import rank_zero_info  # reading a checkpoint needs no Lightning

    found = checkpoints_of(trainer)
    for place in found:
        try:
            path = on_disk(place)
            load_checkpoint(path)
        except ValueError as error:
            rank_zero_info(f"passed over: {error}")
        else:
            return path
    if found:
        folders = ", ".join(sorted({str(place).rpartition("/")[0] for place in found}))
        raise ValueError(f"no checkpoint in {folders} can be read: move them away to start afresh")
    return None


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


def grow_checkpoint(
    src: Path,
    dst: Path,
    *forms: Form,
    seed: int = 0,
    optimizer_state: OptimizerPolicy = "carry",
    maps: Sequence[Mapping[str, Any]] | None = None,
    expect: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Grow a checkpoint as the callback grows a run: weights, optimizer state and history; training goes on from it.

    Args:
        src: A checkpoint of this project.
        dst: Where the grown one is written; must not exist.
        *forms: Operators, or their short forms, one after the other.
        seed: Seed of all that is random.
        optimizer_state: What becomes of the optimizer's state; see :class:`GrowthEvent`.
        maps: The maps that another growth has recorded, for operators that choose by what only a run knows.
        expect: Called with a number of bytes that the weights have at least, before a plan that takes long is made.

    Raises:
        ValueError: For a source that cannot be read or grown, a destination that exists, or a disk with too little room
            for what is surely too large.
    """
    src, dst = Path(src), Path(dst)
    check_destination(dst)
    checkpoint = load_whole_checkpoint(src)
    saved, weights, operators = checkpoint["hyper_parameters"], trained_weights(checkpoint), operators_of(forms)

    def find_room(nbytes: int) -> None:
        check_room(dst, nbytes, at_least=True)
        expect(nbytes)

    plan = plan_checkpoint_growth(checkpoint, *operators, seed=seed, maps=maps, expect=find_room)
    counters = checkpoint.get("progress", {})
    progress = Progress(
        checkpoint.get("global_step", 0), counters.get("tokens_seen", 0), counters.get("flops_spent", 0)
    )
    event = GrowthEvent(Trigger(steps=progress.steps), grow=operators, optimizer_state=optimizer_state)
    record = GrowthRecord.of(event, progress, plan, weights)
    states = checkpoint.get("optimizer_states", [])
    checkpoint["optimizer_states"] = [_grow_optimizer(plan, s, weights, optimizer_state) for s in states]
    for key in checkpoint.keys() & WEIGHTS:
        checkpoint[key] = dict(grow_tensors(plan, dict(checkpoint[key])))
    if MASKS in checkpoint:
        checkpoint[MASKS] = grow_masks(plan, checkpoint[MASKS])
        apply_masks(trained_weights(checkpoint), checkpoint[MASKS])  # noise on copies is over pruned weights, too
    checkpoint["hyper_parameters"] = saved | {
        "config": record.after,
        "growth": [*saved["growth"], record.to_dict()],
    }
    save(checkpoint, dst)


def plan_checkpoint_growth(
    checkpoint: Mapping[str, Any],
    *forms: Form,
    seed: int = 0,
    maps: Sequence[Mapping[str, Any]] | None = None,
    expect: Callable[[int], None] = lambda nbytes: None,
) -> GrowthPlan:
    """Plan a growth of a checkpoint that is loaded; see :func:`grow_checkpoint`."""
    saved, weights = checkpoint["hyper_parameters"], trained_weights(checkpoint)
    shape, operators = shape_of(saved["config"]), operators_of(forms)
    if maps is None:
        per_parameter = sum(tensor.nbytes for tensor in weights.values()) / shape.num_params()
        expect(least_size(shape, operators, lambda small: _nbytes(shape, small, per_parameter)))
    return plan_growth(
        shape,
        operators,
        seed=seed,
        event=len(saved["growth"]),
        facts=lambda model: weight_facts(model, weights),
        maps=maps,
    )


def _nbytes(shape: Shape, operators: Sequence[Operator], per_parameter: float) -> int:
    """Bytes of the weights alone of what operators make of a model."""
    after = plan_growth(shape, operators, facts=Unmeasured).after
    assert isinstance(after, Shape)
    return int(after.num_params() * per_parameter)


def _grow_optimizer(
    plan: GrowthPlan, saved: dict[str, Any], weights: dict[str, torch.Tensor], policy: OptimizerPolicy
) -> dict[str, Any]:
    """An optimizer's ``state_dict``, grown."""
    named = name_state(saved)
    if policy != "reset":
        check_optimizer_state(named["state"], {name: t.shape for name, t in weights.items()}, "the optimizer")
    groups = [group | {"param_names": plan.parameters(group["param_names"])} for group in named["param_groups"]]
    state = grow_optimizer_state(plan, named["state"], policy, "the optimizer")
    return number_state({"state": state, "param_groups": groups})
