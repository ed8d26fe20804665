"""Model card of an exported checkpoint: what the model is, how it has grown, and what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_recycle.growth.shape import Shape, sizes
from lit_recycle.hub.card import CARD
from lit_recycle.hub.plan import GROWTH_FILE
from lit_recycle.text import human

FRONT = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [lit-recycle]\n---\n"


def write_run_card(checkpoint: Mapping[str, Any], shape: Shape, model_type: str, folder: Path) -> None:
    """Write the card of a checkpoint's model."""
    (folder / CARD).write_text(FRONT + "\n" + "\n".join(_lines(checkpoint, shape, model_type)) + "\n", encoding="utf-8")


def _lines(checkpoint: Mapping[str, Any], shape: Shape, model_type: str) -> Iterator[str]:
    steps, progress = checkpoint.get("global_step", 0), checkpoint.get("progress", {})
    yield f"# A {model_type} model, trained and grown with lit-recycle"
    yield ""
    yield f"{_shape(sizes(shape))}."
    yield ""
    yield (
        f"Training: {steps:,} optimizer steps, {human(progress.get('tokens_seen', 0))} tokens, "
        f"{human(progress.get('flops_spent', 0))} FLOPs."
    )
    losses = checkpoint.get("losses") or {}
    if losses:
        yield ""
        said = ", ".join(f"{value:.4f} in {kind}" for kind, value in losses.items())
        yield f"The last loss, in nats per token: {said}."
    growths = checkpoint["hyper_parameters"]["growth"]
    if not growths:
        return
    yield from ("", "## Growth", "", f"The exact maps are in `{GROWTH_FILE}`.", "")
    yield "| at step | tokens | growth | parameters | loss of one batch, before → after |"
    yield "| --- | --- | --- | --- | --- |"
    for growth in growths:
        before, after = (human(growth[key]["params"]) for key in ("sizes_before", "sizes_after"))
        loss = " → ".join("?" if growth[key] is None else f"{growth[key]:.4f}" for key in ("loss_before", "loss_after"))
        yield f"| {growth['steps']:,} | {human(growth['tokens'])} | {growth['label']} | {before} → {after} | {loss} |"


def _shape(of: Mapping[str, Any]) -> str:
    """A model's sizes in a line."""
    said = [f"{human(of['params'])} parameters", f"{of['layers']} layers"]
    if of["experts"]:
        said[0] += f", of which a token meets {human(of['active_params'])}"
        said.append(f"{of['experts']} experts, {of['top_k']} of them for each token")
    return "; ".join(said)
