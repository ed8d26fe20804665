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
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from runs import fit

from lit_recycle.callbacks import RunProgressBar
from lit_recycle.callbacks.progress import TwoLines
from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.operators import WidenHidden, WidenInner
from lit_recycle.training.growth_log import announcement

CODES = r"\x1b\[[0-9;?]*[a-zA-Z]"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that a run draws, on a console of the usual width; two micro-batches to a step."""
    stream = io.StringIO()
    bar = RunProgressBar(1000, console_kwargs={"file": stream, "width": 80, "force_terminal": True})
    root = tmp_path_factory.mktemp("console")
    fit(root, callbacks=[bar], enable_progress_bar=True, accumulate_grad_batches=2, batch_size=2, saves=[9])
    rich.reconfigure()  # the console that the bar has changed is that of the whole process
    return re.sub(CODES, "", stream.getvalue())


BAR = re.compile(r"((?:stage|growing|saving)[^━]*?) [━╸╺]+ +(\d+/\d+) \S+ • \S+ *(.*?) *[\r\n]+(.*?) *[\r\n]")
"""What is done, steps, the next growth; the line below."""


def bars(console: str) -> list[tuple[str, ...]]:
    return BAR.findall(console)


def test_bar_counts_the_steps_of_the_run(console: str) -> None:
    assert bars(console)[-1][1] == "9/9"


def test_stage_shape_and_loss_stand_in_two_lines(console: str) -> None:
    said = {(what, below.partition(" · ")[0]) for what, _, _, below in bars(console)}
    for stage, shape in enumerate(("3 layers × 3 experts", "6 layers × 3 experts", "6 layers × 6 experts"), 1):
        assert (f"stage {stage}/3", shape) in said
    numbers = (
        r"6 layers × 6 experts · loss \d\.\d{3}( · val \d\.\d{3})? · [\d.]+k? tokens/s( · data wait \d+%)? · lr \S+"
    )
    assert re.fullmatch(numbers, bars(console)[-1][3])


def test_way_to_the_next_growth_is_shown(console: str) -> None:
    said = {(what, soon.partition(",")[0]) for what, _, soon, _ in bars(console) if soon}
    assert ("stage 1/3", "growth in 2 steps") in said and ("stage 2/3", "growth in 1 step") in said
    assert any(re.fullmatch(r"growth in 1 step, 0:00:\d\d", soon) for _, _, soon, _ in bars(console))
    assert not any(what == "stage 3/3" for what, _ in said)


def test_what_does_not_fit_is_cut_where_it_matters_least() -> None:
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
    progress = Progress(TwoLines(columns), console=Console(width=80, file=io.StringIO(), force_terminal=True))
    progress.add_task("stage 10/14", total=500_000, soon="growth in 16,777 steps, 2:11:09", status="word " * 30)
    with progress.console.capture() as capture:
        progress.console.print(progress)
    above, below = capture.get().rstrip("\n").split("\n")
    assert "growth in 16,777 steps, 2:11:09" in above and "━━━━" in above and len(re.sub(CODES, "", above)) <= 80
    assert below.endswith("…") and len(below) == 80


def test_growing_and_saving_are_said_while_they_last(console: str) -> None:
    said = [what for what, *_ in bars(console)]
    for words in ("growing: Interpose", "growing: DuplicateExperts", "saving"):
        first = next(i for i, what in enumerate(said) if what == words)
        assert any(what.startswith("stage") for what in said[first:]), words


def test_the_bar_that_stays_does_not_say_that_it_is_saving(console: str) -> None:
    assert bars(console)[-1][0] == "stage 3/3"


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
        told = f" · loss {float(module.step_losses[-1]):.3f} · "
        drawn.append((trainer.global_step, told in bar.train_progress_bar.fields["status"]))
        return shown

    def rendered(self: CustomProgress) -> Any:
        assert threading.current_thread() is threading.main_thread()
        return draw(self)

    monkeypatch.setattr(bar, "get_metrics", looked_up)
    monkeypatch.setattr(CustomProgress, "get_renderable", rendered)
    fit(tmp_path, events=[], callbacks=[clock, bar], enable_progress_bar=True, saves=())
    rich.reconfigure()
    assert drawn == [(5, True), (9, True), (9, True)], "at the rate, at the last step, at the end"


def test_growth_is_announced_as_before_and_after(tmp_path: Path) -> None:
    _, module, _ = fit(tmp_path, steps=7, saves=())
    text = announcement(GrowthRecord(**module.growth[1]), seconds=1.25)
    assert "growth: experts ×2, at step 6, 768 tokens (1.2 s)" in text
    assert re.search(r"experts \(top-k\)\s+3 \(2\) → 6 \(4\)", text)
    assert "width" not in text, "only what has changed"
    before, after = re.search(r"loss, same batch\s+([\d.]+) → ([\d.]+)", text).groups()
    assert float(before) == pytest.approx(module.growth[1]["loss_before"], abs=1e-4)
    assert float(after) == pytest.approx(module.growth[1]["loss_after"], abs=1e-4)


def test_widths_are_announced_where_they_change(tmp_path: Path) -> None:
    events = [GrowthEvent(Trigger(steps=1), grow=[WidenHidden(2), WidenInner("shared", size=12)])]
    _, module, _ = fit(tmp_path, steps=2, events=events, saves=())
    text = announcement(GrowthRecord(**module.growth[0]), seconds=1.0)
    assert re.search(r"hidden channels\s+16 → 32", text) and re.search(r"\(shared\)\s+8 → 12", text)
    assert "inner channels (experts)" not in text
