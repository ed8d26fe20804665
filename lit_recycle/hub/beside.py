"""What a folder says besides its model: tokenizer, special tokens, templates; kept in checkpoints, written again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_recycle.data.tokenizer import BYTES, EOS_NAMES, JsonTokenizer, Tokenizer
from lit_recycle.hub.reader import HFFolder, read_json
from lit_recycle.hub.writer import write_json

KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys of ``config.json`` that say nothing of the model's function, and go back out as they came in."""
KEPT_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Files that do so."""
TOKENIZER = "tokenizer.json"


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


def _tokenizer(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    return checkpoint.get("TextData", checkpoint).get("tokenizer")


def said_beside(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
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


def write_beside(checkpoint: Mapping[str, Any], folder: Path) -> None:
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
