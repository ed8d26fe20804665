"""What a Hugging Face folder says besides its model comes back out, after training too."""

from __future__ import annotations

import json
from pathlib import Path

import pico
import pytest
from data.tiny_bpe import bpe_text
from processes import config, start

from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.data.tokenizer import ByteTokenizer
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.export import export_checkpoint

FILES = {
    "generation_config.json": json.dumps({"temperature": 0.6, "eos_token_id": [2, 7]}),
    "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128}),
    "special_tokens_map.json": json.dumps({"eos_token": "<|endoftext|>"}),
    "chat_template.jinja": "{% for m in messages %}{{ m.content }}{% endfor %}",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, the checkpoint made of it, and a run of two steps that started from that."""
    root = tmp_path_factory.mktemp("round")
    shape = {"vocab_size": 320, "max_position_embeddings": 1024, "eos_token_id": [2, 7], "bos_token_id": 1}
    pico.build("olmoe", **shape).save_pretrained(root / "hub")
    for name, text in {**FILES, "tokenizer.json": bpe_text("<|endoftext|>")}.items():
        (root / "hub" / name).write_text(text)
    import_folder(root / "hub", root / "model.ckpt")
    for name, tokenizer in (("same", str(root / "hub")), ("other", "bytes")):
        changes = {"model": {"init_from": str(root / "model.ckpt")}, "data__tokenizer": tokenizer}
        saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"every_n_train_steps": 2}}
        path = config(root / name, trainer__max_steps=2, trainer__callbacks=[saver], **changes)
        run = start("fit", "--config", path, log=root / "log")
        assert run.wait() == [0], run.output
    return root


def exported(root: Path, name: str, tmp_path: Path) -> Path:
    source = root / "model.ckpt" if name == "imported" else next((root / name).rglob("*.ckpt"))
    export_checkpoint(source, tmp_path / "back")
    return tmp_path / "back"


@pytest.mark.parametrize("name", ["imported", "same"])
def test_it_comes_back_out(root: Path, tmp_path: Path, name: str) -> None:
    folder = exported(root, name, tmp_path)
    before, after = (json.loads((f / "config.json").read_text()) for f in (root / "hub", folder))
    for key in ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert after[key] == before[key], key
    for file, text in FILES.items():
        assert (folder / file).read_text() == text


def test_trained_with_another_tokenizer_its_ids_are_not_the_old_ones(root: Path, tmp_path: Path) -> None:
    folder = exported(root, "other", tmp_path)
    after = json.loads((folder / "config.json").read_text())
    assert after["eos_token_id"] == ByteTokenizer.eos_id and "bos_token_id" not in after
    assert after["max_position_embeddings"] == 1024
    assert not (folder / "chat_template.jinja").exists() and not (folder / "generation_config.json").exists()


def test_transformers_reads_it(root: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = exported(root, "same", tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.temperature == 0.6 and model.generation_config.eos_token_id == [2, 7]
    assert tokenizer.model_max_length == 128
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_trained_on_longer_texts_it_says_so(root: Path, tmp_path: Path) -> None:
    from lit_recycle.checkpoints.atomic import save

    checkpoint = load_checkpoint(next((root / "same").rglob("*.ckpt")))
    checkpoint["TextData"] = checkpoint["TextData"] | {"seq_len": 4096}
    save(checkpoint, tmp_path / "long.ckpt")
    export_checkpoint(tmp_path / "long.ckpt", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["max_position_embeddings"] == 4096
