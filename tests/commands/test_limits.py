"""Limits of the machine: told in one sentence, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pico
import pytest
from processes import config, start

from lit_recycle.checkpoints.atomic import beside
from lit_recycle.commands.errors import sentence
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.export import export_checkpoint


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_model_of_more_files_than_may_be_open(tmp_path: Path) -> None:
    pico.build("olmoe", num_hidden_layers=6).save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "one.ckpt")
    export_checkpoint(tmp_path / "one.ckpt", tmp_path / "many", max_shard_size=300)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 64
    run = start("import", tmp_path / "many", tmp_path / "again.ckpt", log=tmp_path / "log", before=few_files)
    assert run.wait() == [0], run.output


def test_a_full_disk_under_the_configuration_leaves_none_of_it(tmp_path: Path) -> None:
    path = config(tmp_path / "run")
    assert start("fit", "--config", path, "--trainer.max_steps", 6, log=tmp_path / "log").wait() == [0]
    before = (tmp_path / "run/config.yaml").read_text()
    assert len(before) > 1000
    run = start("fit", "--config", path, "--trainer.max_steps", 7, log=tmp_path / "log2", before=no_room)
    assert 0 not in run.wait() and "Traceback" not in run.output
    assert (tmp_path / "run/config.yaml").read_text() == before
    assert not list((tmp_path / "run").glob(".*"))


def test_what_is_refused_leaves_no_configuration(tmp_path: Path) -> None:
    run = start("fit", "--config", config(tmp_path / "run"), "--model.config.vocab_size", 9, log=tmp_path / "log")
    assert run.wait() == [2] and "vocab_size 9" in run.errors[0]
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "lower data.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "fsdp2"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "data.num_workers 0"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), "/x/y: free some space"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x"), "ulimit -n"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x"), "write elsewhere"),
    ],
)
def test_the_way_out_is_told(error: Exception, says: str) -> None:
    assert says in (sentence(error) or "")


def test_what_the_system_says_of_writing_comes_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, beside(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "file") and not list(tmp_path.iterdir())
