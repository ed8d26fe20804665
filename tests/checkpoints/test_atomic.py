"""What is written takes the place of what was there, whether either is a file or a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_recycle.checkpoints.atomic import save, take_place


def make(path: Path, kind: str, text: str) -> None:
    if kind == "folder":
        path.mkdir()
        (path / "shard").write_text(text)
    elif kind == "file":
        path.write_text(text)


@pytest.mark.parametrize("new", ["file", "folder"])
@pytest.mark.parametrize("old", ["file", "folder", "nothing"])
def test_what_is_written_takes_the_place_of_what_was_there(tmp_path: Path, new: str, old: str) -> None:
    make(tmp_path / "a.ckpt", old, "old")
    make(tmp_path / "part", new, "new")
    take_place(tmp_path / "part", tmp_path / "a.ckpt")
    written = tmp_path / "a.ckpt" / "shard" if new == "folder" else tmp_path / "a.ckpt"
    assert written.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_failed_save_leaves_what_was_there_and_no_part(tmp_path: Path) -> None:
    save({"step": torch.tensor(1)}, tmp_path / "a.ckpt")

    class Broken:
        def __reduce__(self) -> str:
            raise RuntimeError("disk")

    with pytest.raises(OSError, match="disk full"):
        save({"step": Broken()}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
