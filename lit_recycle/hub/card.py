"""Model card of a grown folder: a paragraph that says how it was made. No torch."""

from __future__ import annotations

from pathlib import Path

from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.sources import short
from lit_recycle.hub.plan import GROWTH_FILE, FolderGrowth
from lit_recycle.hub.writer import OPTIMIZER_FILES

CARD = "README.md"


def describe(growth: FolderGrowth) -> list[str]:
    """A growth in sentences, one per operator and one per thing that a user should know."""
    plan = growth.plan
    said = maps_of(plan)
    if plan.after.num_tail_layers:
        said.append(f"Multi-token-prediction layers: {plan.after.num_tail_layers}, kept single behind the last layer.")
    elif any("mtp_" in tensor.spec.name for tensor in growth.tensors):
        said.append("Multi-token-prediction weights are kept as they are.")
    if any((growth.source.path / name).exists() for name in OPTIMIZER_FILES):
        said.append("Optimizer state is left behind; growing a checkpoint of this project carries it along.")
    said.append(function_of(plan))
    zeroed = any(getattr(step.operator, "zero_output", False) for step in plan.steps)
    family = growth.family
    if zeroed and "normalised residual" in growth.plan.before.traits:
        said.append(f"Zero-output copies are no identities in {growth.config['model_type']}: {family.note}.")
    return said


def maps_of(plan: GrowthPlan) -> list[str]:
    """A sentence for each operator, with where everything comes from."""
    said = []
    for step in plan.steps:
        maps = (f"{what} {m.size} → {len(m.sources)}, from {short(m.sources)}" for what, m in step.sources.listing())
        said.append(f"{step.operator.label(step.before, step.after)}: {'; '.join(maps)}.")
    return said


def function_of(plan: GrowthPlan) -> str:
    """Whether the grown model computes what its source does."""
    if plan.preserves:
        return "The function is preserved up to rounding."
    return "The function changes at the growth: train on before use."


def write_card(growth: FolderGrowth, folder: Path) -> None:
    """The source's model card with a paragraph more; a new one where there is none."""
    path = growth.source.path / CARD
    text = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.is_file() else ""
    lines = "\n".join(f"- {line}" for line in describe(growth))
    paragraph = (
        f"## Grown with lit-recycle\n\nThis checkpoint was grown from `{growth.source.path}` "
        f"(growth {len(growth.history) + 1} of this model). The exact map is in `{GROWTH_FILE}`.\n\n{lines}\n"
    )
    (folder / CARD).write_text(text + paragraph, encoding="utf-8")
