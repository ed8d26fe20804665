"""What has changed on disk since it was written is never trained on."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import flip, zero

from lit_recycle import checksums
from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import load_checkpoint, load_whole_checkpoint

HYPER = {"hyper_parameters": {"config": {}, "growth": []}, "global_step": 3}
TENSORS = {"w": torch.arange(40_000, dtype=torch.float32), "b": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save({**HYPER, "state_dict": TENSORS}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    named = {f"state_dict/{name}": tensor for name, tensor in TENSORS.items()}
    sharded.save_sharded(named, {**HYPER, "optimizers": []}, tmp_path / "b.ckpt")
    return tmp_path / "b.ckpt"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is the first of a process."""
    monkeypatch.setattr(checksums, "_is_known", lambda path: False)


def test_what_was_written_is_read(file: Path, folder: Path) -> None:
    for path in (file, folder):
        read = load_whole_checkpoint(path)["state_dict"]
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert zipfile.ZipFile(file).testzip() is None, "other programs read it as before"


@pytest.mark.parametrize("harm", [flip, zero])
def test_damage_to_a_file_is_found(file: Path, harm: Callable[[Path, int], object]) -> None:
    whole = file.read_bytes()
    for seed in range(60):
        file.write_bytes(whole)
        harm(file, seed)
        with pytest.raises(ValueError, match=r"a\.ckpt is (damaged|no checkpoint)"):
            load_checkpoint(file)


@pytest.mark.parametrize("harm", [flip, zero])
@pytest.mark.parametrize("name", ["meta.pt", ".metadata", "__0_0.distcp"])
def test_damage_to_a_folder_is_found(folder: Path, name: str, harm: Callable[[Path, int], object]) -> None:
    whole = (folder / name).read_bytes()
    for seed in range(30):
        (folder / name).write_bytes(whole)
        harm(folder / name, seed)
        with pytest.raises(ValueError, match=rf"{name} is (damaged|no checkpoint)"):
            load_checkpoint(folder)


def test_each_bit_of_the_end_counts(file: Path) -> None:
    """There the checksum itself lies, and what says where it lies."""
    whole = file.read_bytes()
    for bit in range((len(whole) - 80) * 8, len(whole) * 8):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoilt)
        with pytest.raises(ValueError):
            load_checkpoint(file)


def test_an_archive_of_another_program_is_held_against_its_own_sums(file: Path) -> None:
    torch.save({**HYPER, "state_dict": TENSORS}, file)
    load_checkpoint(file)
    with zipfile.ZipFile(file) as archive:
        entry = archive.getinfo("a/data/0")
    at = entry.header_offset + 200
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(file)


@pytest.mark.parametrize("missing", ["state_dict", "global_step", "hyper_parameters"])
def test_a_file_that_lacks_something_is_told_of(tmp_path: Path, missing: str) -> None:
    whole = {**HYPER, "state_dict": TENSORS}
    save({k: v for k, v in whole.items() if k != missing}, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=r"c\.ckpt (lacks|was not written)"):
        load_checkpoint(tmp_path / "c.ckpt")


def test_a_checksum_is_of_contents_and_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "CHUNK", 64)
    path = tmp_path / "file"
    blocks = [bytes([i]) * 64 for i in range(5)]
    seen = set()
    for content in (b"".join(blocks), b"".join(reversed(blocks)), b"".join(blocks)[:-1], b"", b"\0"):
        path.write_bytes(content)
        seen.add(checksums.file_checksum(path))
    assert len(seen) == 5


def test_other_folders_are_told_from_checkpoints(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ValueError, match=rf"folder of checkpoints: give one of them, the newest is {file}"):
        load_checkpoint(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(tmp_path, run / "checkpoints", ignore=shutil.ignore_patterns("run"))
    with pytest.raises(ValueError, match="folder of checkpoints"):
        load_checkpoint(run)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Hugging Face folder.*lit-recycle import"):
        load_checkpoint(tmp_path)
