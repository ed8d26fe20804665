"""What stands in the console during a run."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import rich
from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress
from runs import fit

from lit_recycle.callbacks import RunProgressBar
from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.operators import WidenHidden, WidenInner
from lit_recycle.training.growth_log import announcement


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that a run draws, on a console wide enough; two micro-batches to a step."""
    stream = io.StringIO()
    bar = RunProgressBar(1000, console_kwargs={"file": stream, "width": 240, "force_terminal": True})
    root = tmp_path_factory.mktemp("console")
    fit(root, callbacks=[bar], enable_progress_bar=True, accumulate_grad_batches=2, batch_size=2, save_every=9)
    rich.reconfigure()  # the console that the bar has changed is that of the whole process
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


def test_bar_counts_the_steps_of_the_run(console: str) -> None:
    assert re.findall(r"training\s+━*\S*\s+(\d+/\d+)", console.replace("╸", "━").replace("╺", "━"))[-1] == "9/9"


def test_stage_shape_and_loss_stand_beside_it(console: str) -> None:
    for shown in (
        "stage: 1/3 · layers×experts: 3×3 · loss: 5.",
        "stage: 2/3 · layers×experts: 6×3",
        "stage: 3/3 · layers×experts: 6×6",
    ):
        assert shown in console, shown
    assert re.search(r"tokens/s: [\d.]+k?\b", console)


def test_way_to_the_next_growth_is_shown(console: str) -> None:
    lines = {line for line in re.split(r"[\r\n]+", console) if "growth in" in line}
    assert any(re.search(r"stage: 1/3.*growth in: 2 steps", line) for line in lines)
    assert any(re.search(r"stage: 2/3.*growth in: 1 steps, 0:00:\d\d", line) for line in lines)
    assert not any("stage: 3/3" in line for line in lines)


def test_growing_and_saving_are_said_while_they_last(console: str) -> None:
    lines = re.split(r"[\r\n]+", console)
    for words in ("growing: Interpose", "growing: DuplicateExperts", "saving"):
        first = next(i for i, line in enumerate(lines) if words in line)
        assert any(line.startswith("training") for line in lines[first:]), words


def test_the_bar_that_stays_does_not_say_that_it_is_saving(console: str) -> None:
    bars = [line for line in re.split(r"[\r\n]+", console) if re.match("training|growing|saving", line)]
    assert bars[-1].startswith("training")


class SlowSteps(L.Callback):
    """A clock by which each step takes a tenth of a second."""

    now = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 0.1


def test_bar_is_drawn_seldom_and_between_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = SlowSteps(), []
    monkeypatch.setattr("lit_recycle.callbacks.progress.time", SimpleNamespace(perf_counter=lambda: clock.now))
    bar = RunProgressBar(2, console_kwargs={"file": io.StringIO(), "width": 200, "force_terminal": True})
    metrics, draw = bar.get_metrics, CustomProgress.get_renderable

    def looked_up(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        shown = metrics(trainer, module)
        drawn.append((trainer.global_step, shown["loss"] == float(module.step_losses[-1])))
        return shown

    def rendered(self: CustomProgress) -> Any:
        assert threading.current_thread() is threading.main_thread()
        return draw(self)

    monkeypatch.setattr(bar, "get_metrics", looked_up)
    monkeypatch.setattr(CustomProgress, "get_renderable", rendered)
    fit(tmp_path, events=[], callbacks=[clock, bar], enable_progress_bar=True, save_every=100)
    rich.reconfigure()
    assert drawn == [(5, True), (9, True), (9, True)], "twice a second, at the last step, and once training has ended"


def test_growth_is_announced_as_before_and_after(tmp_path: Path) -> None:
    _, module, _ = fit(tmp_path, steps=7, save_every=100)
    text = announcement(GrowthRecord(**module.growth[1]), seconds=1.25)
    assert "growth: experts ×2, at step 6, 768 tokens (1.2 s)" in text
    assert re.search(r"experts \(top-k\)\s+3 \(2\) → 6 \(4\)", text)
    assert "width" not in text, "only what has changed"
    before, after = re.search(r"loss, same batch\s+([\d.]+) → ([\d.]+)", text).groups()
    assert float(before) == pytest.approx(module.growth[1]["loss_before"], abs=1e-4)
    assert float(after) == pytest.approx(module.growth[1]["loss_after"], abs=1e-4)


def test_widths_are_announced_where_they_change(tmp_path: Path) -> None:
    events = [GrowthEvent(Trigger(steps=1), grow=[WidenHidden(2), WidenInner("shared", size=12)])]
    _, module, _ = fit(tmp_path, steps=2, events=events, save_every=100)
    text = announcement(GrowthRecord(**module.growth[0]), seconds=1.0)
    assert re.search(r"hidden channels\s+16 → 32", text) and re.search(r"\(shared\)\s+8 → 12", text)
    assert "inner channels (experts)" not in text
