"""Near-duplicates are left out, and what is held out is measured against what is trained on."""

from __future__ import annotations

from pathlib import Path

from lit_recycle.data.tokenizer import load_tokenizer
from lit_recycle.experiments.corpus import documents_of, open_corpus, prepare, without_near_duplicates

LINES = [f"line number {n} of the document" for n in range(40)]


def test_a_copy_with_a_few_changes_is_left_out_and_a_quotation_is_not() -> None:
    copy = [*LINES[:20], "something else", *LINES[20:]]
    quotation = [f"other text {n}" for n in range(40)] + LINES[:8]
    texts = ["\n".join(lines) for lines in (LINES, copy, quotation)]
    kept, left_out = without_near_duplicates([*texts, texts[0]])
    assert len(kept) == 2 and len(left_out) == 1 and texts[2] in kept


def test_prepared_text_is_split_by_document_and_made_once(tmp_path: Path) -> None:
    source, folder, tokenizer = tmp_path / "texts", tmp_path / "corpus", load_tokenizer("bytes")
    source.mkdir()
    for n in range(30):
        (source / f"{n}.txt").write_text("\n".join(f"{n} says {n * i}" for i in range(9)))
    (source / "again.txt").write_text("\n".join(f"3 says {3 * i}" for i in range(9)) + "\nwell")
    report = prepare(folder, tokenizer, 0.3, str(source))
    assert report.documents == 30 and report.near_duplicates == 1
    assert report.mean_overlap == report.max_overlap == 0.0
    corpus = open_corpus(folder, tokenizer, 0.3)
    documents = [tokenizer.decode(ids) for ids in documents_of(corpus.val, tokenizer.eos_id)]
    assert len(documents) == corpus.val.documents == report.held_out_documents > 0
    assert set(documents) <= {path.read_text() for path in source.iterdir()}
    (source / "31.txt").write_text("more")
    assert prepare(folder, tokenizer, 0.3, str(source)) == report
