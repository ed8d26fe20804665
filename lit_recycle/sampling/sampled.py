"""A model to sample from, and its tokenizer: a Hugging Face folder of any causal language model, or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_recycle.checkpoints.native import load_checkpoint, load_model

LENGTH = 2048
"""Of what does not say how much it reads."""


@dataclass(frozen=True)
class Sampled:
    """A model and how text becomes its tokens.

    Attributes:
        model: in the interface of `lit_recycle.sampling.generate`, in evaluation mode.
        encode: ids of a text, with nothing added.
        prompt: ids of a request, laid out as a chat where the model was trained for one.
        decode: text of ids.
        ends: ids that end a text.
        allowed: only ids below this are sampled.
        max_length: tokens that it was trained to read.
    """

    model: nn.Module
    encode: Callable[[str], list[int]]
    prompt: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    ends: frozenset[int]
    allowed: int
    max_length: int


def load_sampled(path: str, device: str) -> Sampled:
    """A Hugging Face folder, with its own types of numbers, or a checkpoint of this project.

    Raises:
        ValueError: there is no such thing, or it has no tokenizer.
    """
    place = Path(path).expanduser()
    if (place / "config.json").is_file():
        return _of_folder(place, device)
    model, tokenizer = load_model(place)
    data = load_checkpoint(place, shards=False).get("TextData", {})
    return Sampled(
        model.to(device),
        lambda text: tokenizer.encode(text).tolist(),
        lambda text: tokenizer.encode(text).tolist() or [tokenizer.eos_id],
        tokenizer.decode,
        frozenset((tokenizer.eos_id,)),
        tokenizer.vocab_size,
        data.get("seq_len", LENGTH),
    )


def _of_folder(place: Path, device: str) -> Sampled:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(place, dtype="auto", local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{place} cannot be loaded by transformers ({' '.join(str(error).split())[:300]})") from error
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends]

    def prompt(text: str) -> list[int]:
        if not tokenizer.chat_template:
            ids: list[int] = tokenizer(text)["input_ids"]
            return ids or [ends[0]]
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        return ids

    def decode(ids: Sequence[int]) -> str:
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    config, wrapped = model.config.get_text_config(), _Cached(model.eval().to(device))
    length = getattr(config, "max_position_embeddings", LENGTH)
    return Sampled(wrapped, encode, prompt, decode, frozenset(ends), config.vocab_size, length)


class _Cached(nn.Module):
    """A model of transformers with the cache in a list, which is empty at first."""

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.hf = hf

    def forward(self, tokens_BS: Tensor, cache: list[Any] | None = None) -> tuple[Tensor, None]:
        """Logits ``[B, S, V]``; with a cache those of the last position, ``[B, 1, V]``."""
        if cache is None:
            return self.hf(tokens_BS, use_cache=False).logits, None
        out = self.hf(tokens_BS, past_key_values=cache[0] if cache else None, use_cache=True, logits_to_keep=1)
        cache[:] = [out.past_key_values]
        return out.logits, None


def device_of(name: str | None) -> str:
    """The device that a user has named; the GPU where there is one when not given, or the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:  # as the device's own part of torch tells it
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--device {name} cannot be used on this machine ({reason}): give cpu, or leave it out"
        ) from error
    return name
