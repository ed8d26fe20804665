"""Curves of a run that was cut off after its last checkpoint and resumed: as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from monitored import Log, monitored

from lit_recycle.report.read import read_run

TIMES = ("compute/tokens_per_second", "compute/data_wait_share", "growth/seconds", "epoch")


class CutOff(L.Callback):
    """Ends a run as a crash does: with points logged that no checkpoint knows of."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise RuntimeError("cut off")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resumed") / "whole"
    monitored(root, saves=())
    return root


@pytest.fixture(scope="module", params=[(5, 8), (6, 8), (2, 5)], ids=["twice grown", "at a growth", "before"])
def resumed(request: pytest.FixtureRequest, whole: Path) -> Path:
    """Cut off at one step and resumed from the checkpoint of an earlier one, growths in between."""
    checkpoint, end = request.param
    root = whole.parent / f"from-{checkpoint}-to-{end}"
    with pytest.raises(RuntimeError, match="cut off"):
        monitored(root, saves=[checkpoint], callbacks=[CutOff(end)])
    monitored(root, saves=(), ckpt_path=root / "checkpoints" / f"step={checkpoint}.ckpt")
    return root


@pytest.mark.parametrize("folder", ["", "over_tokens", "over_GFLOPs"])
def test_curves_are_those_of_the_run_that_was_never_cut_off(whole: Path, resumed: Path, folder: str) -> None:
    expected, found = Log(whole / folder), Log(resumed / folder)
    assert found.tags == expected.tags
    for tag in expected.tags:
        if tag in TIMES:
            assert [step for step, _ in found.points(tag)] == [
                step for step, _ in expected.points(tag)
            ] or tag == "epoch"
        elif folder == "over_GFLOPs":  # many steps of this model are less than one GFLOP
            assert set(found.points(tag)) <= set(expected.points(tag))
        else:
            assert found.points(tag) == expected.points(tag), tag


def test_each_growth_is_told_once(whole: Path, resumed: Path) -> None:
    expected, found = read_run(whole), read_run(resumed)
    assert found.growth == expected.growth and len(found.growth) == 2
    for tag in ("experts/load", "norms/profile", "norms/profile/before_growth", "growth/cosines"):
        assert [step for step, _ in found.arrays[tag]] == [step for step, _ in expected.arrays[tag]], tag
        pairs = zip(found.arrays[tag], expected.arrays[tag], strict=True)
        assert all(np.array_equal(a, b, equal_nan=True) for (_, a), (_, b) in pairs), tag


def test_a_run_that_begins_anew_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cut off"):
        monitored(tmp_path, callbacks=[CutOff(5)])
    monitored(tmp_path, steps=4, events=[])
    for folder in ("", "over_tokens"):
        log = Log(tmp_path / folder)
        tag = next(tag for tag in log.tags if tag.startswith("loss/train"))
        assert len(log.points(tag)) == 4
