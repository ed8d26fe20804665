import errno
import fcntl
import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from damage import flip

from lit_recycle.data import blocks, digests, token_files
from lit_recycle.data import corpus as corpus_module
from lit_recycle.data.batches import Samples
from lit_recycle.data.blocks import BLOCK
from lit_recycle.data.corpus import Corpus, Split, known_corpus, prepare_corpus, prepare_ids
from lit_recycle.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer


def prepare(
    path: Path | str,
    cache: Path,
    tokenizer: Tokenizer | None = None,
    text_field: str = "text",
    val_fraction: float = 0.2,
) -> Path:
    return prepare_corpus(str(path), tokenizer or ByteTokenizer(), cache, text_field, val_fraction)


def made(cache: Path) -> list[Path]:
    """All that is in a cache but the digests, which are kept of files of some age."""
    return [path for path in cache.iterdir() if path.name != "digests.json"]


def samples_of(split: Split, seq_len: int) -> Samples:
    return Samples(split.ids(ByteTokenizer().vocab_size), seq_len, "the split")


def documents(split: Split, tokenizer: Tokenizer) -> list[str]:
    ids = np.fromfile(split.path, dtype=split.dtype)
    assert len(ids) == split.tokens and ids[-1] == tokenizer.eos_id
    texts = [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)[:-1]]
    assert len(texts) == split.documents and sum(len(text.encode()) for text in texts) == split.bytes
    return texts


@pytest.mark.parametrize("spec", ["bytes", "json"])
def test_every_document_is_in_one_split_whole_and_in_order(books, tmp_path, bpe_json, spec):
    tokenizer = load_tokenizer("bytes" if spec == "bytes" else str(bpe_json))
    corpus = Corpus.open(prepare(books, tmp_path / "cache", tokenizer))
    train, val = documents(corpus.train, tokenizer), documents(corpus.val, tokenizer)
    texts = [path.read_text() for path in sorted(books.iterdir())]
    assert sorted(train + val) == sorted(texts) and not set(train) & set(val)
    assert train == [text for text in texts if text in set(train)]
    assert 3 <= len(val) <= 25  # 12 of 60 expected
    assert corpus.val.bytes_per_token == corpus.val.bytes / corpus.val.tokens
    assert (corpus.val.bytes_per_token > 1.2) == (spec == "json")
    assert made(tmp_path / "cache") == [tmp_path / "cache" / f"corpus-{corpus.key}"]


def test_a_document_and_its_duplicates_keep_their_split(books, tmp_path):
    before = Corpus.open(prepare(books, tmp_path / "cache"))
    for path in list(books.iterdir()):
        (books / f"again-{path.name}").write_bytes(path.read_bytes())
    (books / "00-new.txt").write_text("a new one")
    after = Corpus.open(prepare(books, tmp_path / "cache"))
    assert before.key != after.key
    tokenizer = ByteTokenizer()
    old, new = set(documents(before.val, tokenizer)), set(documents(after.val, tokenizer))
    assert new - {"a new one"} == old and not new & set(documents(after.train, tokenizer))


def test_one_book_keeps_its_end_for_validation(tmp_path):
    text = "".join(f"verse {i}\n" for i in range(1000))
    (tmp_path / "input.txt").write_text(text)
    corpus = Corpus.open(prepare(tmp_path / "input.txt", tmp_path / "cache", val_fraction=0.1))
    tokenizer = ByteTokenizer()
    train, val = (tokenizer.decode(np.fromfile(s.path, dtype=s.dtype)) for s in (corpus.train, corpus.val))
    assert train + val == text and 0.09 < len(val) / len(text) < 0.11
    assert (corpus.train.bytes, corpus.val.bytes) == (len(train), len(val))
    assert corpus.train.tokens + corpus.val.tokens == len(text) + 1


def test_the_cache_is_reused_until_contents_tokenizer_or_split_change(books, tmp_path, bpe_json, monkeypatch):
    cache = tmp_path / "cache"
    first = prepare(books, cache)
    stamp = (first / "train.bin").stat().st_mtime_ns
    moved = books.rename(tmp_path / "elsewhere")
    (moved / "00.txt").touch()
    assert prepare(moved, cache) == first and (first / "train.bin").stat().st_mtime_ns == stamp
    others = [
        prepare(moved, cache, load_tokenizer(str(bpe_json))),
        prepare(moved, cache, val_fraction=0.3),
    ]
    (moved / "00.txt").write_text((moved / "00.txt").read_text().replace("cat", "cow"))
    others.append(prepare(moved, cache))
    (moved / "00.txt").rename(moved / "99.txt")
    others.append(prepare(moved, cache))
    assert len({first, *others}) == 5


def test_a_known_corpus_is_found_without_reading_a_file(books, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def known():
        with monkeypatch.context() as patch:
            patch.setattr(digests, "_look", lambda *_: pytest.fail("a file was read"))
            return known_corpus(str(books), ByteTokenizer(), cache, "text", 0.2)

    assert known() is None
    monkeypatch.setattr(digests, "SETTLED_NS", 0)  # files of a moment ago
    folder = prepare(books, cache)
    assert known() == Corpus.open(folder)
    (books / "00.txt").write_text("another")
    assert known() is None
    prepare(books, cache)
    (books / "61.txt").write_text("one more")
    assert known() is None


@pytest.mark.parametrize("damage", ["cut", "meta", "missing", "json", "a digit", "sums"])
def test_a_damaged_cache_is_refused_and_made_anew(books, tmp_path, damage, caplog):
    folder = prepare(books, tmp_path / "cache")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    if damage == "cut":
        (folder / "train.bin").write_bytes(whole["train.bin"][:-2])
    elif damage == "meta":
        (folder / "meta.json").unlink()
    elif damage == "missing":
        (folder / "val.bin").unlink()
    elif damage == "sums":
        flip(folder / "train.sums", 0)
    elif damage == "a digit":
        bytes_of_val = json.loads(whole["meta.json"])["splits"]["val"]["bytes"]
        said, wrong = (f'"bytes": {n}'.encode() for n in (bytes_of_val, bytes_of_val + 1))
        (folder / "meta.json").write_bytes(whole["meta.json"].replace(said, wrong))
    else:
        (folder / "meta.json").write_bytes(whole["meta.json"][:50])
    with pytest.raises(ValueError, match="is not a whole tokenised corpus"):
        Corpus.open(folder)
    with caplog.at_level(logging.WARNING):
        assert prepare(books, tmp_path / "cache") == folder
    assert "is damaged and is made anew" in caplog.text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert made(tmp_path / "cache") == [folder]


def test_a_failure_leaves_nothing_behind(json_lines, tmp_path):
    with json_lines.open("a") as stream:
        stream.write("not JSON")
    with pytest.raises(ValueError, match="line 6"):
        prepare(json_lines, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_slower_of_two_processes_discards_its_own(books, tmp_path, monkeypatch):
    """The other process publishes while this one is still tokenising."""
    cache, tokenise = tmp_path / "cache", corpus_module.tokenise

    def overtaken(*args):
        monkeypatch.setattr(corpus_module, "tokenise", tokenise)
        winner.append(prepare(books, cache))
        (winner[0] / "winner").touch()
        return tokenise(*args)

    winner = []
    monkeypatch.setattr(corpus_module, "tokenise", overtaken)
    assert [prepare(books, cache)] == winner
    assert (winner[0] / "winner").exists() and made(cache) == winner
    Corpus.open(winner[0])


def _prepare_at_once(barrier, books, cache):
    barrier.wait()
    prepare(books, cache)


def test_processes_that_start_together_leave_one_whole_corpus(books, tmp_path):
    context, cache = multiprocessing.get_context("fork"), tmp_path / "cache"
    barrier = context.Barrier(4)
    processes = [context.Process(target=_prepare_at_once, args=(barrier, books, cache)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    (folder,) = made(cache)
    assert Corpus.open(folder).train.documents > 0


def test_large_vocabularies_get_wider_ids(books, tmp_path):
    class Wide(ByteTokenizer):
        vocab_size, eos_id, fingerprint = 2**16 + 1, 2**16, "wide"

        def encode_batch(self, texts):
            return [self.encode(text) + 2**16 - 256 for text in texts]

    corpus = Corpus.open(prepare(books, tmp_path / "cache", Wide()))
    assert corpus.train.dtype == "uint32"
    assert np.fromfile(corpus.train.path, dtype="uint32").max() == 2**16


def test_what_was_left_out_is_said_and_kept(books, tmp_path, caplog):
    (books / "bad.txt").write_bytes(b"\xff")
    (books / "weights.bin").write_bytes(b"ids")
    folder = prepare(books, tmp_path / "cache")
    assert f"files left out because they are not UTF-8 text: 1 ({books / 'bad.txt'})" in caplog.text
    assert f"endings are not those of text: 1 ({books / 'weights.bin'})" in caplog.text
    assert json.loads((folder / "meta.json").read_text())["oddities"].popitem()[1] == 1


def test_no_text_at_all(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="holds no text to train on"):
        prepare(tmp_path / "empty.txt", tmp_path / "cache")


def test_a_damaged_block_is_found_when_it_is_read_and_no_sooner(books, tmp_path):
    for i in range(40):
        (books / f"long-{i}.txt").write_text(f"{i} " * 8000)
    corpus = Corpus.open(prepare(books, tmp_path / "cache"))
    content = corpus.train.path.read_bytes()
    assert len(content) > 4 * BLOCK
    seq_len = 16
    for block in (0, 2, len(content) // BLOCK):
        spoilt = bytearray(content)
        at = block * BLOCK + 10
        spoilt[at] ^= 4
        corpus.train.path.write_bytes(spoilt)
        samples, width = samples_of(corpus.train, seq_len), seq_len * 2
        for row in range(len(samples)):
            if block not in (row * width // BLOCK, (row * width + width + 1) // BLOCK):
                samples.ids(row)
        with pytest.raises(ValueError, match=r"train\.bin is damaged.*remove .*made anew"):
            samples.ids(at // width)
        if block:
            with pytest.raises(ValueError, match=r"train\.bin is damaged"):
                samples.ids((block * BLOCK - 2) // width)
    corpus.train.path.write_bytes(content)
    samples = samples_of(corpus.train, seq_len)
    for row in range(len(samples)):
        samples.ids(row)


def test_a_block_is_looked_at_once(books, tmp_path, monkeypatch):
    corpus = Corpus.open(prepare(books, tmp_path / "cache"))
    samples, looked = samples_of(corpus.train, 16), []
    monkeypatch.setattr(
        blocks, "_sum", lambda content, block, sum_of=blocks._sum: looked.append(block) or sum_of(content, block)
    )
    for _ in range(2):
        for row in range(len(samples)):
            samples.ids(row)
    assert looked == list(range(-(-corpus.train.path.stat().st_size // BLOCK)))


def test_leftovers_of_a_killed_process_go_and_work_of_a_living_one_stays(books, tmp_path):
    cache = tmp_path / "cache"
    dead, alive, young = (cache / f".corpus-{name}" for name in ("dead", "alive", "young"))
    for left in (dead, alive, young):
        (left / "corpus").mkdir(parents=True)
    (dead / "lock").touch()
    with open(alive / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare(books, cache)
        assert not dead.exists() and alive.exists() and young.exists()


def test_a_full_disk_is_told_with_its_place(books, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(token_files._Writer, "add", full)
    with pytest.raises(OSError) as caught:
        prepare(books, tmp_path / "cache")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_copied_ids_carry_checksums_too(tmp_path):
    documents = [np.arange(10, 10 + n) for n in range(1, 200)]
    folder = prepare_ids(iter(documents), 1, "key", ByteTokenizer(), tmp_path, 0.1, leaves_out=True)
    for split in (Corpus.open(folder).train, Corpus.open(folder).val):
        assert split.dtype == "int32"
        samples_of(split, 8).ids(3)
        flip(split.path, 0)
        with pytest.raises(ValueError, match=rf"{split.path.name} is damaged"):
            list(map(samples_of(split, 1).ids, range(split.tokens - 1)))
