"""A run over several sources in stages sees the samples of the undisturbed run, wherever and on whatever it resumes."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from data import token_files
from data.counting import Counting, quiet_trainer
from data.several_processes import data_of, on_several_processes
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

STAGES = [
    {"weights": {"books": 3, "lines": 1}, "until": {"tokens": 16 * 15}},
    {"weights": {"books": 1, "lines": 0.5, "rows": 1.5}},
]


@pytest.fixture
def options(books: Path, tmp_path: Path) -> dict[str, Any]:
    """Three sources of different formats in two stages; the second begins in the middle of the third step.

    No two samples have the same text, in whatever way the sources' keys shuffle them.
    """
    letters = np.random.default_rng(0).integers(97, 123, (140, 200), dtype=np.uint8)
    texts = [row.tobytes().decode() for row in letters]
    for path in sorted(books.iterdir()):
        path.write_text(texts.pop())
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts[:40])
    (tmp_path / "lines.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    ids = [np.array([*text.encode(), 256]) for text in texts[40:]]
    sources = [
        {"name": "books", "path": str(books)},
        {"name": "lines", "path": str(tmp_path / "lines.jsonl.zst"), "text_field": "body"},
        {"name": "rows", "path": str(token_files.hugging_face(tmp_path, ids))},
    ]
    return {"sources": sources, "stages": STAGES, "seq_len": 16, "batch_size": 6, "cache_dir": str(tmp_path / "cache")}


class Grow(Callback):
    """Grows, as far as the data can tell, before given steps."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        step, growth = trainer.global_step, pl_module.growth
        if batch_idx % trainer.accumulate_grad_batches == 0 and step in self.steps and step not in growth:
            growth.append(step)


class Growing(Counting):
    """Remembers its growths in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.growth: list[int] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["growth"] = list(self.growth)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.growth = checkpoint["growth"]


def fit(
    options: dict[str, Any], ckpt_path: Path | None = None, growths: tuple[int, ...] = (), **trainer: Any
) -> Growing:
    model = Growing()
    callbacks = [Grow(growths), *trainer.pop("callbacks", [])]
    trainer = {"max_steps": 6, "limit_val_batches": 0, **trainer}
    quiet_trainer(callbacks=callbacks, **trainer).fit(model, data_of(dict(options)), ckpt_path=ckpt_path)
    return model


def keep(folder: Path) -> dict[str, Any]:
    saves = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    return {"enable_checkpointing": True, "callbacks": [saves]}


def texts(batches: list[list[list[int]]]) -> list[str]:
    return [bytes(i for i in row if i < 256).decode() for batch in batches for row in batch]


def test_any_number_of_processes_goes_on_in_both_stages(options, tmp_path):
    whole = fit(options, **keep(tmp_path))
    assert len({str(row) for batch in whole.trained for row in batch}) == 36
    for world, step in ((1, 1), (2, 2), (3, 4)):
        checkpoint, shared = tmp_path / f"step={step}.ckpt", {**options, "batch_size": 6 // world}
        trainer = {"max_steps": 6, "limit_val_batches": 0}
        if world == 1:
            assert fit(options, checkpoint).trained == whole.trained[step:]
            continue
        ranks = on_several_processes(world, tmp_path, checkpoint, shared, trainer)
        together = [[*chain(*parts)] for parts in zip(*(rank["trained"] for rank in ranks), strict=True)]
        assert together == whole.trained[step:]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "Lightning epochs": {"limit_train_batches": 2},
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_stage_that_begins_after_a_growth(options, tmp_path, setting, workers):
    """The step that begins with the growth is the last of its stage, whatever was gathered ahead."""
    options |= {
        "num_workers": workers,
        "stages": [
            {"weights": {"books": 1}, "until": {"growth": 1}},
            {"weights": {"lines": 1}, "until": {"growth": 2}},
            {"weights": {"rows": 1}},
        ],
    }
    trainer, growths = SETTINGS[setting], (2, 4)
    per_step = trainer.get("accumulate_grad_batches", 1)
    whole = fit(options, growths=growths, **trainer, **keep(tmp_path))
    steps = [texts(whole.trained[i : i + per_step]) for i in range(0, 6 * per_step, per_step)]
    known = [Path(source["path"]) for source in options["sources"]]
    books = "".join(path.read_text() for path in known[0].iterdir())
    in_books = [sum(row in books for row in step) / len(step) for step in steps]
    assert min(in_books[:3]) > 0.5 and max(in_books[3:]) == 0
    for step in (1, 2, 3, 4, 5):
        part = fit(options, tmp_path / f"step={step}.ckpt", growths, **trainer)
        assert part.trained == whole.trained[step * per_step :], step


def test_weights_change_on_a_resume_without_repeating_a_sample(options, tmp_path):
    whole = fit(options, **keep(tmp_path))
    options["stages"] = []
    options["sources"] = [{**source, "weight": 2 + i} for i, source in enumerate(options["sources"][1:])]
    with pytest.warns(
        UserWarning, match="weights have changed; training goes on in lines after 5 samples, rows after 4"
    ):
        part = fit(options, tmp_path / "step=4.ckpt", max_steps=8)
    rows = [str(row) for batch in whole.trained[:4] + part.trained for row in batch]
    assert len(set(rows)) == len(rows) == 48


def test_a_run_that_would_repeat_too_much_is_refused(options):
    options["sources"][2]["max_epochs"] = 0.01
    with pytest.raises(ValueError, match=r"through source 'rows' 0\.0.* times, and its max_epochs is 0.01"):
        fit(options)


def test_two_sources_of_the_same_content_are_refused(options, books):
    options["sources"][1] = {"name": "again", "path": str(books)}
    with pytest.raises(ValueError, match="'books' and 'again' have the same content"):
        fit({**options, "stages": []})
