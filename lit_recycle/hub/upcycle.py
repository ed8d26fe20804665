"""Dense to Mixture-of-Experts: every feed-forward network becomes E experts behind a random router.

Sparse upcycling (Komatsuzaki et al. 2023, arXiv 2212.05055): all experts begin as the dense network, and the weights of
a token's experts sum to one, so the function is what it was. Drop-Upcycling (Nakamura et al. 2025, arXiv 2502.19261):
a share of each expert's inner channels is drawn anew from N(mean, std²) of the weights that it replaces, so that
experts differ from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_recycle.hub.card import CARD
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.plan import FLOATS
from lit_recycle.hub.reader import HFFolder, Stored, open_folder
from lit_recycle.hub.stream import Part, Progress, Rewriting, pour, rewriting
from lit_recycle.hub.transform import write
from lit_recycle.hub.writer import Spec, Spot, write_json
from lit_recycle.seeding import generator_of

UPCYCLING_FILE = "upcycling.json"
SHARED_SIZE = 64
"""Inner width of the shared expert that Qwen2-MoE demands; it begins with an output of zero."""


class Target(NamedTuple):
    """What a dense family becomes."""

    model_type: str
    architecture: str
    moe: str
    names: dict[str, str]
    """An expert's matrices by the dense network's names."""


_QWEN_NAMES = {name: name for name in ("gate_proj", "up_proj", "down_proj")}
_MIXTRAL = Target(
    "mixtral", "MixtralForCausalLM", "block_sparse_moe", {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
)
TARGETS = {
    "llama": _MIXTRAL,
    "mistral": _MIXTRAL,
    "qwen2": Target("qwen2_moe", "Qwen2MoeForCausalLM", "mlp", _QWEN_NAMES),
    "qwen3": Target("qwen3_moe", "Qwen3MoeForCausalLM", "mlp", _QWEN_NAMES),
}


class Piece(NamedTuple):
    """A tensor of the result: a source's, treated or not, or a new one."""

    spec: Spec
    source: Stored | None
    layer: int = 0
    matrix: str = ""
    expert: int = 0


@dataclass(frozen=True)
class Upcycling:
    """A plan, ready to be carried out by :func:`write_upcycled`."""

    source: HFFolder
    config: dict[str, Any]
    pieces: tuple[Piece, ...]
    experts: int
    top_k: int
    drop: float
    seed: int

    @property
    def nbytes(self) -> int:
        return sum(piece.spec.nbytes for piece in self.pieces)

    @property
    def preserves(self) -> bool:
        return self.drop == 0

    def describe(self) -> list[str]:
        drawn = f", {self.drop:.0%} of each expert's inner channels drawn anew" if self.drop else ""
        return [
            f"{self.source.path} ({self.source.config['model_type']}) becomes {self.config['model_type']}",
            f"  Each feed-forward network becomes {self.experts} experts, {self.top_k} per token{drawn}, behind a "
            f"router drawn with seed {self.seed}.",
            "  The function is preserved up to rounding." if self.preserves else "  The function changes.",
            f"  Size: {self.source.nbytes / 1e9:,.3f} GB → {self.nbytes / 1e9:,.3f} GB, {len(self.pieces):,} tensors",
        ]


def upcycle_folder(
    source: str | Path,
    destination: str | Path,
    experts: int,
    *,
    top_k: int = 2,
    drop: float = 0.0,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
) -> Upcycling:
    """Turn the dense model in a Hugging Face folder into a Mixture-of-Experts one, streamed.

    Args:
        source: Folder of a family in ``TARGETS``.
        destination: Folder to be written; must not exist.
        experts: Experts per layer.
        top_k: Experts per token.
        drop: Share of each expert's inner channels that is drawn anew, in 0..1 (Drop-Upcycling: 0.5).
        seed: Of the router and of what is drawn anew.
        dtype: Type to convert weights to.
        max_shard_size: Size of a safetensors file.

    Raises:
        ValueError: For a family that has no Mixture-of-Experts sibling, or values out of range.
    """
    plan = plan_upcycling(source, experts, top_k=top_k, drop=drop, seed=seed, dtype=dtype)
    write_upcycled(plan, destination, max_shard_size=max_shard_size)
    return plan


def plan_upcycling(
    source: str | Path, experts: int, *, top_k: int = 2, drop: float = 0.0, seed: int = 0, dtype: str | None = None
) -> Upcycling:
    """Plan from headers and config alone; see :func:`upcycle_folder`."""
    folder = open_folder(source)
    model_type = folder.config.get("model_type")
    if model_type not in TARGETS:
        raise ValueError(
            f"{folder.path}: {model_type!r} models cannot be upcycled; those that can are {', '.join(TARGETS)}"
        )
    if not 1 <= top_k <= experts:
        raise ValueError(f"--upcycle {experts} with {top_k} experts per token: it takes 1 ≤ top-k ≤ experts")
    if not 0 <= drop <= 1:
        raise ValueError(f"--drop is a share of channels in 0..1, got {drop}")
    config = _config(folder, experts, top_k)
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    pieces = tuple(_pieces(folder, TARGETS[model_type], experts, FLOATS[dtype] if dtype else None))
    return Upcycling(folder, config, pieces, experts, top_k, drop, seed)


def _config(folder: HFFolder, experts: int, top_k: int) -> dict[str, Any]:
    config, target = deepcopy(folder.config), TARGETS[folder.config["model_type"]]
    for key in ("attention_bias", "mlp_bias", "quantization_config"):
        if config.get(key):
            raise ValueError(f"{folder.path / 'config.json'} sets {key}, which {target.model_type} models cannot have")
    if target.model_type == "qwen3_moe" and config.get("use_sliding_window"):
        raise ValueError(f"{folder.path / 'config.json'} has a sliding window per layer, which qwen3_moe cannot have")
    heads = config["num_attention_heads"]
    # Defaults differ between the families: what the source leaves out is written out.
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("rms_norm_eps", 1e-6)
    config.setdefault("tie_word_embeddings", False)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // heads
    if not config.get("rope_parameters"):
        config.setdefault("rope_theta", 10_000.0)
    config |= {"model_type": target.model_type, "architectures": [target.architecture], "num_experts_per_tok": top_k}
    if target.model_type == "mixtral":
        return config | {"num_local_experts": experts, "sliding_window": config.get("sliding_window")}
    config |= {"num_experts": experts, "moe_intermediate_size": config["intermediate_size"], "norm_topk_prob": True}
    config |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if target.model_type == "qwen2_moe":
        config |= {"shared_expert_intermediate_size": SHARED_SIZE, "qkv_bias": True}
    return config


def _pieces(folder: HFFolder, target: Target, experts: int, dtype: str | None) -> Iterator[Piece]:
    naming, hidden = FAMILIES[folder.config["model_type"]].naming, folder.config["hidden_size"]
    for name, tensor in folder.tensors.items():
        place = naming.parse(name)
        code = dtype if dtype and tensor.dtype in FLOATS.values() else tensor.dtype
        parts = place.suffix.split(".")
        if place.layer is None or parts[0] != "mlp":
            yield Piece(Spec(name, code, tensor.shape), tensor)
            continue
        _, matrix, kind = parts
        at = f"{place.prefix}.{place.layer}.{target.moe}"
        for e in range(experts):
            spec = Spec(f"{at}.experts.{e}.{target.names[matrix]}.{kind}", code, tensor.shape)
            yield Piece(spec, tensor, place.layer, matrix, e)
        if matrix == "gate_proj":
            yield Piece(Spec(f"{at}.gate.weight", code, (experts, hidden)), None, place.layer, "router")
            if target.model_type == "qwen2_moe":
                yield from _shared(at, code, hidden, place.layer)


def _shared(at: str, code: str, hidden: int, layer: int) -> Iterator[Piece]:
    """A shared expert whose output is zero, until it has learnt something."""
    shapes = {"gate_proj": (SHARED_SIZE, hidden), "up_proj": (SHARED_SIZE, hidden), "down_proj": (hidden, SHARED_SIZE)}
    for matrix, shape in shapes.items():
        kind = "zero" if matrix == "down_proj" else f"shared_{matrix}"
        yield Piece(Spec(f"{at}.shared_expert.{matrix}.weight", code, shape), None, layer, kind)
    yield Piece(Spec(f"{at}.shared_expert_gate.weight", code, (1, hidden)), None, layer, "zero")


def write_upcycled(
    plan: Upcycling,
    destination: str | Path,
    *,
    max_shard_size: str | int = "5GB",
    progress: Progress = lambda nbytes: None,
) -> None:
    """Carry out a plan."""
    with rewriting(plan.source, destination, [piece.spec for piece in plan.pieces], max_shard_size) as new:
        for piece in plan.pieces:
            if piece.source is None:
                _write_new(plan, piece, new.files[piece.spec.name])
                progress(piece.spec.nbytes)
        pour(_parts(plan, new), progress)
        write_json(new.folder / "config.json", plan.config)
        record = {"source": str(plan.source.path), "model_type": plan.source.config["model_type"]}
        record |= {"experts": plan.experts, "top_k": plan.top_k, "drop": plan.drop, "seed": plan.seed}
        write_json(new.folder / UPCYCLING_FILE, record)
        _write_card(plan, new.folder)


def _write_card(plan: Upcycling, folder: Path) -> None:
    path = plan.source.path / CARD
    text = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.is_file() else ""
    lines = "\n".join(f"- {line.strip()}" for line in plan.describe()[:-1])
    (folder / CARD).write_text(f"{text}## Upcycled with lit-recycle\n\n{lines}\n", encoding="utf-8")


def _write_new(plan: Upcycling, piece: Piece, spot: Spot) -> None:
    if piece.matrix == "zero":  # as a new file is where nothing was written
        return
    std = plan.config.get("initializer_range", 0.02)
    generator = generator_of(plan.seed, "upcycle", piece.layer, piece.matrix)
    write(torch.empty(piece.spec.shape).normal_(0.0, std, generator=generator), piece.spec.dtype, spot)


def _parts(plan: Upcycling, new: Rewriting) -> Iterator[Part]:
    for piece in plan.pieces:
        if piece.source is not None:
            treat = partial(_drop, plan, piece) if plan.drop and piece.matrix else None
            yield Part(new.sources[piece.source], piece.spec.dtype, new.files[piece.spec.name], treat)


def _drop(plan: Upcycling, piece: Piece, matrix: Tensor) -> Tensor:
    """The inner channels are the rows of gate and up, and the columns of down: the same ones in all three."""
    _redraw(plan, piece, matrix if piece.matrix != "down_proj" else matrix.T)
    return matrix


def _redraw(plan: Upcycling, piece: Piece, channels_FD: Tensor) -> None:
    """Draw a share of the channels anew, in place, from N(mean, std²) of what they replace."""
    where = (plan.seed, "upcycle", piece.layer, piece.expert)
    count = round(plan.drop * len(channels_FD))
    chosen = torch.randperm(len(channels_FD), generator=generator_of(*where))[:count]
    old = channels_FD[chosen].float()
    if count:
        new = torch.empty(old.shape).normal_(generator=generator_of(*where, piece.matrix))
        channels_FD[chosen] = (old.mean() + old.std(correction=0) * new).to(channels_FD.dtype)
