"""The command and its runs: scalars of each step, going on bit for bit, what is refused. Runs need trl."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_recycle.cli import main
from lit_recycle.commands.reason import parse
from lit_recycle.reasoning.config import Reasoning
from lit_recycle.reasoning.demo import END, MOST_TIMES, PROBLEMS, write_warm_up, written
from lit_recycle.reasoning.problems import Problems, problem_set
from lit_recycle.reasoning.rewards import Curriculum, Weights, budget_reward, efficient_rewards, has_format
from lit_recycle.reasoning.train import reward_function

CONFIG = Path(__file__).parents[2] / "configs/reason.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny random model, with the demonstration's tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("model")
    write_warm_up(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END})
    )
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=35,
        initializer_range=0.3,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def argv(model: Path, root: Path, *more: str) -> list[str]:
    sizes = {"problems.count": 50, "held_out": 10, "prompts": 2, "completions": 4, "max_tokens": 12, "max_steps": 4}
    sizes |= {"save_every": 2, "curriculum.start": 12, "curriculum.factor": 0.75, "curriculum.every": 2}
    words = [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    quiet = ["--problems.least_terms", "3", "--problems.most_terms", "3", "--problems.largest", "9"]
    return ["reason", "--config", str(CONFIG), "--model", str(model), "--output_dir", str(root), *words, *quiet, *more]


def scalars(root: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(root / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(f"train/{tag}")]


def test_every_step_is_logged_and_a_resumed_run_ends_bit_for_bit_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl", reason="reason needs trl: pip install 'lit-recycle[reason]'")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(argv(model, whole)) == 0, capsys.readouterr().err
    assert "before: accuracy" in (told := capsys.readouterr().out) and "after: accuracy" in told
    assert scalars(whole, "budget") == [(1, 12), (2, 12), (3, 9), (4, 9)]
    lengths = scalars(whole, "length")
    assert [step for step, _ in lengths] == [1, 2, 3, 4] and all(1 <= value <= 12 for _, value in lengths)
    assert all(0 <= value <= 1 for _, value in scalars(whole, "accuracy"))
    assert json.loads((whole / "measured.json").read_text()).keys() == {"before", "after"}

    shutil.copytree(whole, parts, ignore=shutil.ignore_patterns("checkpoint-4", "model"))  # as killed after step 4
    assert main(argv(model, parts)) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main(argv(model, parts, "--resume")) == 0, capsys.readouterr().err
    assert scalars(parts, "budget") == scalars(whole, "budget") and scalars(parts, "length") == lengths
    assert (parts / "measured.json").read_text() == (whole / "measured.json").read_text()
    ours, theirs = (load_file(root / "model/model.safetensors") for root in (parts, whole))
    halfway = load_file(whole / "checkpoint-2/model.safetensors")
    assert any(not torch.equal(theirs[name], halfway[name]) for name in theirs if ".experts." in name)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_what_a_run_refuses(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl", reason="reason needs trl: pip install 'lit-recycle[reason]'")
    for more, told in {
        ("--resume",): "no checkpoint to go on from",
        ("--model", str(tmp_path)): "is no Hugging Face folder",
        ("--trainer", "{betta: 1}"): "betta",
    }.items():
        assert main(argv(model, tmp_path / "run", *more)) == 2
        assert told in capsys.readouterr().err


# --- without trl -----------------------------------------------------------------------------------------------------


def test_without_trl_it_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    assert main(argv(model, tmp_path / "run")) == 2
    assert "pip install 'lit-recycle[reason]'" in capsys.readouterr().err


def test_the_shipped_configuration_names_every_key_with_its_default_or_another() -> None:
    import yaml

    run, resume = parse(["--config", str(CONFIG)])
    assert not resume and run.curriculum == Curriculum(256, 0.8, 100)
    shipped = yaml.safe_load(CONFIG.read_text())
    assert shipped.keys() == Reasoning.__dataclass_fields__.keys()
    for key in ("problems", "curriculum", "weights"):
        assert shipped[key].keys() == getattr(run, key).__dataclass_fields__.keys()
    changed, _ = parse(["--config", str(CONFIG), "--curriculum.start", "64", "--reward", "efficient", "--alpha", "0.4"])
    assert (changed.curriculum.start, changed.reward, changed.alpha) == (64, "efficient", 0.4)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--curiculum.start", "3"], "curiculum"),
        (["--curriculum.start", "0"], "curriculum.start must be at least one token"),
        (["--completions", "1"], "completions must be at least 2"),
        (["--reward", "best"], "reward"),
    ],
)
def test_mistakes_are_told_in_a_sentence(more: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reason", "--config", str(CONFIG), *more]) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.startswith("error: ") and "Traceback" not in errors


def rewarded(run: Reasoning, step: int, texts: list[str], lengths: list[int], prompts: list[str]) -> Any:
    logged: dict[str, float] = {}
    found = reward_function(run)(
        prompts=prompts,
        completions=texts,
        completion_ids=[[0] * n for n in lengths],
        answer=[7] * len(texts),
        trainer_state=SimpleNamespace(global_step=step),
        log_metric=logged.__setitem__,
        log_extra=None,
    )
    return found, logged


def test_the_reward_follows_the_budget_of_the_step() -> None:
    run = Reasoning("m", curriculum=Curriculum(40, 0.5, 10))
    good, bad = "<think>x</think><answer>7</answer>", "<think>x</think><answer>8</answer>"
    for step, budget in {0: 40, 9: 40, 10: 20, 25: 10}.items():
        found, logged = rewarded(run, step, [good, bad], [15, 40], ["p", "p"])
        assert found == [budget_reward(text, 7, n, budget, Weights()) for text, n in ((good, 15), (bad, 40))]
        assert logged == {"accuracy": 0.5, "length": 27.5, "budget": budget}


def test_lengths_are_compared_among_the_answers_to_one_prompt() -> None:
    run = Reasoning("m", reward="efficient", alpha=0.4)
    good = "<answer>7</answer>"
    found, logged = rewarded(run, 3, [good, good, "", good], [10, 20, 5, 90], ["p", "p", "q", "q"])
    assert found == [*efficient_rewards([True, True], [10, 20], 0.4), *efficient_rewards([False, True], [5, 90], 0.4)]
    assert logged == {"accuracy": 0.75, "length": 31.25}


def test_the_demonstration_s_texts_are_solutions_in_the_format() -> None:
    train, held_out = problem_set(PROBLEMS, 20)
    assert not {p.text for p in train} & {p.text for p in held_out}
    for times in range(1, MOST_TIMES + 1):
        prompt, _, completion = written(train[0], times).partition(" = ")
        assert prompt == train[0].text and has_format(completion)
        assert completion.count(train[0].steps[0]) >= times
    assert problem_set(Problems(count=PROBLEMS.count), 20) == (train, held_out)
