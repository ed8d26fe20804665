"""Text sampled in a run: what its checkpoint would write, under every strategy, and changing nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from runs import assert_same_training_state, fit, on_processes

from lit_recycle.callbacks import TextSamples
from lit_recycle.checkpoints.native import load_model
from lit_recycle.sampling.generate import generate_batch

PROMPTS = ["def decode(", "", "a longer prompt than the others"]


def samples(**options: object) -> TextSamples:
    return TextSamples(**{"prompts": PROMPTS, "every_n_steps": 4, "max_new_tokens": 6, **options})


def written(root: Path) -> dict[int, str]:
    files = (root / "csv/texts/samples").glob("step=*.md")
    return {int(file.stem.partition("=")[2]): file.read_text() for file in files}


def run(root: Path, strategy: str = "auto") -> None:
    fit(root, strategy, saves=[9], logger=CSVLogger(root, name="csv", version=""), callbacks=[samples()])


def of_checkpoint(path: Path) -> list[str]:
    """Continuations that the model of a checkpoint writes, by hand."""
    model, tokenizer = load_model(path)
    encoded = [tokenizer.encode(prompt).tolist() or [tokenizer.eos_id] for prompt in PROMPTS]
    rows = generate_batch(model, encoded, [0] * 3, 6, lambda ids: ids[-1] == 256, temperature=0.8, top_p=0.95)
    return [tokenizer.decode([i for i in row if i != 256]) for row in rows]


def assert_is_of(text: str, path: Path) -> None:
    expected = zip(PROMPTS, of_checkpoint(path), strict=True)
    assert text == "\n\n".join(f"```\n{prompt} ▸ {continued}\n```" for prompt, continued in expected)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sampled") / "run"
    run(root)
    return root


def test_at_intervals_and_around_growths(sampled) -> None:
    texts = written(sampled)
    assert sorted(texts) == [0, 2, 3, 5, 6, 7, 8]  # begun; growths at 3 and 6, before and after; 4, 8 and the last step
    assert_is_of(texts[8], sampled / "checkpoints/step=9.ckpt")


def test_it_changes_nothing(sampled, tmp_path) -> None:
    fit(tmp_path / "run", saves=[9])
    saved = "checkpoints/step=9.ckpt"
    assert_same_training_state(sampled / saved, tmp_path / "run" / saved)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_on_two_processes(sampled, tmp_path, strategy) -> None:
    on_processes(2, run, tmp_path / "run", strategy)
    texts = written(tmp_path / "run")
    assert texts[0] == written(sampled)[0] and texts.keys() == written(sampled).keys()
    assert_is_of(texts[8], tmp_path / "run/checkpoints/step=9.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, r"TextSamples\.prompts is empty"),
        ({"every_n_steps": -1}, r"TextSamples\.every_n_steps must not be negative, got -1"),
        ({"max_new_tokens": 0}, r"TextSamples\.max_new_tokens must be at least 1, got 0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        samples(**options)
