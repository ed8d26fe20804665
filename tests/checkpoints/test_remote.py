"""Checkpoints at addresses: those on disk, and never half of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from object_store import REFUSED, open_store
from processes import config, start
from runs import assert_same_training_state, fit, on_processes

from lit_recycle.addresses import place_of, within
from lit_recycle.callbacks.async_save import AsyncSave
from lit_recycle.checkpoints import find, remote
from lit_recycle.checkpoints.find import checkpoints_of
from lit_recycle.checkpoints.native import consolidate, load_checkpoint, load_whole_checkpoint
from lit_recycle.cli import main

STEPS = 7
SEVERAL = ["ddp", "fsdp2", "fsdp2_full"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store()
    monkeypatch.chdir(tmp_path)


def run(root: Path, strategy: str) -> None:
    """The checkpoints of a run on disk and in a store, written at once or later; and a run that goes on from there."""
    open_store()
    os.chdir(root)
    folder, later = f"store://{root}/bucket/{strategy}", [AsyncSave()] if strategy in ("auto", "fsdp2") else []
    there = ModelCheckpoint(folder, "{step}", save_top_k=1, monitor="step", mode="max", every_n_train_steps=1)
    fit(root / strategy, strategy, steps=STEPS, callbacks=[*later, there], saves=(4, 5, 6, STEPS))
    fit(root / f"{strategy}-on", strategy, steps=STEPS, ckpt_path=f"{folder}/anchor-step=3.ckpt", saves=[STEPS])


def run_each(root: Path) -> None:
    for strategy in SEVERAL:
        run(root, strategy)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sent")
    here = Path.cwd()
    run(root, "auto")
    os.chdir(here)
    on_processes(2, run_each, root)
    return root


@pytest.mark.parametrize("strategy", ["auto", *SEVERAL])
def test_a_run_s_checkpoints_are_at_the_address(sent: Path, strategy: str) -> None:
    """Anchors too; a rotation goes on there; and a run that goes on from there ends bit for bit the same."""
    address, last = f"store://{sent}/bucket/{strategy}", f"step={STEPS}.ckpt"
    found = {place.rpartition("/")[2] for _, place in remote.checkpoints_at(address)}
    assert found == {"anchor-step=3.ckpt", "anchor-step=6.ckpt", last}
    assert {path.name for path in (sent / "bucket" / strategy).iterdir()} == found
    assert not list((sent / strategy / "checkpoints").glob("anchor*"))
    assert_same_training_state(f"{address}/{last}", sent / strategy / "checkpoints" / last)
    assert_same_training_state(f"{address}/anchor-step=6.ckpt", sent / strategy / "checkpoints/step=6.ckpt")
    assert_same_training_state(sent / f"{strategy}-on/checkpoints" / last, sent / strategy / "checkpoints" / last)


def copied(sent: Path, tmp_path: Path, name: str) -> tuple[str, Path]:
    """A checkpoint of its own to damage: its address and where that is."""
    source, place = sent / "bucket" / name / f"step={STEPS}.ckpt", tmp_path / "bucket/it.ckpt"
    place.parent.mkdir()
    (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    return f"store://{place}", place


@pytest.mark.parametrize("strategy", ["auto", "fsdp2"])
def test_what_is_damaged_or_not_whole_is_refused(sent: Path, tmp_path: Path, strategy: str) -> None:
    address, place = copied(sent, tmp_path, strategy)
    load_whole_checkpoint(address)
    file = next(place.glob("*/__1_0.distcp")) if strategy == "fsdp2" else place
    content = file.read_bytes()
    for wrong, words in ((content[:-100], "cut off|no end"), (content[:999] + b"!" + content[1000:], "damaged")):
        file.write_bytes(wrong)
        for known in tmp_path.glob(".cache/lit-recycle/checkpoints/*/.version"):
            known.unlink()
        with pytest.raises(ValueError, match=words):
            load_checkpoint(address)
    if strategy == "fsdp2":
        (place / "meta.pt").unlink()
        assert remote.checkpoints_at(f"store://{tmp_path}/bucket") == []
        assert remote.remove_unfinished(f"store://{tmp_path}/bucket") == ["it.ckpt"] and not place.exists()
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(f"store://{tmp_path}/bucket/none.ckpt")


def test_the_one_before_stays_until_all_of_the_next_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"store://{tmp_path}/bucket/last.ckpt"
    rest: dict[str, Any] = {"hyper_parameters": {"config": {}, "growth": []}, "optimizers": []}

    def save(step: int) -> None:
        remote.save_sharded_remote(
            {"state_dict/w": torch.full((3,), float(step))}, rest | {"global_step": step}, address
        )

    save(1)
    for refused in ("__0_0", "meta.pt"):
        monkeypatch.setenv(REFUSED, refused)
        with pytest.raises(ValueError, match=f"cannot be written .*no right to write {refused}"):
            save(2)
        shutil.rmtree(tmp_path / remote.CACHE, ignore_errors=True)  # what is there, and not what was fetched before
        found = load_whole_checkpoint(address)
        assert found["global_step"] == 1 and found["state_dict"]["w"].tolist() == [1, 1, 1]
    monkeypatch.delenv(REFUSED)
    save(3)
    assert load_whole_checkpoint(address)["state_dict"]["w"].tolist() == [3, 3, 3]
    assert len(list((tmp_path / "bucket/last.ckpt").iterdir())) == 2
    consolidate(address, tmp_path / "one.ckpt")
    assert load_checkpoint(tmp_path / "one.ckpt")["global_step"] == 3


def test_a_meta_file_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    from lit_recycle.checkpoints.atomic import save

    save({"checksums": {"../../x": (1, "")}, "shards": "a"}, tmp_path / "bucket/a.ckpt/meta.pt")
    with pytest.raises(ValueError, match="which is no shard"):
        remote.fetch(f"store://{tmp_path}/bucket/a.ckpt")


def test_in_memory_and_by_the_address_of_a_file(tmp_path: Path) -> None:
    there = ModelCheckpoint(
        "memory://bucket/run", "{step}", save_top_k=2, monitor="step", mode="max", every_n_train_steps=1
    )
    fit(tmp_path / "run", steps=3, events=[], callbacks=[there])
    assert [place for _, place in sorted(remote.checkpoints_at("memory://bucket/run"))] == [
        "memory:///bucket/run/step=2.ckpt",
        "memory:///bucket/run/step=3.ckpt",
    ]
    here = tmp_path / "run/checkpoints/step=3.ckpt"
    assert_same_training_state("memory://bucket/run/step=3.ckpt", here)
    assert_same_training_state(here.as_uri(), here)
    _, module, _ = fit(
        tmp_path / "on", steps=1, events=[], config=None, module={"init_from": "memory://bucket/run/step=3.ckpt"}
    )
    assert module.shape == fit(tmp_path / "again", steps=1, events=[])[1].shape


def test_commands_that_read_a_checkpoint_read_it_at_its_address(sent: Path, tmp_path: Path) -> None:
    here = [str(sent / f"auto/checkpoints/step={step}.ckpt") for step in (4, 5)]
    for name, sources in {"here": here, "there": [f"store://{path}" for path in here]}.items():
        assert main(["grow", sources[-1], str(tmp_path / f"{name}-grown.ckpt"), "--depth", "2"]) == 0
        assert main(["merge", *sources, str(tmp_path / f"{name}-merged.ckpt")]) == 0
    for what in ("grown", "merged"):
        assert_same_training_state(tmp_path / f"there-{what}.ckpt", tmp_path / f"here-{what}.ckpt")


def test_what_is_advised_for_a_checkpoint_at_its_address(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = sent / "auto/checkpoints/step=4.ckpt", str(config(tmp_path))
    said = []
    for source in (str(path), f"store://{path}"):
        assert main(["advise", "--ckpt_path", source, "--config", run, "--flops", "1e12"]) == 0
        said.append(capsys.readouterr().out.replace(source, "…"))
    assert said[0] == said[1] and "F_c are sunk" in said[0]


def test_branches_are_merged_of_a_checkpoint_at_its_address(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This one has none, which is seen when it has been read."""
    source = f"store://{sent}/auto/checkpoints/step=4.ckpt"
    assert main(["merge-branches", source, str(tmp_path / "plain.ckpt")]) == 2
    assert "was trained without branches" in capsys.readouterr().err


def test_a_model_s_folder_at_an_address_is_to_be_copied(tmp_path: Path) -> None:
    (tmp_path / "bucket/model").mkdir(parents=True)
    (tmp_path / "bucket/model/config.json").write_text("{}")
    with pytest.raises(ValueError, match="copy it to this machine first"):
        remote.fetch(f"store://{tmp_path}/bucket/model")


def test_of_those_of_one_second_the_one_of_the_last_step_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["anchor-step=2.ckpt", "step=10.ckpt", "step=9.ckpt", "last.ckpt"]
    monkeypatch.setattr(find, "checkpoints_at", lambda folder: [(7.0, f"{folder}/{name}") for name in names])
    callbacks = [SimpleNamespace(dirpath="store://b")]
    trainer = SimpleNamespace(callbacks=callbacks, checkpoint_callbacks=callbacks, default_root_dir=tmp_path)
    assert checkpoints_of(trainer)[:2] == ["store://b/step=10.ckpt", "store://b/step=9.ckpt"]


def test_paths_and_addresses() -> None:
    assert place_of("file:///a/b%20c") == Path("/a/b c") and place_of("s3://b/c") == "s3://b/c"
    assert within(Path("/a"), "b") == Path("/a/b") and within("s3://a/", "b") == "s3://a/b"


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_from_the_last_at_the_address(tmp_path: Path) -> None:
    whole = start("fit", "--config", config(tmp_path / "whole"), log=tmp_path / "whole.log")
    path = config(tmp_path / "run")
    path.write_text(path.read_text().replace("${trainer.default_root_dir}/checkpoints", f"store://{tmp_path}/bucket"))
    kill = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", "step=5")
    for options in (kill, ()):
        argv = ("fit", "--config", path, *options, "--ckpt_path", "last")
        run = start(*argv, log=tmp_path / "log", before=open_store)
        codes = run.wait()
    assert codes == [0], run.output
    assert whole.wait() == [0], whole.output
    assert not (tmp_path / "run/checkpoints").exists()
    assert_same_training_state(tmp_path / "whole/checkpoints/step=6.ckpt", f"store://{tmp_path}/bucket/step=6.ckpt")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("checkpoints", "nowhere://bucket/run", "Protocol not known: nowhere"),
        ("checkpoints", "store:///proc/none/bucket", "store:///proc/none/bucket cannot be written"),
        ("root", "s3://bucket/run", "trainer.default_root_dir s3://bucket/run must be a folder on disk"),
    ],
)
def test_addresses_that_cannot_be_are_refused_before_the_run(tmp_path: Path, key: str, value: str, words: str) -> None:
    path = config(tmp_path / "run")
    if key == "checkpoints":
        path.write_text(path.read_text().replace("${trainer.default_root_dir}/checkpoints", value))
    options = ("--trainer.default_root_dir", value) if key == "root" else ()
    run = start("fit", "--config", path, *options, log=tmp_path / "log", before=open_store)
    assert run.wait() == [2], run.output
    assert len(run.errors) == 1 and words in run.errors[0], run.output
