"""A demonstration on a CPU: a tiny model is trained and grown, exported, and learns to think shorter, with three seeds.

    python -m lit_recycle.reasoning.demo [FOLDER]

The warm-up teaches it to add three digits step by step, over and over: one to four times at random. The budget then
shrinks from what three times take to what one time takes. Each part that is done already is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from lit_recycle.cli import main as lit_recycle
from lit_recycle.reasoning.problems import Problem, Problems, problem_set
from lit_recycle.reasoning.rewards import Curriculum

PROBLEMS = Problems(count=500)
HELD_OUT, DOCUMENTS, MOST_TIMES = 400, 20_000, 4
SEEDS = (1, 2, 3)
CURRICULUM = Curriculum(start=41, factor=0.65, every=60)
STEPS, WARM_UP_STEPS = 180, 500
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
END = "<|endoftext|>"


def written(problem: Problem, times: int) -> str:
    """A problem with its solution thought over so many times."""
    thoughts = " ; ".join(problem.steps * times)
    return f"{problem.text} = <think> {thoughts} </think> <answer> {problem.answer} </answer>"


def write_warm_up(root: Path) -> None:
    """Text and tokenizer: each number, sign and tag is a token."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = [*map(str, range(PROBLEMS.largest * PROBLEMS.most_terms + 1)), "+", "=", ";", *TAGS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]  # its stubs say otherwise
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    tokenizer.save(str(root / "tokenizer.json"))
    random, (problems, _) = Random(0), problem_set(PROBLEMS, HELD_OUT)
    with (root / "warm_up.jsonl").open("w") as file:
        for _ in range(DOCUMENTS):
            text = written(random.choice(problems), random.randint(1, MOST_TIMES))
            file.write(json.dumps({"text": text}) + "\n")


def warm_up(root: Path) -> Path:
    """A model that was trained on the text, grew in depth and in experts on the way, and was exported."""
    folder = root / "exported"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    write_warm_up(root)
    grow = {"init_args": {"events": EVENTS}, "class_path": "lit_recycle.callbacks.GrowthCallback"}
    how = {"dirpath": str(root / "warm_up"), "filename": "trained", "every_n_train_steps": WARM_UP_STEPS}
    settings = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": WARM_UP_STEPS,
            "default_root_dir": str(root / "warm_up"),
            "gradient_clip_val": 1.0,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": None,
            "logger": False,
            "callbacks": [grow, SAVE | {"init_args": how}],
        },
        "model": {"config": MODEL, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}}},
        "data": {
            "path": str(root / "warm_up.jsonl"),
            "tokenizer": str(root / "tokenizer.json"),
            "documents": "mask",
            "seq_len": 128,
            "batch_size": 16,
            "cache_dir": str(root / "cache"),
        },
    }
    (root / "warm_up.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML
    run("fit", "--config", root / "warm_up.yaml")
    run("export", root / "warm_up/trained.ckpt", folder)
    return folder


EVENTS = [{"at": {"steps": 150}, "depth": {"factor": 2}}, {"at": {"steps": 250}, "width": {"factor": 2}}]
SAVE = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
MODEL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_layers": 1,
    "num_heads": 4,
    "num_experts": 4,
    "top_k": 2,
    "expert_size": 64,
}


def learn(root: Path, model: Path, seed: int) -> None:
    """One run of reinforcement learning."""
    folder = root / f"seed-{seed}"
    if (folder / "model").is_dir():
        return
    settings = {
        "model": str(model),
        "output_dir": str(folder),
        "seed": seed,
        "max_steps": STEPS,
        "problems": {"count": PROBLEMS.count},
        "held_out": HELD_OUT,
        "curriculum": {"start": CURRICULUM.start, "factor": CURRICULUM.factor, "every": CURRICULUM.every},
        "prompts": 16,
        "completions": 8,
        "max_tokens": 64,
        "learning_rate": 3e-4,
        "save_every": STEPS,
        "trainer": {"disable_tqdm": True, "lr_scheduler_type": "constant", "entropy_coef": 0.06},
    }
    (root / f"seed-{seed}.yaml").write_text(json.dumps(settings, indent=1))
    run("reason", "--config", root / f"seed-{seed}.yaml")


def run(*argv: object) -> None:
    words = list(map(str, argv))
    print("$ lit-recycle", *words, flush=True)
    if code := lit_recycle(words):
        raise SystemExit(code)


def scalars(folder: Path, tag: str) -> list[float]:
    """What TensorBoard has of a run, step by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(f"train/{tag}")]


def draw(root: Path, file: Path) -> None:
    """Length and accuracy by step, one line for each seed, and the budget."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    for seed in SEEDS:
        above.plot(scalars(root / f"seed-{seed}", "length"), label=f"seed {seed}")
        below.plot(scalars(root / f"seed-{seed}", "accuracy"), label=f"seed {seed}")
    above.plot(scalars(root / f"seed-{SEEDS[0]}", "budget"), "k--", drawstyle="steps-post", label="budget")
    above.set(ylabel="tokens of an answer", ylim=(0, None))
    below.set(ylabel="share of right answers", ylim=(0, 1.02), xlabel="optimizer step")
    above.legend(ncols=4, frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/reasoning"))
    root = parser.parse_args(argv).folder
    model = warm_up(root)
    for seed in SEEDS:
        learn(root, model, seed)
    draw(root, root / "reasoning.png")
    print("| seed | accuracy before | after | tokens before | after |\n| --- | --- | --- | --- | --- |")
    for seed in SEEDS:
        at = json.loads((root / f"seed-{seed}/measured.json").read_text())
        before, after = at["before"], at["after"]
        lengths = f"{before['length']:.1f} | {after['length']:.1f}"
        print(f"| {seed} | {before['accuracy']:.1%} | {after['accuracy']:.1%} | {lengths} |")
    print(f"{root / 'reasoning.png'}: length, budget and accuracy step by step")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
