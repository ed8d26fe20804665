"""Model families of the Hugging Face hub that can be grown, one file each, named by ``model_type``.

To add one, add a file that defines ``FAMILY``; ``docs/add-a-family.md`` shows how. No torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lit_recycle.hub.family import Family


class _Files(Mapping[str, Family]):
    """The files of this package by name, each imported when it is asked for."""

    def __init__(self) -> None:
        self._names = sorted(module.name for module in pkgutil.iter_modules(__path__))

    def __getitem__(self, model_type: str) -> Family:
        if model_type not in self._names:
            raise KeyError(model_type)
        return importlib.import_module(f"{__name__}.{model_type}").FAMILY

    def __contains__(self, model_type: object) -> bool:
        return model_type in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


FAMILIES: Mapping[str, Family] = _Files()
TEXT_CONFIG = "text_config"
_IMAGES = "not a model of text alone: AutoModelForCausalLM does not load it"
_NOT_DECODER = "no causal language model"
NOT_GROWN = {
    "dbrx": "its experts stand in one dimension with their inner channels",
    "deepseek_ocr2": _IMAGES,
    "deepseek_ocr2_text": _IMAGES,
    "deepseek_v4": "its first layers look experts up in a table of token ids",
    "diffusion_gemma": _NOT_DECODER,
    "diffusion_gemma_text": _NOT_DECODER,
    "ernie4_5_vl_moe": _IMAGES,
    "ernie4_5_vl_moe_text": _IMAGES,
    "glm4v_moe": _IMAGES,
    "glm4v_moe_text": _IMAGES,
    "glm5_next": _IMAGES,
    "glm5_next_text": _IMAGES,
    "inkling_mm_model": _IMAGES,
    "inkling_text": "its router chooses among routed and shared experts by one matrix",
    "inkling2": _IMAGES,
    "inkling2_text": "each layer attends to all earlier ones, by weights that are stored outside of the layers",
    "longcat_flash": "its router has rows for experts that have no weights",
    "mistral_large4": _IMAGES,
    "mistral_large4_text": _IMAGES,
    "muse_spark": _IMAGES,
    "muse_spark_text": _IMAGES,
    "nllb-moe": _NOT_DECODER,
    "openai_privacy_filter": _NOT_DECODER,
    "qwen3_omni_moe": _IMAGES,
    "qwen3_omni_moe_text": _IMAGES,
    "qwen3_omni_moe_thinker": _IMAGES,
    "qwen3_vl_moe": _IMAGES,
    "qwen3_vl_moe_text": _IMAGES,
    "step3p5": _IMAGES,
    "step3p7": _IMAGES,
    "switch_transformers": _NOT_DECODER,
    "unlimited_ocr": _IMAGES,
    "unlimited_ocr_text": _IMAGES,
    "zaya": "the router of a layer goes on from that of the layer before, and has a row for no expert at all",
}
"""Model types of transformers that have experts and no file here, and why."""


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """The family of a ``config.json``; of a model of more than text that of its language model.

    Raises:
        ValueError: For a ``model_type`` that is not in ``FAMILIES``.
    """
    model_type = config.get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[str(model_type)]
    inner = (config.get(TEXT_CONFIG) or {}).get("model_type")
    if inner in FAMILIES and model_type not in NOT_GROWN:
        return replace(FAMILIES[str(inner)], text_config=TEXT_CONFIG, native=None)
    if model_type in NOT_GROWN:
        raise ValueError(f"{where}: {model_type} models are not grown: {NOT_GROWN[str(model_type)]}")
    raise ValueError(
        f"{where}: model_type {model_type!r} is not known (`lit-recycle families` lists what is); describe its tensors "
        "in a YAML file, as docs/add-a-family.md shows, and give that with --family"
    )
