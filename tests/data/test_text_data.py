import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.counting import Counting, quiet_trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.connectors import data_connector

from lit_recycle.data.config import DataDefaults
from lit_recycle.data.corpus import Corpus
from lit_recycle.data.module import TextData


def text_data(path: Path | str, **options: Any) -> TextData:
    """Ready to use, without a trainer."""
    data = waiting(path, **options)
    data.prepare_data()
    data.setup()
    return data


def corpus_of(data: TextData) -> Corpus:
    """What the only source was made into."""
    (folder,) = Path(data.cache_dir).glob(f"corpus-{data.opened[0].key}")
    return Corpus.open(folder)


def waiting(path: Path | str, **options: Any) -> TextData:
    cache = str(Path(str(path).split("*")[0]).parent / "cache")
    return TextData(**{"path": str(path), "cache_dir": cache, "seq_len": 16, "batch_size": 4, **options})


def first(data: TextData) -> list:
    return next(iter(data.train_dataloader()))["input_ids"].tolist()


def test_batches_and_sizes(books):
    data = text_data(books)
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == batch["labels"].shape == (4, 16)
    assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
    assert (data.vocab_size, data.tokens_per_batch) == (257, 64)
    text = sum(len(path.read_bytes()) for path in books.iterdir())
    corpus = corpus_of(data)
    assert corpus.train.bytes + corpus.val.bytes == text
    assert data.val_sets[0].bytes_per_token() == corpus.val.bytes / corpus.val.tokens
    decoded = data.tokenizer.decode(batch["input_ids"][0])
    assert any(decoded in path.read_text() for path in books.iterdir()) or 256 in batch["input_ids"][0]


def test_validation_is_one_pass_over_other_documents(books):
    data = text_data(books, val_fraction=0.2)
    loader = data.val_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == math.ceil((corpus_of(data).val.tokens - 1) // 16 / 4)
    rows = {tuple(row) for batch in batches for row in batch["input_ids"].tolist()}
    val = np.fromfile(corpus_of(data).val.path, dtype=np.uint16)
    assert rows <= {tuple(val[i : i + 16].tolist()) for i in range(0, len(val), 16)}
    for again in (
        data.test_dataloader(),
        data.predict_dataloader(),
        text_data(books, seed=5, val_fraction=0.2).val_dataloader(),
    ):
        assert torch.equal(next(iter(again))["labels"], batches[0]["labels"])


def test_a_small_validation_split_gives_a_small_batch(books):
    data = text_data(books, val_fraction=0.1, batch_size=1000)
    (batch,) = data.val_dataloader()
    assert len(batch["input_ids"]) == (corpus_of(data).val.tokens - 1) // 16


def test_lightning_runs_every_stage_and_warns_of_nothing_in_the_data(books, tmp_path, monkeypatch):
    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda local_world_size: 16)
    data, model = waiting(books), Counting()
    trainer = quiet_trainer(max_steps=2, limit_train_batches=2, limit_val_batches=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, data)
        trainer.validate(model, data)
        trainer.test(model, data)
        predicted = trainer.predict(model, data)
        trainer.save_checkpoint(tmp_path / "epoch.ckpt")
        quiet_trainer(max_steps=3, limit_train_batches=5).fit(Counting(), data, ckpt_path=tmp_path / "epoch.ckpt")
    assert not [str(warning.message) for warning in caught if "loader" in str(warning.message).lower()]
    batches = [batch["input_ids"].tolist() for batch in data.val_dataloader()]
    assert predicted == batches
    half = batches[: len(batches) // 2]
    assert model.validated == half + half + batches  # in fit, in validate, in test


def test_state_carries_plain_types_and_the_tokenizer(books, bpe_json):
    data = text_data(books, tokenizer=str(bpe_json))
    state = data.state_dict()
    assert state["samples_seen"] == 0 and state["stream"]["rule"]["sources"] == [data.opened[0].key]
    assert state["tokenizer"] == {"kind": "tokenizer.json", "json": bpe_json.read_text()}
    again = text_data(books, tokenizer=str(bpe_json), batch_size=2)
    again.load_state_dict({**state, "samples_seen": 4})
    stream = iter(data.train_dataloader())
    next(stream)
    assert first(again) == next(stream)["input_ids"].tolist()[:2]
    after = again.state_dict()
    assert (after["samples_seen"], after["tokenizer"]) == (4, state["tokenizer"])
    assert after["stream"]["drawn_now"] == {data.opened[0].key: 4}


def test_another_tokenizer_is_refused(books, bpe_json):
    state = text_data(books).state_dict()
    with pytest.raises(ValueError, match=r"\(270 ids\) is not the tokenizer .* \(257 ids\)"):
        text_data(books, tokenizer=str(bpe_json)).load_state_dict(state)


CHANGES = {
    "seed": ({"seed": 1}, "at the start of another stream of samples: seed was 0, is 1"),
    "seq_len": ({"seq_len": 8}, "at the start of another stream of samples: seq_len was 16, is 8"),
    "val_fraction": ({"val_fraction": 0.3}, "training goes on in corpus at its start"),
    "content": ({}, "training goes on in corpus at its start"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_stream_starts_at_its_start_and_says_so(books, name):
    change, message = CHANGES[name]
    state = {**text_data(books).state_dict(), "samples_seen": 40}
    if name == "content":
        (books / "more.txt").write_text("another book")
    data = text_data(books, **change)
    expected = first(data)
    data = text_data(books, **change)
    data.load_state_dict(state)
    assert data.state_dict() == state  # as long as it has not trained
    with pytest.warns(UserWarning, match=message):
        assert first(data) == expected
    after = data.state_dict()
    assert (after["samples_seen"], after["stream"]["start"]) == (40, 40)
    again = text_data(books, **change)
    again.load_state_dict({**after, "samples_seen": 44})
    stream = iter(text_data(books, **change).train_dataloader())
    next(stream)
    assert first(again) == next(stream)["input_ids"].tolist()


def test_validating_on_another_corpus_is_no_change_of_stream(books, tmp_path):
    state = {**text_data(books).state_dict(), "samples_seen": 4}
    (books / "more.txt").write_text("another book")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = text_data(books)
        data.load_state_dict(state)
        list(data.val_dataloader())


def test_a_module_that_forgets_its_count_is_told(books, tmp_path):
    class Forgetful(Counting):
        def on_load_checkpoint(self, checkpoint):
            pass

    trainer = quiet_trainer(max_steps=2)
    trainer.fit(Counting(), waiting(books))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"after 8 samples but the model says 0"):
        quiet_trainer(max_steps=4).fit(Forgetful(), waiting(books), ckpt_path=tmp_path / "last.ckpt")


def test_what_a_stream_cannot_do_is_refused_before_training(books):
    class Uncounted(LightningModule):
        training_step = Counting.training_step
        configure_optimizers = Counting.configure_optimizers

    with pytest.raises(ValueError, match="Uncounted needs an int attribute samples_seen"):
        quiet_trainer(max_steps=1).fit(Uncounted(), waiting(books))
    with pytest.raises(ValueError, match="overfit_batches does not work"):
        quiet_trainer(max_steps=1, overfit_batches=1).fit(Counting(), waiting(books))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 0}, "data.seq_len must be at least 1, got 0"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "data.num_workers must be at least 0, got -1"),
        ({"val_fraction": -0.1}, "data.val_fraction must be at least 0 and below 1, got -0.1"),
        ({"val_fraction": 1}, "data.val_fraction must be at least 0 and below 1, got 1"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TextData(**options)


def test_a_corpus_shorter_than_one_sample(books):
    with pytest.raises(ValueError, match=r"The train split has \d+ tokens, fewer than one sample"):
        text_data(books, seq_len=100_000)
    with pytest.raises(ValueError, match=r"The val split has \d+ tokens, fewer than one sample"):
        text_data(books, seq_len=2000)


def test_defaults_are_those_of_the_config():
    data, defaults = TextData(), DataDefaults()
    assert (data.sources[0].path, data.seq_len) == (defaults.path, defaults.seq_len)
    assert data.batch_size == defaults.batch_size
    assert data.vocab_size == 257


def test_config_needs_neither_torch_nor_lightning():
    code = "import sys, lit_recycle.data.config; assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
