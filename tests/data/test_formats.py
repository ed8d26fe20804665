"""Tokenised data in other projects' formats gives the ids that were written, and what is wrong with it is told."""

import json
import os
import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from data import token_files
from data.token_files import COPIED, EOS, FORMATS, KNOWS_DOCUMENTS, flat, llm_c, some_documents
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.commands.errors import sentence
from lit_recycle.data.blocks import BLOCK, write_sums
from lit_recycle.data.config import Source
from lit_recycle.data.formats.find import find_tokens
from lit_recycle.data.module import TextData
from lit_recycle.data.opened import OpenSource, Preparation
from lit_recycle.data.tokenizer import ByteTokenizer, Tokenizer
from lit_recycle.data.tokens import Piece, Tokens

DOCUMENTS = some_documents()
FLAT = np.concatenate(DOCUMENTS)


def opened(path: Path | str | list[str], cache: Path, tokenizer: Tokenizer | None = None, **options) -> OpenSource:
    how = Preparation(tokenizer or ByteTokenizer(), str(cache), "text", options.pop("val_fraction", 0.1))
    source = Source("it", path if isinstance(path, list) else str(path), **options)
    return how.open(source, how.prepare(source))


def all_ids(source: OpenSource) -> np.ndarray:
    return np.concatenate([part.read(0, len(part)) for part in (source.train.tokens, source.val.tokens)])


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_those_that_were_written(tmp_path, name):
    source = opened(FORMATS[name](tmp_path, DOCUMENTS), tmp_path / "cache")
    if name in COPIED:
        parts = (
            np.split(part.read(0, len(part)), np.flatnonzero(part.read(0, len(part)) == EOS) + 1)[:-1]
            for part in (source.train.tokens, source.val.tokens)
        )
        assert sorted(ids.tolist() for part in parts for ids in part) == sorted(ids.tolist() for ids in DOCUMENTS)
    else:
        np.testing.assert_array_equal(all_ids(source), FLAT)
        assert not (tmp_path / "cache").exists()
    assert abs(len(source.val.tokens) / len(FLAT) - 0.1) < 0.05
    text = source.val.tokens.read(0, len(source.val.tokens))
    assert source.val.bytes_per_token() == len(ByteTokenizer().decode(text).encode()) / len(text)


@pytest.mark.parametrize("name", KNOWS_DOCUMENTS)
def test_borders_of_documents_are_known(tmp_path, name):
    files = find_tokens(str(FORMATS[name](tmp_path, DOCUMENTS)), "uint16", "text")
    assert files.document_count == len(DOCUMENTS)
    ends = np.cumsum([len(ids) for ids in DOCUMENTS])
    np.testing.assert_array_equal(files.document_ends(np.arange(len(DOCUMENTS))), ends)
    np.testing.assert_array_equal(files.document_ends(np.array([299, 3])), ends[[299, 3]])


@pytest.mark.parametrize("name", [*KNOWS_DOCUMENTS, "Parquet"])
def test_documents_without_an_end_get_one(tmp_path, name, caplog):
    bare = [ids[:-1] for ids in DOCUMENTS]
    source = opened(FORMATS[name](tmp_path, bare), tmp_path / "cache")
    together = all_ids(source)
    parts = np.split(together, np.flatnonzero(together == EOS) + 1)[:-1]
    assert sorted(ids.tolist() for ids in parts) == sorted(ids.tolist() for ids in DOCUMENTS)
    assert ("do not end with the id 256" in caplog.text) == (name in KNOWS_DOCUMENTS)


def test_several_files_are_one_sequence(tmp_path):
    for number, part in enumerate((DOCUMENTS[:50], DOCUMENTS[50:51], DOCUMENTS[51:])):
        (tmp_path / f"{number}").mkdir()
        flat(tmp_path / f"{number}" / "ids.bin", part)
    for path in (tmp_path / "*" / "ids.bin", [str(tmp_path / f"{i}/ids.bin") for i in range(3)], tmp_path):
        np.testing.assert_array_equal(all_ids(opened(path, tmp_path / "cache")), FLAT)


def test_a_megatron_dataset_has_three_names(tmp_path):
    path = token_files.megatron(tmp_path, DOCUMENTS)
    for name in (path, path.with_suffix(""), path.with_suffix(".idx"), tmp_path / "*", tmp_path):
        np.testing.assert_array_equal(all_ids(opened(name, tmp_path / "cache")), FLAT)


@given(data=st.data())
def test_any_stretch_of_any_pieces(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("pieces")
    pieces, whole = [], []
    for number in range(data.draw(st.integers(1, 4))):
        size, offset = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 3))
        dtype = data.draw(st.sampled_from(["uint16", "int32", "uint32", "int64"]))
        ids = np.arange(len(whole), len(whole) + size).astype(dtype)
        (folder / f"{number}").write_bytes(b"\xff" * offset + ids.tobytes() + b"\xff")
        pieces.append(Piece(folder / f"{number}", dtype, size, offset))
        whole += ids.tolist()
    start, stop = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    tokens = Tokens.of(tuple(pieces), below=100)[start:stop]
    begin = data.draw(st.integers(0, stop - start))
    count = data.draw(st.integers(0, stop - start - begin))
    assert tokens.read(begin, count).tolist() == whole[start:stop][begin : begin + count]


def test_a_piece_is_verified_where_it_lies_in_its_file(tmp_path):
    path, offset = tmp_path / "ids", 6
    path.write_bytes(b"\xff" * offset + np.arange(BLOCK, dtype=np.uint16).tobytes())
    write_sums(path, tmp_path / "sums")
    with path.open("r+b") as file:
        file.seek(BLOCK)  # the first byte of the second block
        file.write(b"\xff")
    tokens = Tokens.of((Piece(path, "uint16", BLOCK, offset, tmp_path / "sums"),), below=BLOCK)
    border = (BLOCK - offset) // 2
    assert tokens.read(border - 9, 9).tolist() == [*range(border - 9, border)]
    with pytest.raises(ValueError, match="ids is damaged"):
        tokens.read(border - 8, 9)


def test_text_stays_text(books, tmp_path):
    """Stray .bin files in a folder of text are no ids, and a dataset of text is read as text."""
    import datasets

    flat(books / "weights.bin", DOCUMENTS)
    assert find_tokens(str(books), "uint16", "text") is None
    texts = [f"text {i} of a dataset" for i in range(40)]
    datasets.Dataset.from_dict({"text": texts, "n": range(40)}).save_to_disk(tmp_path / "saved")
    source = opened(tmp_path / "saved", tmp_path / "cache")
    found = ByteTokenizer().decode(all_ids(source)).split("text ")
    assert sorted(found[1:]) == sorted(text.removeprefix("text ") for text in texts)


# --- what is wrong ---------------------------------------------------------------------------------------------------

TRUNCATED = {name: "truncated" for name in FORMATS} | {"Parquet": "not a Parquet file"}


def data_file(path: Path) -> Path:
    return path if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".bin", ".arrow"))[0]


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file(tmp_path, name):
    path = FORMATS[name](tmp_path, DOCUMENTS)
    file = data_file(path)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=TRUNCATED[name]) as raised:
        opened(path, tmp_path / "cache")
    assert file.name in str(raised.value)


@pytest.mark.parametrize("name", FORMATS)
def test_ids_beyond_the_vocabulary(tmp_path, name):
    wrong = [ids + 1 for ids in DOCUMENTS]
    with pytest.raises(ValueError, match=r"257.* the tokenizer has ids below 257"):
        opened(FORMATS[name](tmp_path, wrong), tmp_path / "cache")


def test_an_id_that_no_look_has_met_is_refused_when_it_is_read(tmp_path):
    many = [np.append(np.full(4095, 65), EOS) for _ in range(100)]
    many[50][1000:1003] = 300
    source = opened(flat(tmp_path / "ids.bin", many), tmp_path / "cache")
    source.train.tokens.read(50 * 4096, 1000)
    with pytest.raises(ValueError, match=r"ids\.bin holds the id 300"):
        source.train.tokens.read(50 * 4096, 1001)


def test_a_process_that_gathers_data_tells_it_in_the_same_sentence(tmp_path):
    many = [np.append(np.full(4095, 65), EOS) for _ in range(100)]
    many[50][1000:1003] = 300
    path, cache = flat(tmp_path / "ids.bin", many), str(tmp_path / "cache")
    data = TextData(str(path), seq_len=4096, batch_size=50, num_workers=1, cache_dir=cache)
    data.prepare_data()
    data.setup()
    with pytest.raises(ValueError, match="DataLoader worker") as raised:
        [*islice(data.train_dataloader(), 3)]
    told = sentence(raised.value)
    assert told and told.startswith(f"{path} holds the id 300, and the tokenizer has ids below 257")


@pytest.mark.parametrize(("written", "read"), [("uint32", "uint16"), ("uint16", "uint32"), ("int64", "uint16")])
def test_the_wrong_type_of_a_bare_file(tmp_path, written, read):
    path = flat(tmp_path / "ids.npy", DOCUMENTS + [np.array([1])] * (len(FLAT) % 2), written)
    with pytest.raises(ValueError, match="dtype"):
        opened(path, tmp_path / "cache", dtype=read)
    assert len(all_ids(opened(path, tmp_path / "cache", dtype=written))) in (len(FLAT), len(FLAT) + 1)


def _spoil_index(folder: Path, change) -> Path:
    path = token_files.megatron(folder, DOCUMENTS)
    index = path.with_suffix(".idx")
    data = bytearray(index.read_bytes())
    index.write_bytes(bytes(change(data)))
    return path


def _spoil_json(folder: Path, **changes) -> Path:
    path = token_files.litdata(folder, DOCUMENTS)
    index = json.loads((path / "index.json").read_text())
    index["config"] |= changes
    (path / "index.json").write_text(json.dumps(index))
    return path


def _without(path: Path, name: str) -> Path:
    (path / name).unlink()
    return path


def _splits(folder: Path) -> Path:
    import datasets

    made = datasets.Dataset.from_dict({"input_ids": [[1]]})
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(folder / "dict")
    return folder / "dict"


def _column(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"tokens": [[1]]}).save_to_disk(folder / "other")
    return folder / "other"


WRONG = {
    "index without its magic": (lambda f: _spoil_index(f, lambda d: b"XX" + d[2:]), "not an index of Megatron"),
    "index of floats": (lambda f: _spoil_index(f, lambda d: d[:17] + b"\x06" + d[18:]), "type 6"),
    "short index": (lambda f: _spoil_index(f, lambda d: d[:-5]), r"\.idx is truncated"),
    "header cut off": (lambda f: _spoil_index(f, lambda d: d[:20]), "not an index of Megatron"),
    "index alone": (
        lambda f: (
            _without(f, "corpus_text_document.bin") / "corpus_text_document.idx"
            if token_files.megatron(f, DOCUMENTS)
            else f
        ),
        "has no corpus_text_document.bin beside it",
    ),
    "llm.c of 3 bytes": (lambda f: llm_c(f / "x.bin", DOCUMENTS, 278895051, 3), "3 bytes per id"),
    "litdata of pictures": (lambda f: _spoil_json(f, data_format=["jpeg"]), "item_loader=TokensLoader"),
    "litdata of floats": (lambda f: _spoil_json(f, data_format=["no_header_tensor:0"]), "no integer type"),
    "litdata, compressed": (lambda f: _spoil_json(f, compression="zstd"), "compressed"),
    "litdata, a chunk missing": (
        lambda f: _without(token_files.litdata(f, DOCUMENTS), "chunk-0-1.bin"),
        r"chunk-0-1\.bin is missing",
    ),
    "splits": (_splits, "holds the splits train, test: name one"),
    "column": (_column, "no column 'text' among .*set text_field"),
    "floats": (lambda f: np.save(f / "x.npy", np.zeros(9)) or f / "x.npy", "holds float64"),
    "pickled": (
        lambda f: np.save(f / "x.npy", np.array([None]), allow_pickle=True) or f / "x.npy",
        "no array of numbers",
    ),
    "empty": (lambda f: (f / "x.bin").write_bytes(b"") or f / "x.bin" if not f.is_file() else f, "holds no ids"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read(tmp_path, case):
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        opened(make(tmp_path), tmp_path / "cache")


def test_ids_and_text_are_two_sources(tmp_path, books):
    paths = [str(flat(tmp_path / "ids.bin", DOCUMENTS)), str(books)]
    with pytest.raises(ValueError, match=r"ids\.bin holds ids and .*books' does not; make them two sources"):
        opened(paths, tmp_path / "cache")


def test_without_pyarrow(tmp_path, monkeypatch):
    path = token_files.hugging_face(tmp_path, DOCUMENTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
        opened(path, tmp_path / "cache")


# --- what a resume and a start need ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in COPIED])
def test_content_is_known_wherever_it_lies(tmp_path, name):
    path = FORMATS[name](tmp_path, DOCUMENTS)
    key = opened(path, tmp_path / "cache").key
    if path.is_dir():
        assert opened(shutil.copytree(path, tmp_path / "moved"), tmp_path / "cache").key == key
    assert opened(path, tmp_path / "cache", val_fraction=0.2).key != key
    file = data_file(path)
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(bytes(data))
    assert opened(path, tmp_path / "cache").key != key


def test_a_large_file_is_opened_without_reading_it(tmp_path):
    """Two gigabytes, of which a start may read some hundred kilobytes."""
    path = tmp_path / "large.bin"
    with open(path, "wb") as stream:
        stream.truncate(2**31)  # a hole: zeros
        stream.seek(0)
        stream.write(np.arange(256, dtype=np.uint16).tobytes() * 100)
    read_before = _bytes_read()
    source = opened(path, tmp_path / "cache", dtype="uint16", val_fraction=0.5)
    source.train.tokens.read(2**29 - 17, 17)
    assert len(source.train.tokens) == 2**29 and _bytes_read() - read_before < 2**21


def _bytes_read() -> int:
    """By system calls, of this process."""
    return int(next(line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line).split()[1])


def test_litdata_itself_writes_what_is_read(tmp_path):
    litdata = pytest.importorskip("litdata", reason="litdata wants a torchvision that fits torch: not for every torch")
    import torch
    from litdata.streaming.cache import Cache

    cache = Cache(str(tmp_path / "by-litdata"), chunk_size=3000, item_loader=litdata.TokensLoader(block_size=1))
    for number, ids in enumerate(DOCUMENTS):
        cache[number] = torch.from_numpy(ids).to(torch.uint16)
    cache.done()
    cache.merge()
    source = opened(tmp_path / "by-litdata", tmp_path / "cache")
    np.testing.assert_array_equal(all_ids(source), FLAT)
