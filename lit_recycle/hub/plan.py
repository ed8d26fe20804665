"""Plan of a growth of a Hugging Face folder, worked out from headers and config alone. No torch, no weights read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_recycle.growth.event import Form, operators_of
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.least_size import least_size
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.recipe import Recipe
from lit_recycle.hub.alike import open_alike
from lit_recycle.hub.config_json import check_heads
from lit_recycle.hub.config_keys import UNQUANTIZED, Config, head_dim
from lit_recycle.hub.family import Family
from lit_recycle.hub.model import HubModel, model_of
from lit_recycle.hub.plan_checks import check_names, check_types
from lit_recycle.hub.reader import FLOATS, HFFolder, Stored, open_folder, read_json
from lit_recycle.hub.sizes import check_sizes
from lit_recycle.hub.writer import Spec

GROWTH_FILE = "growth.json"


@dataclass(frozen=True)
class GrownTensor:
    """A tensor of the grown folder and how it is made."""

    recipe: Recipe
    spec: Spec

    @property
    def place(self) -> Place:
        return self.recipe.target


@dataclass(frozen=True)
class FolderGrowth:
    """A growth of a folder, ready to be carried out by :func:`lit_recycle.hub.grow.write_grown`.

    Args:
        source: The folder.
        others: Further folders that the growth takes from, alike.
        plan: The growth.
        config: The grown model's ``config.json``.
        tensors: Its tensors.
        between: Recipes of the tensors that earlier operators make for later ones, by name; one dict per operator.
        history: Growths that the folder has been through.
    """

    source: HFFolder
    others: tuple[HFFolder, ...]
    plan: GrowthPlan
    config: Config
    tensors: tuple[GrownTensor, ...]
    between: tuple[Mapping[str, Recipe], ...]
    history: tuple[dict[str, Any], ...]

    @property
    def folders(self) -> tuple[HFFolder, ...]:
        return (self.source, *self.others)

    def stored(self, place: Place) -> Stored:
        """Where a tensor that is not made by the growth lies."""
        return self.folders[place.model].tensors[place.own_name]

    @property
    def nbytes(self) -> int:
        return sum(tensor.spec.nbytes for tensor in self.tensors)

    @property
    def preserves(self) -> bool:
        return self.plan.preserves

    @property
    def before_family(self) -> Family:
        """That of the model."""
        return self.plan.before.family  # type: ignore[attr-defined]

    @property
    def family(self) -> Family:
        """That of the grown model."""
        return self.plan.after.family  # type: ignore[attr-defined]

    def record(self) -> dict[str, Any]:
        """This growth as it is written into ``growth.json``, plain types."""
        seed, event, _ = self.plan.steps[0].key
        return {
            "source": str(self.source.path),
            **({"others": [str(folder.path) for folder in self.others]} if self.others else {}),
            "model_type": self.config["model_type"],
            "event": event,
            "seed": seed,
            "label": self.plan.label,
            "grow": [step.operator.to_dict() for step in self.plan.steps],
            "maps": self.plan.maps(),
            "multi_token_prediction_layers": self.plan.after.num_tail_layers,
            "preserves_function": self.preserves,
        }


def plan_folder_growth(
    source: str | Path | HFFolder,
    *forms: Form,
    seed: int = 0,
    dtype: str | None = None,
    facts: Callable[[GrowableModel], Facts] = lambda model: Facts(where="of a folder"),
    maps: Sequence[Mapping[str, Any]] | None = None,
    family: Family | None = None,
    others: Sequence[str | Path] = (),
    expect: Callable[[int], None] = lambda nbytes: None,
) -> FolderGrowth:
    """Plan a growth of a Hugging Face folder.

    Args:
        source: The folder.
        *forms: Operators, or their short forms, one after the other.
        seed: Seed of all that is random.
        dtype: Convert floating-point weights to ``float32``, ``float16`` or ``bfloat16`` on the way, before they are
            grown; balancing biases stay as they are.
        facts: What operators may ask for that choose by weights (``measure.folder_facts``).
        maps: Maps that another growth has recorded, for operators that choose by what only a run knows.
        family: The folder's family; that of its ``model_type`` when not given.
        others: Further folders to take from, alike in all but the values of their weights.
        expect: Called with a number of bytes that the result has at least, before a plan that takes long is made.

    Raises:
        ValueError: For folders that are not alike, a family that is not known, weights that contradict the config, or
            a growth that the family cannot express.
    """
    folder = source if isinstance(source, HFFolder) else open_folder(source)
    if not forms:
        raise ValueError("the growth grows nothing: give --depth, --width or --grow")
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}")
    further = open_alike(folder, others)
    model = _model(folder, family)
    history, operators = _history(folder.path), operators_of(forms)
    if maps is None:
        alike = {"seed": seed, "dtype": dtype, "facts": facts, "family": model.family, "others": others}
        expect(least_size(model, operators, lambda small: plan_folder_growth(folder, *small, **alike).nbytes))  # type: ignore[arg-type]
    plan = plan_growth(model, operators, seed=seed, event=len(history), facts=facts, maps=maps, models=1 + len(further))
    config, levels = _grown_config(folder, plan, dtype), plan.recipes(folder.tensors)
    between = tuple({recipe.target.name: recipe for recipe in level} for level in levels[:-1])
    tensors = tuple(_grown_tensors(folder, levels, dtype))
    growth = FolderGrowth(folder, further, plan, config, tensors, between, history)
    check_names(growth)
    check_types(growth)
    return growth


def _model(folder: HFFolder, family: Family | None) -> HubModel:
    shapes = {name: stored.shape for name, stored in folder.tensors.items()}
    model = model_of(folder.config, shapes, folder.path, family)
    places = {name: model.naming.parse(name) for name in folder.tensors}
    plain = {name: stored.shape for name, stored in folder.tensors.items() if stored.dtype in FLOATS.values()}
    check_sizes(model, places, plain, folder.path)  # blocks of quantised numbers have shapes of their own
    return model


def _grown_config(folder: HFFolder, plan: GrowthPlan, dtype: str | None) -> Config:
    before, after = plan.before, plan.after
    assert isinstance(before, HubModel) and isinstance(after, HubModel)
    check_heads(after.config, after.family, head_dim(before.config))
    config = dict(before.family.with_text(folder.config, after.config))
    _grow_module_names(config, plan)
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    return config


def _grow_module_names(config: Config, plan: GrowthPlan) -> None:
    quantization = dict(config.get("quantization_config") or {})
    for key in UNQUANTIZED:
        if quantization.get(key):
            quantization[key] = [recipe.target.name for recipe in plan.recipes(quantization[key])[-1]]
    if quantization:
        config["quantization_config"] = quantization


def _history(folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / GROWTH_FILE
    return tuple(read_json(path)["growths"]) if path.is_file() else ()


def _grown_tensors(folder: HFFolder, levels: Sequence[Sequence[Recipe]], dtype: str | None) -> Iterable[GrownTensor]:
    for recipe, (name, (stored, shape)) in zip(levels[-1], _stored_and_shape(folder, levels), strict=True):
        converts = dtype is not None and stored.dtype in FLOATS.values()
        converts = converts and "balance" not in recipe.target.axes.matrices
        yield GrownTensor(recipe, Spec(name, FLOATS[dtype] if converts else stored.dtype, shape))  # type: ignore[index]


def _stored_and_shape(
    folder: HFFolder, levels: Sequence[Sequence[Recipe]]
) -> Iterable[tuple[str, tuple[Stored, tuple[int, ...]]]]:
    """For each grown tensor its name, the tensor of the source that gives it its type, and its own shape."""
    found: Iterable[tuple[str, tuple[Stored, tuple[int, ...]]]]
    found = ((name, (stored, stored.shape)) for name, stored in folder.tensors.items())
    for recipes in levels:
        sources, made = dict(found), []
        for recipe in recipes:
            stored, shape = sources[recipe.sources[0][0].own_name]  # those of further folders are alike
            made.append((recipe.target.name, (stored, recipe.grown_shape(shape))))
        found = made
    return found
