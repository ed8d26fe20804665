"""Damaged shards of Hugging Face folders are found: by checksums where there are any, by broken numbers always."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from runs import TEXT, fit, on_processes

from lit_recycle.cli import main
from lit_recycle.growth.event import Depth, Width
from lit_recycle.hub.checksums import NOTES
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.finite import INFINITY, check_finite
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.reader import open_folder, read_header

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two shards, without checksums."""
    folder = tmp_path_factory.mktemp("whole") / "hf"
    pico.save(pico.build("olmoe", vocab_size=260), "olmoe", folder.with_name("one"))
    grow_folder(folder.with_name("one"), folder, Depth(2), max_shard_size="60KB")
    assert sorted(p.name for p in folder.glob("*.safetensors")) == list(SHARDS)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "hf")


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def listed(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  ./{name}\n" for name, digest in sums(folder).items()))


def tagged(folder: Path) -> None:
    text = "".join(f"SHA256 ({name}) = {digest.upper()}\n" for name, digest in sums(folder).items())
    (folder / "checksums.txt").write_text(text)


def beside_each(folder: Path) -> None:
    for name, digest in sums(folder).items():
        (folder / f"{name}.sha256").write_text(f"{digest}\n")


def fetched(folder: Path) -> None:
    """As ``hf download --local-dir`` leaves it; the ETag of a small file is that of git."""
    (folder / NOTES).mkdir(parents=True)
    for name, digest in (sums(folder) | {"config.json": "a16a55fda99d2f2e7b69cce5cf93ff4ad3049930"}).items():
        (folder / NOTES / f"{name}.metadata").write_text(f"11c5a3d5811f50298f278a704980280950aedb10\n{digest}\n17.1\n")


def cached(folder: Path) -> None:
    """As in the cache of ``huggingface_hub``: links to files that are called like their ETags."""
    blobs = folder.with_name("blobs")
    blobs.mkdir()
    for name, digest in sums(folder).items():
        (folder / name).rename(blobs / digest)
        (folder / name).symlink_to(blobs / digest)


FORMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "sha256sum": (listed, "SHA256SUMS"),
    "sha256sum --tag": (tagged, "checksums.txt"),
    "one for each": (beside_each, f"{SHARDS[1]}.sha256"),
    "fetched into a folder": (fetched, f"{SHARDS[1]}.metadata"),
    "fetched into the cache": (cached, "blobs"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_bit_is_found_by_the_folders_own_checksums(folder: Path, tmp_path: Path, form: str) -> None:
    write, told_by = FORMS[form]
    write(folder)
    grown = grow_folder(folder, tmp_path / "grown", Width(2))
    assert len(grown.source.checksums) == 2
    assert not grown_has_checksums(tmp_path / "grown"), "those of the source's files are not of the grown one's"
    damage(folder / SHARDS[1])
    with pytest.raises(ValueError, match=f"{SHARDS[1]} is damaged: its SHA-256 .*{told_by}.*fetch it again"):
        grow_folder(folder, tmp_path / "again", Width(2))
    assert not (tmp_path / "again").exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match=f"{SHARDS[1]} is damaged"):
        import_folder(folder, tmp_path / "some.ckpt")
    assert not (tmp_path / "some.ckpt").exists()


def grown_has_checksums(folder: Path) -> bool:
    return bool(open_folder(folder).checksums) or any("sum" in p.name or "sha" in p.suffix for p in folder.iterdir())


def damage(path: Path) -> None:
    """The lowest bit of a number, which nothing but a checksum tells."""
    last = max(read_header(path).values(), key=lambda tensor: tensor.offset)
    with path.open("r+b") as file:
        file.seek(last.offset)
        (low,) = file.read(1)
        file.seek(last.offset)
        file.write(bytes([low ^ 1]))


@pytest.mark.parametrize("command", ["grow", "import", "fit", "dequantize"])
def test_commands_take_a_file_of_checksums(folder: Path, tmp_path: Path, capsys, command: str) -> None:
    listed(folder)
    given = (folder / "SHA256SUMS").rename(tmp_path / "sums")
    damage(folder / SHARDS[0])
    out = tmp_path / "out"
    argv = {
        "grow": ("grow", folder, out, "--depth", "2", "--checksums", given),
        "import": ("import", folder, out, "--checksums", given),
        "fit": ("fit", "--model.init_from", folder, "--model.init_checksums", given, *quiet_run(tmp_path)),
        "dequantize": ("dequantize", folder, out, "--checksums", given),
    }[command]
    if command == "dequantize":
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace("{", '{"quantization_config": {"quant_method": "fp8"},', 1))
    assert main([str(word) for word in argv]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and str(folder / SHARDS[0]) in errors[0] and str(given) in errors[0], errors
    assert not out.exists()
    given.write_text(given.read_text().splitlines()[0])
    assert main([str(word) for word in argv]) == 2
    assert f"has no SHA-256 of {SHARDS[1]}" in capsys.readouterr().err


def quiet_run(root: Path) -> tuple[object, ...]:
    options = {"max_steps": 1, "accelerator": "cpu", "logger": "false", "enable_progress_bar": "false"}
    options |= {"default_root_dir": root / "run", "limit_val_batches": 0}
    named = [word for key, value in options.items() for word in (f"--trainer.{key}", value)]
    return (
        *named,
        "--data.path",
        TEXT,
        "--data.seq_len",
        "8",
        "--data.batch_size",
        "2",
        "--data.cache_dir",
        root / "c",
    )


def test_a_run_is_refused_on_all_of_its_processes(folder: Path, tmp_path: Path) -> None:
    """Each looks at its share of the files, and the second one has the damaged file."""
    listed(folder)
    damage(folder / SHARDS[1])
    on_processes(2, refused, tmp_path, str(folder))


def refused(root: Path, folder: str) -> None:
    with pytest.raises(ValueError, match=f"{SHARDS[1]} is damaged"):
        fit(root / "run", "fsdp2", steps=1, events=[], config=None, module={"init_from": folder})


def test_a_resumed_run_does_not_read_the_folder(folder: Path, tmp_path: Path) -> None:
    start = {"init_from": str(folder)}
    fit(tmp_path / "run", steps=1, events=[], config=None, module=start)
    listed(folder)
    damage(folder / SHARDS[1])
    newest = tmp_path / "run/checkpoints/step=1.ckpt"
    fit(tmp_path / "run", steps=2, events=[], config=None, module=start, ckpt_path=newest)
    with pytest.raises(ValueError, match="is damaged"):
        fit(tmp_path / "new", steps=1, events=[], config=None, module=start)


@pytest.mark.parametrize("text", ["", "what\n", "d41d8cd98f00b204e9800998ecf8427e  model.safetensors\n"])
def test_other_files_of_these_names_are_passed_over_unless_given(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "checksums.txt").write_text(text)
    assert not open_folder(folder).checksums
    with pytest.raises(ValueError, match=f"checksums.txt has no SHA-256 of {SHARDS[0]}, as `sha256sum` writes it"):
        open_folder(folder, folder / "checksums.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="binary is no file of checksums"):
        open_folder(folder, tmp_path / "binary")


# --- without checksums -----------------------------------------------------------------------------------------------


def broken(folder: Path) -> str:
    """Make one number of the last tensor of the last shard infinite, or none; its name."""
    last = max(read_header(folder / SHARDS[1]).values(), key=lambda tensor: tensor.offset)
    assert last.dtype == "F32"
    with (folder / SHARDS[1]).open("r+b") as file:
        file.seek(last.offset + last.nbytes - 4)
        file.write(struct.pack("<f", float("nan")))
    return last.name


def test_broken_numbers_are_always_found(folder: Path, tmp_path: Path) -> None:
    name = broken(folder)
    says = f"{name} in {folder / SHARDS[1]} holds values that are no finite numbers.*fetch it again"
    for number, forms in enumerate([(Depth(2),), (Width(2, noise=0.1),)]):  # copied, and computed
        with pytest.raises(ValueError, match=says):
            grow_folder(folder, tmp_path / str(number), *forms)
    with pytest.raises(ValueError, match=says):
        grow_folder(folder, tmp_path / "converted", Depth(2), dtype="bfloat16")
    with pytest.raises(ValueError, match=says):
        import_folder(folder, tmp_path / "some.ckpt")
    for backend in ("native", "transformers"):
        start = {"init_from": str(folder), "backend": backend}
        with pytest.raises(ValueError, match=says):
            fit(tmp_path / backend, steps=1, events=[], config=None, module=start)
    assert {path.name for path in tmp_path.iterdir()} <= {"hf", "cache", "native", "transformers"}


DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip


@pytest.mark.parametrize("dtype", INFINITY)
def test_what_is_finite_is_what_torch_says(dtype: str) -> None:
    """All bit patterns of a number's two highest bytes, each with the lowest bit of the others set and not."""
    item = DTYPES[dtype].itemsize
    patterns = np.arange(2 ** (8 * min(item, 2)), dtype=np.uint64) << (8 * max(item - 2, 0))
    for bits in {0, int(item > 2)}:
        data = np.ascontiguousarray((patterns + bits).astype(f"<u{item}"))
        values = torch.from_numpy(data.view(np.uint8)).view(DTYPES[dtype])
        finite = torch.isfinite(values.double()).tolist()
        for value, expected in zip(data, finite, strict=True):
            assert said(value.tobytes(), dtype) == expected
        everything = [data[i].tobytes() for i in range(len(data)) if finite[i]]
        assert said(b"".join(everything), dtype)


def said(data: bytes, dtype: str) -> bool:
    try:
        check_finite(memoryview(data), dtype, "it")
    except ValueError:
        return False
    return True


def test_whole_numbers_and_nothing_pass() -> None:
    check_finite(memoryview(b"\xff" * 8), "I64", "it")
    check_finite(memoryview(b""), "F32", "it")
