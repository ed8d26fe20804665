"""Comparison of the logits of two folders, loaded with transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOKENS = (2, 32)


class Difference(NamedTuple):
    """How far the logits of two models lie apart on the same tokens, in float32."""

    largest: float
    scale: float
    """The largest logit of the source."""

    @property
    def is_rounding(self) -> bool:
        return self.largest <= 1e-5 * max(self.scale, 1.0)


def compare_logits(source: str | Path, result: str | Path, seed: int = 0) -> Difference:
    """Largest difference of logits between two folders, on random tokens. One model is held at a time.

    Raises:
        ValueError: If a folder does not load with every key in its place, or transformers is not installed.
    """
    expected, found = (_logits(Path(folder), seed) for folder in (source, result))
    return Difference((found - expected).abs().max().item(), expected.abs().max().item())


def _logits(folder: Path, seed: int) -> Tensor:
    model = load(folder)
    generator = torch.Generator().manual_seed(seed)
    vocab = model.config.get_text_config().vocab_size
    with torch.inference_mode():
        return model(torch.randint(vocab, TOKENS, generator=generator), use_cache=False).logits.float()


def load(folder: Path) -> Any:
    """The model in a folder, in float32, from a load with no missing and no unexpected keys."""
    try:
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError:
        raise ValueError("comparing models needs transformers: pip install 'lit-recycle[hf]'") from None
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except ValueError as error:
        raise ValueError(f"transformers does not load {folder}: {str(error).splitlines()[0]}") from error
    model, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info[kind] if not _is_mtp(str(key), model.config))
        if keys:
            raise ValueError(f"{folder}: transformers finds {kind.replace('_', ' ')}: {', '.join(keys[:5])}")
    return model.eval()


def _is_mtp(key: str, config: Any) -> bool:
    """Multi-token-prediction layers stand behind the last layer; transformers leaves them out of a causal model."""
    layer = re.match(r"(?:model\.)?layers\.(\d+)\.", key)
    return layer is not None and int(layer[1]) >= config.get_text_config().num_hidden_layers
