"""Records with several fields: what they are joined to, and which of their tokens are predicted."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data.token_files import EOS

from lit_recycle.data.batches import LABEL_COUNT
from lit_recycle.data.config import Source
from lit_recycle.data.module import TextData
from lit_recycle.data.opened import OpenSource, Preparation
from lit_recycle.data.template import Template
from lit_recycle.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

TEMPLATE = "{document}\n<think>{thinking}</think>"
RECORDS = [{"document": f"document {i}", "thinking": f"thought {i} " * (1 + i % 3), "id": i} for i in range(50)] + [
    {"document": "no thought", "thinking": None, "id": 50}
]


def write(folder: Path, kind: str) -> Path:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    if kind == "jsonl":
        (folder / "x.jsonl").write_text(lines)
    elif kind == "json":
        (folder / "x.json").write_text(json.dumps(RECORDS))
    elif kind == "zst":
        (folder / "x.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), folder / "x.parquet")
    else:
        import datasets

        datasets.Dataset.from_list(RECORDS).save_to_disk(folder / "saved")
        return folder / "saved"
    return next(folder.glob("x.*"))


def opened(path: Path, tokenizer: Tokenizer | None = None, **options) -> OpenSource:
    how = Preparation(tokenizer or ByteTokenizer(), str(path.parent / "cache"), "text", 0.2)
    source = Source("it", str(path), **{"template": TEMPLATE, **options})
    return how.open(source, how.prepare(source))


def documents(source: OpenSource) -> list[list[int]]:
    """Ids of every document, ~id where one is not predicted."""
    found = []
    for part in (source.train.tokens, source.val.tokens):
        ids = part.read(0, len(part))
        found += [part.tolist() for part in np.split(ids, np.flatnonzero(ids == EOS) + 1)[:-1]]
    return found


def plain(ids: list[int]) -> str:
    return bytes(i for i in (i if i >= 0 else ~i for i in ids) if i < 256).decode()


EXPECTED = [f"{r['document']}\n<think>{r['thinking'] or ''}</think>" for r in RECORDS]


@pytest.mark.parametrize("kind", ["jsonl", "json", "zst", "parquet", "dataset"])
@pytest.mark.parametrize("loss_on", [[], ["thinking"], ["document", "thinking"]])
def test_fields_are_joined_and_chosen(tmp_path, kind, loss_on):
    source = opened(write(tmp_path, kind), loss_on=loss_on)
    found = documents(source)
    assert sorted(map(plain, found)) == sorted(EXPECTED)
    for ids in found:
        predicted = bytes(i for i in ids[:-1] if i >= 0).decode()
        (record,) = (r for r, text in zip(RECORDS, EXPECTED, strict=True) if text == plain(ids))
        chosen = "".join(record[name] or "" for name in loss_on)
        assert predicted == (chosen if loss_on else plain(ids)) and ids[-1] == EOS
    assert len(source.val.tokens) > 0
    ids = source.val.tokens.read(0, len(source.val.tokens))
    kept = ids[ids >= 0]
    assert source.val.bytes_per_token() == pytest.approx(sum(kept < 256) / len(kept))


def test_fields_are_tokenised_one_by_one(tmp_path, bpe_json):
    tokenizer = load_tokenizer(str(bpe_json))
    source = opened(write(tmp_path, "jsonl"), tokenizer, loss_on=["thinking"])
    found = []
    for part in (source.train.tokens, source.val.tokens):
        ids = part.read(0, len(part))
        found += [part.tolist() for part in np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)[:-1]]
    for record in RECORDS:
        head, thought, tail = (
            tokenizer.encode(text) for text in (record["document"], record["thinking"] or "", "</think>")
        )
        middle = tokenizer.encode("\n<think>")
        expected = [*~head, *~middle, *thought, *~tail, tokenizer.eos_id]
        assert expected in found


def test_labels_of_batches_are_left_out(tmp_path):
    source = Source("it", str(write(tmp_path, "jsonl")), template=TEMPLATE, loss_on=["thinking"])
    data = TextData(sources=[source], seq_len=16, batch_size=4, val_fraction=0.2, cache_dir=str(tmp_path / "cache"))
    data.prepare_data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert (batch["input_ids"] >= 0).all() and batch[LABEL_COUNT] == (batch["labels"] != -100).sum()
    kept = batch["labels"][batch["labels"] != -100]
    assert 0 < len(kept) < 64 and set(kept.tolist()) <= {*b"thought 0123456789", EOS}
    follows = batch["labels"][:, :-1] != -100
    assert (batch["labels"][:, :-1][follows] == batch["input_ids"][:, 1:][follows]).all()
    assert all((batch["input_ids"] >= 0).all() for batch in data.val_dataloader())


def test_another_template_is_another_corpus(tmp_path):
    path = write(tmp_path, "jsonl")
    keys = {
        opened(path).key,
        opened(path, loss_on=["thinking"]).key,
        opened(path, loss_on=["document"]).key,
        opened(path, template="{document}{thinking}").key,
    }
    assert len(keys) == 4


def test_braces_that_are_meant():
    template = Template.parse("{{{a}}} {b}", ["b"])
    assert template.segments(["x", "y"]) == [("{", False), ("x", False), ("} ", False), ("y", True)]


@pytest.mark.parametrize(
    ("template", "loss_on", "message"),
    [
        ("no field", [], "must name fields"),
        ("{}", [], "must name fields"),
        ("{a!r}", [], "'a' is followed by more than a name"),
        ("{a:>5} {b}", [], "'a' is followed by more than a name"),
        ("{a", [], "cannot be read"),
        ("{a} {b}", ["c"], "loss_on has 'c', and the fields of the template are a, b"),
    ],
)
def test_templates_that_cannot_be(template, loss_on, message):
    with pytest.raises(ValueError, match=message):
        Template.parse(template, loss_on)


def test_what_has_no_such_fields(tmp_path, books):
    path = write(tmp_path, "jsonl")
    with pytest.raises(ValueError, match="line 1: no field 'answer'"):
        opened(path, template="{answer}")
    with pytest.raises(ValueError, match=r"00\.txt has no fields for a template"):
        opened(books)
    (tmp_path / "texts.json").write_text('["one", "two"]')
    with pytest.raises(ValueError, match=r"texts\.json, element 0: a JSON object is expected, not str"):
        opened(tmp_path / "texts.json")
    with pytest.raises(ValueError, match="loss_on of source 'it' needs a template"):
        Source("it", "x", loss_on=["a"])
    with pytest.raises(ValueError, match="a template or a text_field, not both"):
        Source("it", "x", template="{a}", text_field="a")
