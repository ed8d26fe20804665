"""Small inputs for the data tests."""

import json
from pathlib import Path

import pytest
from data.tiny_bpe import bpe_text


@pytest.fixture
def bpe_json(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(bpe_text("<|endoftext|>"))
    return path


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A folder of 60 short documents, each with a word of its own."""
    folder = tmp_path / "books"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02d}.txt").write_text(f"Book {i}: " + f"the cat {i} sat on the mat; " * 10)
    return folder


@pytest.fixture
def json_lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i}", "id": i}) + "\n" for i in range(5)))
    return path
