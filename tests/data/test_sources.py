import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lit_recycle.data import sources
from lit_recycle.data.oddities import Oddities
from lit_recycle.data.sources import SourceFile, find_files, read_documents


def read(path: str | list[str], text_field: str = "text") -> tuple[list[str], Counter]:
    oddities = Oddities()
    found = [text for file in find_files(path) for text, _ in read_documents(file, text_field, oddities)]
    return found, oddities


def test_a_folder_is_read_recursively_in_an_order_of_its_own(tmp_path):
    for name in ("b.txt", "a/z.md", "a/y.py", "c.png", ".hidden.txt", ".git/x.txt", "site-packages/x.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert read(str(tmp_path))[0] == ["a/y.py", "a/z.md", "b.txt"]


def test_globs_and_lists(tmp_path):
    for name in ("b.txt", "a.txt", "a.log"):
        (tmp_path / name).write_text(name)
    assert read(f"{tmp_path}/*.txt")[0] == ["a.txt", "b.txt"]
    assert read([f"{tmp_path}/b.txt", f"{tmp_path}/a.log", f"{tmp_path}/b.txt"])[0] == ["b.txt", "a.log", "b.txt"]
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep.log").write_text("deep")
    assert read(f"{tmp_path}/**/*.log")[0] == ["a.log", "deep"]


def test_the_standard_library_is_source_code_without_installed_packages():
    files = find_files("python-stdlib")
    assert any(file.path.name == "argparse.py" for file in files) and len(files) > 500
    assert all(file.path.suffix == ".py" and "site-packages" not in file.path.parts for file in files)


def test_long_text_is_cut_at_line_ends_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 100)
    text = "\r\n".join(f"é line {i} of many" for i in range(50))
    path = tmp_path / "long.txt"
    path.write_bytes(text.encode())
    documents = list(read_documents(SourceFile(path), "text", Oddities()))
    pieces = [piece for piece, _ in documents]
    assert len(pieces) > 5 and "".join(pieces) == text
    assert all(piece.endswith("\n") and len(piece) >= 100 for piece in pieces[:-1])
    assert sum(size for _, size in documents) == path.stat().st_size


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.ndjson", "x.json.gz", "x.parquet"])
def test_records(tmp_path, name):
    path, texts = tmp_path / name, ["one", "zwei\nlines", "", None, "é"]
    records = [{"body": text, "id": i} for i, text in enumerate(texts)]
    lines = "\n\n".join(json.dumps(record) for record in records).encode()
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    for where in (path, tmp_path):
        found, oddities = read(str(where), "body")
        assert found == ["one", "zwei\nlines", "é"]
        assert oddities == {"empty documents left out": 2}


def test_what_is_not_utf8_is_an_error_by_name_and_counted_in_a_folder(tmp_path, monkeypatch):
    bad = tmp_path / "latin.txt"
    bad.write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "good.txt").write_bytes(b"\xef\xbb\xbfgood")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        read(str(bad))
    for path in (str(tmp_path), f"{tmp_path}/*.txt"):
        assert read(path) == (["good"], {"files left out because they are not UTF-8 text": 1})
    # Half of a long file may already be in the corpus when it breaks.
    monkeypatch.setattr(sources, "PIECE", 10_000)
    bad.write_bytes(b"line\n" * 10_000 + b"\xff")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        read(str(tmp_path))


def test_half_a_utf16_pair_is_mended_and_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(r'{"text": "a\ud800b \ud83d\ude00"}')
    found, oddities = read(str(path))
    assert found == ["a�b 😀"] and oddities.total() == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": ', r"x\.jsonl, line 2: not JSON"),
        ('{"text": "a"}\n[1]', r"line 2: a JSON object is expected on every line, not an array"),
        ('{"text": "a"}\n7', r"line 2: a JSON object is expected, not int"),
        ('\n{"body": "a"}', r"line 2: no field 'text' among \['body'\]; set text_field"),
        ('{"text": 3}', r"line 1: field 'text' holds int"),
        ('{"text": "\udcff"}', r"line 1: not JSON"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read(str(tmp_path))


def test_bad_parquet(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), path)
    with pytest.raises(ValueError, match=r"no column 'text' among \['body', 'id'\]; set text_field"):
        read(str(path))
    with pytest.raises(ValueError, match="column 'id' holds int64"):
        read(str(path), "id")
    path.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"x\.parquet is not a Parquet file"):
        read(str(path))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
        read(str(path))


def test_missing_and_empty(tmp_path):
    with pytest.raises(ValueError, match=r"there is no text at .*gone: give a file"):
        find_files(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="holds no text"):
        find_files(str(tmp_path))
    with pytest.raises(ValueError, match="matches no file"):
        find_files(str(tmp_path / "*.txt"))
    with pytest.raises(ValueError, match="empty list"):
        find_files([])
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"link\.txt cannot be read"):
        read(str(tmp_path))


def test_a_cut_off_gzip_file_is_an_error(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(ValueError, match=r"x\.jsonl\.gz cannot be read"):
        read(str(path))


ZSTD_LINES = "".join(f'{{"text": "line {i} ä"}}\n' for i in range(5000)).encode()


@pytest.mark.parametrize("frames", [1, 3])
def test_zstandard_lines(tmp_path, frames):
    size = -(-len(ZSTD_LINES) // frames)
    parts = [zstandard.compress(ZSTD_LINES[i : i + size]) for i in range(0, len(ZSTD_LINES), size)]
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(b"".join(parts))
    assert read(str(path))[0] == [f"line {i} ä" for i in range(5000)]


@pytest.mark.parametrize("cut", [1, 20])
def test_a_cut_off_zstandard_file_is_an_error(tmp_path, cut):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(zstandard.compress(ZSTD_LINES) + zstandard.compress(ZSTD_LINES)[:-cut])
    with pytest.raises(ValueError, match=r"x\.jsonl\.zst cannot be read \(the last frame is cut off\)"):
        read(str(path))


def test_what_is_no_zstandard_file(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(ZSTD_LINES)
    with pytest.raises(ValueError, match=r"x\.jsonl\.zst is not packed with Zstandard"):
        read(str(path))
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install zstandard"):
        read(str(path))


def test_kinds():
    assert SourceFile(Path("A.JSONL")).kind == "jsonl" and SourceFile(Path("enwik8")).kind == "text"


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ('[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
        ('\n  ["one",\n "two"]', ["one", "two"]),
        ('\ufeff["one",\n "two"]', ["one", "two"]),
        ('{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
    ],
)
def test_a_json_file_is_documents_and_no_raw_text(tmp_path, content, documents):
    (tmp_path / "a.json").write_text(content)
    assert read(str(tmp_path / "a.json"))[0] == documents


@pytest.mark.parametrize("content", ['[{"body": "one"}]', "[7]", "[1, 2", "plain text"])
def test_a_json_file_that_holds_no_documents_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json.*(no field 'text'|is expected, not int|not JSON)"):
        read(str(tmp_path / "a.json"))


def test_what_is_left_out_of_a_folder_is_named(tmp_path, caplog):
    for name in ("a.txt", "weights.bin", "b/picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    sources.other_files([str(tmp_path), str(tmp_path / "a.txt")])
    assert "endings are not those of text: 2 (" in caplog.text
    assert "weights.bin" in caplog.text and "picture.png" in caplog.text
    lines = read(str(tmp_path))[1].lines()
    assert any("empty files left out: 1" in line and "empty.txt" in line for line in lines)
    assert any("not UTF-8 text: 1" in line and "bad.txt" in line for line in lines)


def test_of_a_dataset_nothing_is_left_out(tmp_path, caplog):
    import datasets

    datasets.Dataset.from_dict({"text": ["one"]}).save_to_disk(tmp_path / "saved")
    sources.other_files([str(tmp_path / "saved"), "python-stdlib"])
    assert not caplog.text


def test_only_the_first_few_names_are_said(tmp_path):
    oddities = Oddities()
    for i in range(9):
        oddities.note("left out", tmp_path / str(i // 2))
    assert oddities.lines() == [f"left out: 9 ({tmp_path / '0'}, {tmp_path / '1'}, {tmp_path / '2'}, …)"]
