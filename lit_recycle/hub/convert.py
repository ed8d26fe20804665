"""Between Hugging Face folders and this project's checkpoints, for the families that our model expresses exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import load_whole_checkpoint, model_of
from lit_recycle.data.tokenizer import BYTES, EOS_NAMES, JsonTokenizer, Tokenizer
from lit_recycle.destination import check_destination
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.optimizer import name_state, number_state
from lit_recycle.hub.checksums import find_checksums, verified
from lit_recycle.hub.folder_tensors import FolderTensors, open_tensors
from lit_recycle.hub.native_config import read_native, to_hf
from lit_recycle.hub.native_names import Parts, hub_parts, native_shapes
from lit_recycle.hub.plan import FLOATS, GROWTH_FILE
from lit_recycle.hub.reader import HFFolder, open_folder, read_json
from lit_recycle.hub.shape import shape_of
from lit_recycle.hub.transform import TORCH, write
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.hub.writer import (
    OPTIMIZER_FILES,
    ShardFiles,
    Spec,
    lay_out,
    new_folder,
    parse_size,
    write_json,
)
from lit_recycle.model.config import MoEConfig

KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys of ``config.json`` that say nothing of the model's function, and go back out as they came in."""
KEPT_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Files that do so."""
OPTIMIZER, OPTIMIZER_GROUPS = OPTIMIZER_FILES
TOKENIZER = "tokenizer.json"
CODES = {dtype: code for code, dtype in TORCH.items()}


def import_folder(
    source: str | Path, destination: str | Path, *, dtype: str | None = None, checksums: str | Path | None = None
) -> MoEConfig:
    """Make a checkpoint that training goes on from, of a Hugging Face folder.

    Weights, tokenizer, and optimizer state where :func:`export_checkpoint` has left some. The whole model is held in
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
    folder = open_folder(source, checksums)
    config = read_native(folder.path, folder.config)
    parts = hub_parts(config, folder.config["model_type"])
    check_complete(folder, parts)
    state = [path for path in [folder.path / OPTIMIZER] if path.is_file()]
    with verified({**folder.checksums, **find_checksums(folder.path, state)}):
        weights = _read_weights(folder, config, parts, dtype)
        optimizer = _read_optimizer(folder.path, parts)
    checkpoint: dict[str, Any] = {
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
        "hyper_parameters": {"config": config.to_dict(), "growth": past_growths(folder.path)},
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
    save(checkpoint, destination)
    return config


def _read_weights(
    folder: HFFolder, config: MoEConfig, parts: Mapping[str, Parts], dtype: str | None
) -> dict[str, Tensor]:
    """A folder's weights by our names, as another type where one is given."""
    weights: dict[str, Tensor] = {}
    tensors = FolderTensors(folder)
    for name, shape in native_shapes(config).items():
        if name not in parts:
            weights[name] = weights["embed.weight"]
            continue
        tensor = parts[name].join(tensors)
        if tensor.shape != shape:
            raise ValueError(f"{folder.path}: {name} has shape {list(tensor.shape)}, config.json says {list(shape)}")
        weights[name] = tensor.to(getattr(torch, dtype)) if dtype and not name.endswith("balance_bias") else tensor
    return weights


def tokenizer_of(folder: HFFolder) -> dict[str, Any] | None:
    """The tokenizer that lies in a folder, as checkpoints keep it; None without one."""
    path = folder.path / TOKENIZER
    return JsonTokenizer(path.read_text(encoding="utf-8"), str(path)).to_dict() if path.is_file() else None


def kept_beside(folder: HFFolder, tokenizer: dict[str, Any] | None) -> dict[str, Any]:
    """What a folder says besides the model and its weights; it travels with the checkpoints of all runs from here."""
    files = {}
    for name in KEPT_FILES:
        if (folder.path / name).is_file():
            if name.endswith(".json"):
                read_json(folder.path / name)
            files[name] = (folder.path / name).read_text(encoding="utf-8")
    return {
        "config": {key: folder.config[key] for key in KEPT if key in folder.config},
        "files": files,
        "tokenizer": tokenizer and Tokenizer.from_dict(tokenizer).fingerprint,
    }


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


def export_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    family: str | None = None,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    optimizer: bool = False,
) -> str:
    """Write a Hugging Face folder of a checkpoint of this project, whole or sharded.

    Args:
        source: The checkpoint.
        destination: Folder to be written; must not exist.
        family: ``model_type`` to write; the first that expresses the model when not given.
        dtype: Type to convert weights to; as they are when not given.
        max_shard_size: Size of a safetensors file.
        optimizer: Write the optimizer's state too, under the same names, for a later import.

    Returns:
        The ``model_type`` written.

    Raises:
        ValueError: If no family, or not that family, expresses the model, or the checkpoint cannot be read.
    """
    checkpoint = load_whole_checkpoint(source)
    hyper = checkpoint["hyper_parameters"]
    if "model_type" in hyper["config"]:
        return _export_transformers(checkpoint, destination, family, dtype, max_shard_size, optimizer)
    shape = shape_of(hyper["config"])
    assert isinstance(shape, NativeModel)
    if optimizer and "reparam" in hyper["config"]:
        raise ValueError("the optimizer's state is of branches, which an export merges: leave out --optimizer")
    values = to_hf(shape.config, family)
    parts = hub_parts(shape.config, values["model_type"])
    weights = shape.merged({name.removeprefix("model."): t for name, t in checkpoint["state_dict"].items()})
    tensors = dict(_split(parts, weights, getattr(torch, dtype) if dtype else None))
    values["dtype"] = {code: name for name, code in FLOATS.items()}[CODES[tensors["model.norm.weight"].dtype]]
    shards = lay_out([_spec(name, t) for name, t in tensors.items()], parse_size(max_shard_size))
    state = dict(_optimizer_tensors(checkpoint, parts)) if optimizer else {}
    nbytes = sum(shard.nbytes for shard in shards) + sum(tensor.nbytes for tensor in state.values())
    with new_folder(Path(destination).expanduser(), nbytes) as folder:
        with ShardFiles(folder, shards) as files:
            for name, tensor in tensors.items():
                write(tensor, CODES[tensor.dtype], files[name])
        write_json(folder / "config.json", values | _beside_the_model(checkpoint))
        if hyper["growth"]:
            write_json(folder / GROWTH_FILE, {"growths": hyper["growth"]})
        _write_tokenizer(checkpoint, folder)
        if optimizer:
            _write_optimizer(checkpoint, state, folder)
    return values["model_type"]


def _export_transformers(
    checkpoint: Mapping[str, Any],
    destination: str | Path,
    family: str | None,
    dtype: str | None,
    max_shard_size: str | int,
    optimizer: bool,
) -> str:
    """As :func:`export_checkpoint`, of a model that was trained through transformers, which writes it."""
    hyper = checkpoint["hyper_parameters"]
    own = hyper["config"]["model_type"]
    if family not in (None, own):
        raise ValueError(f"{family} does not express this model: it is a {own} model of transformers")
    if optimizer:
        raise ValueError(f"the optimizer's state of a {own} model cannot be exported: leave --optimizer out")
    nbytes = sum(tensor.nbytes for tensor in checkpoint["state_dict"].values())
    with new_folder(Path(destination).expanduser(), nbytes) as folder:
        built = model_of(checkpoint)
        assert isinstance(built, TransformersModel)
        model = built.hf
        model.config.use_cache = True
        model.to(getattr(torch, dtype) if dtype else model.dtype)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        written = read_json(folder / "config.json")
        write_json(folder / "config.json", written | _beside_the_model(checkpoint))
        if hyper["growth"]:
            write_json(folder / GROWTH_FILE, {"growths": hyper["growth"]})
        _write_tokenizer(checkpoint, folder)
    return own


def _split(
    parts: Mapping[str, Parts], weights: Mapping[str, Tensor], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for name, part in parts.items():
        for hub_name, tensor in part.split(weights[name]):
            yield hub_name, tensor.to(dtype) if dtype and not name.endswith("balance_bias") else tensor


def _spec(name: str, tensor: Tensor) -> Spec:
    return Spec(name, CODES[tensor.dtype], tuple(tensor.shape))


def _tokenizer(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    return checkpoint.get("TextData", checkpoint).get("tokenizer")


def _beside_the_model(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the config says of the data: the tokens that begin and end a document, and how long one may be.

    Token ids are those of the folder that the model came from, unless it was trained with another tokenizer since.
    """
    hub, tokenizer = checkpoint.get("hub") or {}, _tokenizer(checkpoint)
    values = dict(hub.get("config", {}))
    if not _same_tokenizer(checkpoint):
        values = {key: value for key, value in values.items() if not key.endswith("_token_id")}
    if tokenizer is not None:
        values.setdefault("eos_token_id", Tokenizer.from_dict(tokenizer).eos_id)
    length = max(values.get("max_position_embeddings", 0), checkpoint.get("TextData", {}).get("seq_len", 0))
    return values | ({"max_position_embeddings": length} if length else {})


def _same_tokenizer(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the tokenizer is that of the folder which the model came from."""
    hub, tokenizer = checkpoint.get("hub") or {}, _tokenizer(checkpoint)
    return tokenizer is None or Tokenizer.from_dict(tokenizer).fingerprint == hub.get("tokenizer")


def _write_tokenizer(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """The files from which ``AutoTokenizer`` makes the tokenizer, and those that came in beside it."""
    if _same_tokenizer(checkpoint):
        for name, text in (checkpoint.get("hub") or {}).get("files", {}).items():
            if name in KEPT_FILES:  # a checkpoint names no places to write to
                (folder / name).write_text(text, encoding="utf-8")
    tokenizer = _tokenizer(checkpoint)
    if tokenizer is None:
        return
    text = _bytes_json() if tokenizer["kind"] == BYTES else tokenizer["json"]
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    if (folder / "tokenizer_config.json").exists():
        return
    eos_id = Tokenizer.from_dict(tokenizer).eos_id
    names = {added["id"]: added["content"] for added in json.loads(text).get("added_tokens", ())}
    eos = {"eos_token": names[eos_id]} if eos_id in names else {}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **eos})


def _bytes_json() -> str:
    """A ``tokenizer.json`` with the ids of :class:`ByteTokenizer`: each byte its own, and the end of a document."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    # Printable stand-ins for the 256 bytes, as byte-level tokenizers spell them since GPT-2.
    spelled = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace() and b != 0xAD]
    others = iter(range(256, 512))
    vocabulary = {chr(b if b in spelled else next(others)): b for b in range(256)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(EOS_NAMES[0], special=True)])
    return backend.to_str()


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
