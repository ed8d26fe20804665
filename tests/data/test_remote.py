"""Files on servers are read as the same files on disk are."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from data.range_server import served
from data.token_files import FORMATS, flat, some_documents

from lit_recycle.data import remote, remote_blocks
from lit_recycle.data.config import Source
from lit_recycle.data.module import TextData
from lit_recycle.data.opened import OpenSource, Preparation
from lit_recycle.data.tokenizer import ByteTokenizer


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(remote_blocks, "BLOCK", 4096)
    monkeypatch.setattr(remote_blocks.time, "sleep", lambda seconds: None)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    with served(tmp_path / "served") as folder:
        yield folder


def preparation(cache: Path) -> Preparation:
    return Preparation(ByteTokenizer(), str(cache), "text", 0.1)


def opened(path: str | list[str], cache: Path) -> OpenSource:
    how, source = preparation(cache), Source("it", path)
    return how.open(source, how.prepare(source))


def all_ids(source: OpenSource) -> list[int]:
    return [*source.train.tokens.read(0, len(source.train.tokens)).tolist()]


@pytest.mark.parametrize("name", FORMATS)
def test_tokenised_files_are_those_on_disk(tmp_path, name):
    path = FORMATS[name](tmp_path, some_documents())
    here, there = opened(str(path), tmp_path / "a"), opened(path.as_uri(), tmp_path / "b")
    assert there.key == here.key
    assert all_ids(there) == all_ids(here)


@pytest.mark.parametrize("name", ["corpus_text_document.bin", "corpus_text_document.idx", "corpus_text_document"])
def test_a_megatron_dataset_has_three_names(tmp_path, name):
    path = FORMATS["Megatron"](tmp_path, some_documents())
    assert all_ids(opened((tmp_path / name).as_uri(), tmp_path / "b")) == all_ids(opened(str(path), tmp_path / "a"))


@pytest.mark.parametrize("pattern", ["", "/*.txt", "/0?.txt", "/07.txt"])
def test_text_is_that_on_disk(tmp_path, books, pattern):
    here, there = opened(f"{books}{pattern}", tmp_path / "a"), opened(f"file://{books}{pattern}", tmp_path / "b")
    assert there.key == here.key
    assert all_ids(there) == all_ids(here)


def test_over_http(tmp_path, server, json_lines):
    for name, content in (("a.jsonl", json_lines.read_text()), ("b.jsonl", json_lines.read_text().upper())):
        (server.root / name).write_text(content.replace("TEXT", "text"))
    here = opened([f"{server.root}/a.jsonl", f"{server.root}/b.jsonl"], tmp_path / "a")
    there = opened([f"{server.url}/a.jsonl", f"{server.url}/b.jsonl"], tmp_path / "b")
    assert there.key == here.key
    assert all_ids(there) == all_ids(here)


def test_a_block_is_fetched_when_it_is_read_and_only_once(tmp_path, server):
    flat(server.root / "ids.bin", [np.full(2048, number % 250) for number in range(64)])
    remote.fetch(f"{server.url}/ids.bin", tmp_path)
    assert server.given["ids.bin"] == 4096  # what may be a header
    source = opened(f"{server.url}/ids.bin", tmp_path)
    looked_at = server.given["ids.bin"]
    assert source.train.tokens.read(2048 * 7 - 1, 3).tolist() == [6, 7, 7]
    assert server.given["ids.bin"] <= max(looked_at, 64 * 4096)
    before = server.given["ids.bin"]
    assert all_ids(opened(f"{server.url}/ids.bin", tmp_path))[:5] == [0] * 5
    assert server.given["ids.bin"] == max(before, 64 * 4096)


def test_a_window_fetches_few_blocks(tmp_path, server):
    """Of 4,096 blocks a looking over takes some 70, and each window 64 stretches of a block each."""
    flat(server.root / "ids.bin", [np.arange(2048 * 4096) % 250])
    data = TextData(f"{server.url}/ids.bin", seq_len=256, batch_size=64, cache_dir=str(tmp_path), shuffle_window=512)
    data.prepare_data()
    data.setup()
    opening = server.given["ids.bin"] // 4096
    assert opening < 80
    batches = iter(data.train_dataloader())
    seen = []
    for _ in range(8):
        next(batches)
        seen.append(server.given["ids.bin"] // 4096 - opening)
    assert seen[-1] <= 64 + 64  # a sample may reach into the next block
    assert seen[-1] - seen[-2] < seen[0]


def test_worker_processes_fetch_for_themselves(tmp_path, server):
    flat(server.root / "ids.bin", some_documents(2000))
    options = {"seq_len": 64, "batch_size": 4, "shuffle_window": 128}
    found = []
    for path, workers, cache in ((f"{server.url}/ids.bin", 2, "a"), (str(server.root / "ids.bin"), 0, "b")):
        data = TextData(path, num_workers=workers, cache_dir=str(tmp_path / cache), **options)
        data.prepare_data()
        data.setup()
        batches = iter(data.train_dataloader())
        found.append([next(batches)["input_ids"].tolist() for _ in range(6)])
    assert found[0] == found[1]


def test_what_has_changed_on_the_server_is_fetched_anew(tmp_path, server):
    first, second = (np.full(5000, number) for number in (1, 2))
    flat(server.root / "ids.bin", [first])
    (server.root / "more.txt").write_text("one")
    paths = [f"{server.url}/ids.bin"]
    assert set(all_ids(opened(paths, tmp_path))) == {1}
    flat(server.root / "ids.bin", [second])
    os.utime(server.root / "ids.bin", ns=(1, 1))
    assert set(all_ids(opened(paths, tmp_path))) == {2}


def test_what_is_gone_from_the_server_is_forgotten(tmp_path, books):
    opened(f"file://{books}", tmp_path / "cache")
    (books / "07.txt").unlink()
    assert opened(f"file://{books}", tmp_path / "cache").key == opened(str(books), tmp_path / "other").key


def test_a_fetch_that_was_killed_goes_on(tmp_path, books, monkeypatch):
    whole, fetched = remote._fetch_whole, []

    def killed(file, path):
        if len(fetched) == 30:
            path.write_text("hal")
            raise KeyboardInterrupt
        fetched.append(Path(file.name).name)
        whole(file, path)

    monkeypatch.setattr(remote, "_fetch_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(f"file://{books}", tmp_path / "cache")
    assert not remote.is_fetched(f"file://{books}", tmp_path / "cache")
    monkeypatch.setattr(
        remote, "_fetch_whole", lambda file, path: (fetched.append(Path(file.name).name), whole(file, path))
    )
    assert opened(f"file://{books}", tmp_path / "cache").key == opened(str(books), tmp_path / "other").key
    assert sorted(fetched) == sorted(file.name for file in books.iterdir())


def test_a_damaged_list_of_files_is_made_anew(tmp_path, books):
    expected = opened(f"file://{books}", tmp_path / "cache").key
    (listed,) = (tmp_path / "cache").rglob(remote.MANIFEST)
    listed.write_bytes(b"\xff\x00" + listed.read_bytes()[40:])
    assert opened(f"file://{books}", tmp_path / "cache").key == expected


def test_nothing_is_written_outside_of_the_cache(tmp_path, server):
    """A folder's page that links to a file of another folder, and above itself."""
    (server.root / "corpus").mkdir()
    for name in ("corpus/mine.txt", "other.txt"):
        (server.root / name).write_text("some text\n" * 40)
    server.links = ["/corpus/mine.txt", "/other.txt", "/corpus/../other.txt"]
    opened(f"{server.url}/corpus", tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").rglob("*.txt")] == ["mine.txt"]


def test_a_server_that_fails_for_a_moment_is_asked_again(tmp_path, server, caplog):
    flat(server.root / "ids.bin", some_documents(2000))
    source = opened(f"{server.url}/ids.bin", tmp_path)
    for copy in (tmp_path / "remote").rglob("*.blocks"):
        np.zeros(copy.stat().st_size // 8, "<u8").tofile(copy)
    source = opened(f"{server.url}/ids.bin", tmp_path)
    server.failures = 2
    np.zeros(copy.stat().st_size // 8, "<u8").tofile(copy)
    expected = flat(tmp_path / "ids.bin", some_documents(2000)).read_bytes()
    assert source.train.tokens.read(0, 3000).astype("<u2").tobytes() == expected[:6000]
    assert "is asked for again" in caplog.text


def test_a_server_that_is_gone(tmp_path, server):
    flat(server.root / "ids.bin", some_documents(2000))
    remote.fetch(f"{server.url}/ids.bin", tmp_path)
    server.failures = 10**6
    with pytest.raises(ValueError, match=r"^http://127.*ids.bin, bytes [0-9,]+ to [0-9,]+, cannot be read .*503"):
        preparation(tmp_path).open(Source("it", f"{server.url}/ids.bin"), None)


def test_a_damaged_block(tmp_path, server):
    flat(server.root / "ids.bin", some_documents(2000))
    opened(f"{server.url}/ids.bin", tmp_path)
    (copy,) = (tmp_path / "remote").rglob("ids.bin")
    with open(copy, "r+b") as stream:
        stream.write(b"\xff")
    with pytest.raises(ValueError, match=r"ids.bin is damaged: remove .*, it will be fetched anew"):
        opened(f"{server.url}/ids.bin", tmp_path)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("http://127.0.0.1:9/ids.bin", "path=.http://127.0.0.1:9/ids.bin.*does not answer"),
        ("file:///nowhere/ids.bin", "path='file:///nowhere/ids.bin'.*no files of ids are there"),
        ("file:///nowhere/*.txt", "path='file:///nowhere/.*no files of ids are there"),
        ("gopher://server/ids.bin", "gopher://server/ids.bin cannot be read .*gopher"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(tmp_path, path, told):
    with pytest.raises(ValueError, match=told) as raised:
        opened(path, tmp_path)
    assert "\n" not in str(raised.value)


def test_without_the_package_of_a_protocol(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"s3://bucket/ids.bin needs a package that is not installed: .*s3fs"):
        opened("s3://bucket/ids.bin", tmp_path)


def test_a_plan_asks_no_server(tmp_path, server):
    flat(server.root / "ids.bin", some_documents())
    how, source = preparation(tmp_path), Source("it", f"{server.url}/ids.bin")
    assert how.tokens(source) is None
    how.prepare(source)
    server.shutdown()
    assert how.tokens(source) == len(how.open(source, None).train.tokens)
