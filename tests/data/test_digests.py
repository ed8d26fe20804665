import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from lit_recycle.data import digests
from lit_recycle.data.digests import KEPT_IN


@pytest.fixture
def settled(monkeypatch) -> None:
    """Files are known from the moment on that they are written."""
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files that were hashed."""
    names, hash_file = [], hashlib.file_digest

    def noting(stream, kind):
        names.append(Path(stream.name).name)
        return hash_file(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", noting)
    return names


def digests_of(paths: list[Path], folder: Path) -> list[bytes]:
    with digests.content_digests(paths, folder) as found:
        return found


def by_hand(paths: list[Path]) -> list[bytes]:
    return [hashlib.blake2b(path.read_bytes()).digest() for path in paths]


def test_only_what_changed_is_read_again(books, tmp_path, settled, opened):
    paths = sorted(books.iterdir())
    assert digests_of(paths, tmp_path / "cache") == by_hand(paths)
    assert sorted(opened) == [path.name for path in paths]
    opened.clear()
    assert digests_of(paths[::-1], tmp_path / "cache") == by_hand(paths)[::-1]
    assert opened == []
    paths[3].write_text("longer than before " * 100)
    (books / "new.txt").write_text("new")
    paths.append(books / "new.txt")
    assert digests_of(paths, tmp_path / "cache") == by_hand(paths)
    assert sorted(opened) == sorted([paths[3].name, "new.txt"])


@pytest.mark.parametrize("change", ["rewritten", "time set back", "replaced by a copy with the same time"])
def test_a_change_of_the_same_size_is_noticed(tmp_path, settled, change):
    path = tmp_path / "book.txt"
    path.write_text("the cat")
    before, stat = digests_of([path], tmp_path), path.stat()
    other = tmp_path / "other.txt"
    other.write_text("the cow")
    if change == "replaced by a copy with the same time":
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.replace(path)
    else:
        path.write_text("the cow")
    if change == "time set back":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests_of([path], tmp_path) == by_hand([path]) != before


def test_a_file_that_may_still_change_is_not_taken_for_known(tmp_path, opened):
    path = tmp_path / "book.txt"
    path.write_text("the cat")
    digests_of([path], tmp_path)
    assert not (tmp_path / KEPT_IN).exists()
    digests_of([path], tmp_path)
    assert opened == ["book.txt"] * 2


WRONG_SUM = '{"checksum": "0", "files": {"book": [7, 1, 2, "ab"]}}'


@pytest.mark.parametrize("content", ["{", "[]", '{"book": 1}', '{"book": [1, 2]}', WRONG_SUM])
def test_a_damaged_file_is_said_and_made_anew(tmp_path, settled, caplog, content):
    path = tmp_path / "book.txt"
    path.write_text("the cat")
    (tmp_path / KEPT_IN).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert digests_of([path], tmp_path) == by_hand([path])
    assert f"{KEPT_IN} cannot be used" in caplog.text
    assert json.loads((tmp_path / KEPT_IN).read_text())["files"][str(path)][0] == 7


def test_what_is_known_of_other_corpora_stays(books, tmp_path, settled, opened):
    first, second = sorted(books.iterdir())[:2]
    for paths in ([first], [second], [first]):
        digests_of(paths, tmp_path)
    assert opened == [first.name, second.name]
    assert {path.name for path in tmp_path.iterdir()} == {"books", KEPT_IN}


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tmp_path, settled, caplog):
    path = tmp_path / "book.txt"
    path.write_text("the cat")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert digests_of([path], tmp_path / "cache") == by_hand([path])
    assert "cannot be written" in caplog.text


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read \(No such file"):
        digests_of([tmp_path / "gone.txt"], tmp_path)


def test_nothing_is_kept_for_what_comes_to_nothing(tmp_path, settled):
    (tmp_path / "book.txt").write_text("the cat")
    with pytest.raises(ValueError, match="no"), digests.content_digests([tmp_path / "book.txt"], tmp_path / "cache"):
        raise ValueError("no")
    assert not (tmp_path / "cache").exists()
