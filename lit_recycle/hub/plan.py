"""What a growth makes of a Hugging Face folder, worked out from headers and config alone. No torch, no weights read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.names import Place
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.hub.config_json import (
    DENSE_RULES,
    Config,
    experts_of_layer,
    grow_config_json,
    is_grouped,
    num_layers,
    num_mtp_layers,
)
from lit_recycle.hub.families import Family, family_of
from lit_recycle.hub.reader import HFFolder, Stored, open_folder, read_json
from lit_recycle.hub.writer import Spec

GROWTH_FILE = "growth.json"
FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types that weights may be converted between, as torch and as safetensors call them."""


@dataclass(frozen=True)
class GrownTensor:
    """A tensor of the grown folder and the one that it comes from."""

    place: Place
    source: Stored
    spec: Spec


@dataclass(frozen=True)
class FolderGrowth:
    """A growth of a folder, ready to be carried out by :func:`lit_recycle.hub.grow.write_grown`."""

    source: HFFolder
    family: Family
    plan: GrowthPlan
    config: Config
    tensors: tuple[GrownTensor, ...]
    depth: Depth | None
    width: Width | None
    mtp: int
    history: tuple[dict[str, Any], ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.spec.nbytes for tensor in self.tensors)

    @property
    def preserves(self) -> bool:
        """Whether the grown model computes what the source does, up to rounding."""
        depth = self.depth is None or (self.depth.zero_output and self.family.identity)
        routing = self.family.routing
        exact = routing is not None and routing.kind != "sparsemixer"
        return depth and (
            self.width is None
            or (exact and self.width.top_k == "scale" and self.width.noise == 0 and not self._resets_bias)
        )

    @property
    def _resets_bias(self) -> bool:
        return self.plan.reset_balance and any(tensor.place.role.balance for tensor in self.tensors)

    def record(self) -> dict[str, Any]:
        """This growth as it is written into ``growth.json``, plain types."""
        layers = self.plan.layers
        experts = {str(j): list(e) for j, e in enumerate(self.plan.experts) if e and self.plan.grows_experts(j)}
        same = len({tuple(e) for e in experts.values()}) == 1
        return {
            "source": str(self.source.path),
            "model_type": self.config["model_type"],
            "event": self.plan.event,
            "seed": self.plan.seed,
            "depth": asdict(self.depth) if self.depth else None,
            "width": asdict(self.width) if self.width else None,
            "layers": list(layers),
            "experts": next(iter(experts.values())) if same else experts,
            "multi_token_prediction_layers": self.mtp,
            "preserves_function": self.preserves,
        }


def plan_folder_growth(
    source: str | Path | HFFolder,
    depth: Depth | None = None,
    width: Width | None = None,
    *,
    seed: int = 0,
    dtype: str | None = None,
) -> FolderGrowth:
    """Plan a growth of a Hugging Face folder.

    Args:
        source: The folder.
        depth: Growth in depth, if any.
        width: Growth in width, if any.
        seed: Seed of the noise.
        dtype: Convert floating-point weights to ``float32``, ``float16`` or ``bfloat16`` on the way, before they are
            grown; balancing biases stay as they are.

    Raises:
        ValueError: For a family that is not known, weights that contradict the config, or a growth that the family
            cannot express.
    """
    folder = source if isinstance(source, HFFolder) else open_folder(source)
    if depth is None and width is None:
        raise ValueError("the growth grows nothing: give --depth, --width or both")
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}")
    family = family_of(folder.config, folder.path / "config.json")
    _check_width(folder, family, width)
    places = {name: family.naming.parse(name) for name in folder.tensors}
    mtp, history = _count_mtp(folder, places.values()), _history(folder.path)
    experts = _experts_per_layer(folder, family, places.values())
    main = num_layers(folder.config)
    options = {
        "whole_groups": is_grouped(folder.config, family),
        "softmax_bias": family.softmax_bias,
    }
    plan = plan_growth(experts[:main], depth, width, seed, len(history), **options)
    if mtp:
        behind = plan_growth(experts[main:], None, width if any(experts[main:]) else None, **options)
        plan = replace(
            plan, layers=plan.layers + tuple(main + i for i in behind.layers), experts=plan.experts + behind.experts
        )
    config = grow_config_json(folder.config, family, plan, mtp, width)
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    tensors = tuple(_grown_tensors(folder, family, plan, dtype))
    growth = FolderGrowth(folder, family, plan, config, tensors, depth, width, mtp, history)
    _check_roles(growth)
    return growth


def _check_width(folder: HFFolder, family: Family, width: Width | None) -> None:
    if width is None:
        return
    model_type = folder.config["model_type"]
    if family.routing is None:
        raise ValueError(f"{model_type} models are dense, width growth duplicates experts: use --upcycle or --depth")
    if family.routing.kind == "sparsemixer" and width.top_k == "scale":
        raise ValueError(f"the router of {model_type} always takes two experts: give --top-k keep")
    if width.noise > 0 and "quantization_config" in folder.config:
        method = folder.config["quantization_config"].get("quant_method", "quantized")
        raise ValueError(
            f"{folder.path} holds {method} weights, to which no noise can be added: give --noise 0, or convert the "
            "checkpoint to bfloat16 first"
        )


def _history(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / GROWTH_FILE
    return tuple(read_json(path)["growths"]) if path.is_file() else ()


def _count_mtp(folder: HFFolder, places: Iterable[Place]) -> int:
    """Layers behind the last one of the model: those for multi-token prediction, if the file holds them."""
    found = {place.layer for place in places if place.layer is not None}
    main, extra = num_layers(folder.config), len([i for i in found if i >= num_layers(folder.config)])
    missing = sorted(set(range(main + extra)) - found)
    if missing:
        raise ValueError(f"{folder.path} has no weights of layer {missing[0]}, config.json counts {main} layers")
    if extra > num_mtp_layers(folder.config):
        raise ValueError(f"{folder.path} has weights of layer {main}, but config.json says num_hidden_layers {main}")
    return extra


def _experts_per_layer(folder: HFFolder, family: Family, places: Iterable[Place]) -> list[int]:
    """Routed experts of each layer as the weights have them, held against the config."""
    counts: dict[int, int] = {}
    for place in places:
        if place.layer is None:
            continue
        number = 0
        if place.expert is not None:
            number = place.expert + 1
        elif place.role.expert_axis:
            number = _grow_axis(folder.tensors[place.name].shape, place)[0]
        counts[place.layer] = max(counts.get(place.layer, 0), number)
    is_dense = DENSE_RULES[family.dense][0]
    for layer in range(num_layers(folder.config)):
        said = 0 if is_dense(folder.config, layer) else experts_of_layer(folder.config, layer)
        if said is not None and said != counts[layer]:
            raise ValueError(
                f"{folder.path}: config.json gives layer {layer} {said} experts, the weights have {counts[layer]}"
            )
    return [counts[i] for i in sorted(counts)]


def _grow_axis(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    """The shape with the experts first: Ernie's balancing bias has a leading axis of one."""
    return shape[1:] if place.role.balance and len(shape) == 2 and shape[0] == 1 else shape


def _grown_tensors(folder: HFFolder, family: Family, plan: GrowthPlan, dtype: str | None) -> Iterable[GrownTensor]:
    for place in family.naming.grown(plan, folder.tensors):
        source = folder.tensors[place.source(plan).name]
        shape = source.shape
        if place.layer is not None and place.role.expert_axis:
            inner = _grow_axis(shape, place)
            shape = (*shape[: len(shape) - len(inner)], len(plan.experts[place.layer]), *inner[1:])
        converts = dtype is not None and source.dtype in FLOATS.values() and not place.role.balance
        yield GrownTensor(place, source, Spec(place.name, FLOATS[dtype] if converts else source.dtype, shape))


def _check_roles(growth: FolderGrowth) -> None:
    """Refuse layouts of which the family's roles miss a part, rather than leave that part untreated."""
    plan = growth.plan
    by_layer: dict[int | None, list[GrownTensor]] = {}
    for tensor in growth.tensors:
        by_layer.setdefault(tensor.place.layer, []).append(tensor)
    for layer in range(len(plan.layers) - growth.mtp):
        roles = by_layer.get(layer, [])
        matrices = {matrix for tensor in roles for matrix in tensor.place.role.matrices}
        if plan.grows_experts(layer) and matrices != {"gate", "up", "down", "router"}:
            lacking = sorted({"gate", "up", "down", "router"} - matrices)
            raise ValueError(
                f"{growth.source.path}: layer {plan.layers[layer]} has no tensors known as {', '.join(lacking)} of a "
                f"{growth.config['model_type']} model; add their names to lit_recycle/hub/families.py"
            )
        outputs = sum(tensor.place.role.output for tensor in roles)
        if plan.zero_output and plan.is_layer_copy(layer) and outputs < 2:
            raise ValueError(
                f"{growth.source.path}: the output projections of layer {plan.layers[layer]} are not known by name, so "
                "--zero-output cannot zero them"
            )
    for tensor in growth.tensors:
        if growth.width is not None and tensor.place.layer is None and ".experts." in tensor.spec.name:
            raise ValueError(
                f"{growth.source.path}: {tensor.spec.name} belongs to an expert outside of the layers, which cannot be "
                "duplicated along"
            )
    if plan.noise > 0:
        for tensor in growth.tensors:
            if tensor.place.role.matrices and tensor.spec.dtype not in (*FLOATS.values(), "F64"):
                raise ValueError(
                    f"{tensor.source.name} is stored as {tensor.source.dtype}, to which no noise can be added: give "
                    "--noise 0, or convert the checkpoint to bfloat16 first"
                )
