"""What a grown folder tells its reader: a paragraph in the model card. No torch."""

from __future__ import annotations

from pathlib import Path

from lit_recycle.hub.plan import GROWTH_FILE, FolderGrowth
from lit_recycle.hub.writer import OPTIMIZER_FILES

CARD = "README.md"


def describe(growth: FolderGrowth) -> list[str]:
    """A growth in sentences, one per axis and one per thing that a user should know."""
    plan, config = growth.plan, growth.config
    main = len(plan.layers) - growth.mtp
    said = []
    if growth.depth is not None:
        how = "zeroed output projections in the copies" if plan.zero_output else "plain copies"
        said.append(
            f"Depth: {growth.source.config['num_hidden_layers']} → {main} layers ({how}). Source of each layer: "
            f"{' '.join(map(str, plan.layers[:main]))}."
        )
    if growth.width is not None:
        width = growth.width
        before = sorted({len(set(e)) for e in plan.experts if e})
        said.append(
            f"Width: every routed expert stands {width.factor} times "
            f"({', '.join(f'{n} → {n * width.factor}' for n in before)} experts per layer), experts per token are "
            f"{'multiplied too' if width.top_k == 'scale' else 'kept'}. Noise on copies: {width.noise:g} of each "
            f"matrix's standard deviation, seed {plan.seed}."
        )
        layer = next(j for j, e in enumerate(plan.experts) if e)
        order = "as whole groups" if plan.experts[layer][1] != plan.experts[layer][0] else "next to their source"
        said.append(f"Copies of experts stand {order}: {_short(plan.experts[layer])}.")
    if growth.mtp:
        said.append(f"Multi-token-prediction layers: {growth.mtp}, kept single behind the last layer.")
    elif any("mtp_" in tensor.spec.name for tensor in growth.tensors):
        said.append("Multi-token-prediction weights are kept as they are.")
    if any((growth.source.path / name).exists() for name in OPTIMIZER_FILES):
        said.append("Optimizer state is left behind; growing a checkpoint of this project carries it along.")
    said.append(
        "The function is preserved up to rounding."
        if growth.preserves
        else "The function changes at the growth: train on before use."
    )
    if growth.depth is not None and plan.zero_output and not growth.family.identity:
        said.append(f"Zero-output copies are no identities in {config['model_type']}: {growth.family.note}.")
    return said


def _short(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers if len(numbers) <= 16 else numbers[:16])) + (" …" if len(numbers) > 16 else "")


def write_card(growth: FolderGrowth, folder: Path) -> None:
    """The source's model card with a paragraph more; a new one where there is none."""
    path = growth.source.path / CARD
    text = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.is_file() else ""
    lines = "\n".join(f"- {line}" for line in describe(growth))
    paragraph = (
        f"## Grown with lit-recycle\n\nThis checkpoint was grown from `{growth.source.path}` "
        f"(growth {growth.plan.event + 1} of this model). The exact map is in `{GROWTH_FILE}`.\n\n{lines}\n"
    )
    (folder / CARD).write_text(text + paragraph, encoding="utf-8")
