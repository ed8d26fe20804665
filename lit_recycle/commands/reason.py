"""``lit-recycle reason --config FILE``: reinforcement learning of reasoning under a budget."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser

from lit_recycle.commands.errors import sentence
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.reasoning.config import Reasoning

EXAMPLE = """example:
  lit-recycle reason --config configs/reason.yaml --model HF_DIR
  lit-recycle reason --config configs/reason.yaml --model HF_DIR --resume
"""


def main(argv: list[str]) -> int:
    run, resume = parse(argv)
    with without_gc():
        from lit_recycle.reasoning.train import TRAINED, reason

    measured = reason(run, resume)
    for when, values in measured.items():
        print(f"{when}: accuracy {values.accuracy:.1%}, {values.length:.1f} tokens, on {run.held_out} other problems")
    print(f"wrote {run.output_dir}/{TRAINED}; watch: tensorboard --logdir {run.output_dir}")
    return 0


def parse(argv: list[str]) -> tuple[Reasoning, bool]:
    """The run, and whether to go on with it. Raises ``ValueError`` for unknown keys and for values out of range."""
    parser = ArgumentParser(prog="lit-recycle reason", description=DESCRIPTION, epilog=EXAMPLE, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with the keys below")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in output_dir")
    parser.add_class_arguments(Reasoning, as_group=False)
    try:
        chosen: Any = parser.instantiate(parser.parse_args(argv))
    except ArgumentError as error:
        raise ValueError(sentence(error, parser.get_defaults(skip_validation=True).keys())) from error
    return Reasoning(**{field.name: chosen[field.name] for field in fields(Reasoning)}), chosen.resume


DESCRIPTION = (
    "Train a Hugging Face folder with trl's GRPO on arithmetic problems, rewarded for right answers within a token "
    "budget that shrinks in stages, or for right answers that are short among the right ones. See docs/reasoning.md."
)
