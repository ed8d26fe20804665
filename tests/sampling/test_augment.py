"""Thoughts are sampled piece by piece, whatever is killed in between, and are training data as they are written."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from data.tiny_bpe import bpe_text

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.cli import main
from lit_recycle.data.config import Source
from lit_recycle.data.opened import Preparation
from lit_recycle.data.tokenizer import ByteTokenizer
from lit_recycle.model.config import MoEConfig
from lit_recycle.sampling import augment as module
from lit_recycle.sampling.augment import PROMPT, Augmentation, augment
from lit_recycle.sampling.generate import generate
from lit_recycle.sampling.sampled import load_sampled
from lit_recycle.seeding import seed_of
from lit_recycle.training.module import LitMoE

DOCUMENTS = [f"Document {number}.\n" + "word " * number for number in range(10)]
TEMPLATE = """{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}[thinker] """


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_experts": 3, "top_k": 2, "expert_size": 8}
    torch.manual_seed(0)
    model = LitMoE(MoEConfig(vocab_size=257, **shape))
    model.configure_model()
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    about = {"config": model.shape.to_dict(), "growth": []}
    weights = {"state_dict": model.state_dict(), "global_step": 0, "tokenizer": ByteTokenizer().to_dict()}
    save(weights | {"hyper_parameters": about}, path)
    return path


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    return path


@pytest.fixture
def how(checkpoint, source):
    return Augmentation(str(checkpoint), str(source), "body", batch_size=3, max_new_tokens=12)


def run(how, destination, batches=None):
    return [*itertools.islice(augment(how, destination, lambda: load_sampled(how.model, "cpu")), batches)]


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_piece_has_a_thought_of_its_own(how, tmp_path):
    assert sum(batch.pieces for batch in run(how, tmp_path / "out.jsonl")) == 10
    found = records(tmp_path / "out.jsonl")
    assert [record["document"] for record in found] == DOCUMENTS
    sampled = load_sampled(how.model, "cpu")
    for number, record in enumerate(found):
        prompt = sampled.prompt(PROMPT.replace("{document}", DOCUMENTS[number]))
        ids = generate(sampled.model, prompt, temperature=0.7, top_p=0.95, seed=seed_of(0, number), allowed=257)
        alone = [*itertools.takewhile(lambda token: token != 256, itertools.islice(ids, 12))]
        assert record["thinking"] == sampled.decode(alone)
    assert len({record["thinking"] for record in found}) > 5


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_killed_it_goes_on_to_the_same_file(how, tmp_path, after):
    run(how, tmp_path / "whole.jsonl")
    path = tmp_path / "out.jsonl"
    run(how, path, after)
    with path.open("a") as out:
        out.write('{"document": "hal')
    assert run(how, path)[0].pieces == min(3 * (after - 1), 9)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_long_document_is_cut_at_lines(how, tmp_path, source):
    text = "".join(f"line {number}\n" for number in range(40)) + "x" * 90
    source.write_text(json.dumps({"body": text}))
    run(Augmentation(**{**vars(how), "piece_length": 50}), tmp_path / "out.jsonl")
    pieces = [record["document"] for record in records(tmp_path / "out.jsonl")]
    assert "".join(pieces) == text and max(map(len, pieces)) <= 50
    assert all(piece.endswith("\n") for piece in pieces[:-2])


def test_requests_longer_than_what_the_model_reads_are_told_once(how, tmp_path, capsys):
    """The longest of a batch: the prompt around a document, and the longest thought."""
    short = tmp_path / "short.ckpt"
    loaded = load_checkpoint(Path(how.model))
    save(loaded | {"TextData": {"seq_len": 250, "tokenizer": loaded["tokenizer"]}}, short)
    around = len(PROMPT) - len("{document}")
    longest = [max(len(text) for text in DOCUMENTS[i : i + 3]) + around + 12 for i in range(0, 10, 3)]
    beyond = [max(length - 250, 0) for length in longest]
    assert beyond[0] == 0 < min(beyond[1:])
    assert [batch.beyond for batch in run(replace(how, model=str(short)), tmp_path / "out.jsonl")] == [0, *beyond]
    assert not any(batch.beyond for batch in run(how, tmp_path / "other.jsonl"))
    options = ("--model", short, "--text_field", "body", "--batch_size", 3, "--max_new_tokens", 12, "--device", "cpu")
    assert main(["augment", how.source, str(tmp_path / "again.jsonl"), *map(str, options)]) == 0
    told = capsys.readouterr().err
    assert told.count("warning:") == 1 and f"go {beyond[1]} tokens past" in told and "--piece_length" in told


def test_what_is_written_is_trained_on(how, tmp_path):
    run(how, tmp_path / "out.jsonl")
    template = "{document}\n<think>{thinking}</think>"
    source = Source("thinking", str(tmp_path / "out.jsonl"), template=template, loss_on=["thinking"])
    preparation = Preparation(ByteTokenizer(), str(tmp_path / "cache"), "text", 0.1)
    opened = preparation.open(source, preparation.prepare(source))
    ids = opened.train.tokens.read(0, len(opened.train.tokens))
    first = records(tmp_path / "out.jsonl")[0]
    expected = ByteTokenizer().encode(f"{first['document']}\n<think>{first['thinking']}</think>").tobytes()
    assert expected in np.where(ids < 0, ~ids, ids).astype(np.int64).tobytes()


def test_a_thought_ends_at_the_text_that_is_said(how, tmp_path, monkeypatch):
    run(Augmentation(**{**vars(how), "max_new_tokens": 40}), tmp_path / "whole.jsonl")
    whole = [record["thinking"] for record in records(tmp_path / "whole.jsonl")]
    stop = whole[0][5:7]
    asked = []
    sampled = module.generate_batch
    monkeypatch.setattr(module, "generate_batch", lambda *a, **k: asked.append(sampled(*a, **k)) or asked[-1])
    run(Augmentation(**{**vars(how), "max_new_tokens": 40, "stop": stop}), tmp_path / "out.jsonl")
    found = [record["thinking"] for record in records(tmp_path / "out.jsonl")]
    assert found == [text.partition(stop)[0] for text in whole]
    assert len(asked[0][0]) < 40


def test_a_chat_model_is_asked_in_its_way(tmp_path):
    folder = tmp_path / "hf"
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=0
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(bpe_text("<|endoftext|>"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    sampled = load_sampled(str(folder), "cpu")
    assert sampled.decode(sampled.prompt("the cat")) == "[user] the cat[thinker] "
    assert sampled.ends == {0} and sampled.allowed == 300
    hf = transformers.LlamaForCausalLM.from_pretrained(folder)
    prompt = sampled.prompt("the cat")
    theirs = hf.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)[0, len(prompt) :]
    assert [*itertools.islice(generate(sampled.model, prompt, temperature=0), 8)] == theirs.tolist()


def test_the_command_goes_on_after_its_cap(how, tmp_path, capsys):
    argv = ["augment", how.source, str(tmp_path / "out.jsonl"), "--model", how.model, "--text_field", "body"]
    argv += ["--batch_size", "3", "--max_new_tokens", "12", "--device", "cpu"]
    assert main([*argv, "--max_tokens", "40"]) == 0
    assert "6 records" in (said := capsys.readouterr().out) and "--max_tokens 40 is reached" in said
    assert main(argv) == 0
    assert "10 records" in (said := capsys.readouterr().out) and "reached" not in said
    run(how, tmp_path / "whole.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--temperature": "nan"}, "temperature must be a finite number"),
        ({"--top_p": "0"}, "top_p must lie in"),
        ({"--batch_size": "0"}, "batch_size must be at least 1"),
        ({"--model": "/nowhere"}, "/nowhere"),
        ({"--text_field": "title"}, "no field 'title'"),
        ({"--seed": "5"}, "out.jsonl was begun with seed 0, not 5"),
        ({"destination": "documents.jsonl"}, "exists and was not made by this command"),
        ({"source": "none.jsonl"}, "there is no text at .*none.jsonl"),
        ({"--max_tokens": "0"}, "--max_tokens must be above 0, got 0"),
        ({"--max_tokens": "nan"}, "--max_tokens must be above 0, got nan"),
        ({"--device": "gpu"}, "--device gpu cannot be used on this machine .*: give cpu"),
        ({"source": ".", "destination": "sub/out.jsonl"}, "sub/out.jsonl lies in .*, and would be read as part of it"),
        (
            {"source": "*.jsonl", "destination": "other.jsonl"},
            "other.jsonl lies in .*, and would be read as part of it",
        ),
    ],
)
def test_what_cannot_be_is_told(how, tmp_path, capsys, changes, told):
    if "--seed" in changes:
        run(how, tmp_path / "out.jsonl", 2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    options = {"--model": how.model, "--text_field": "body", "--batch_size": "3", "--max_new_tokens": "12", **changes}
    places = [tmp_path / options.pop("source", "documents.jsonl"), tmp_path / options.pop("destination", "out.jsonl")]
    assert main(["augment", *map(str, places), *itertools.chain(*options.items())]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert re.search(told, line)
    assert {path: path.read_bytes() for path in before} == before


def damaged_options(how, path):
    path.with_name("out.jsonl.options.json").write_text("{")
    return "options.json is damaged"


def another_source(how, path):
    lines = [json.dumps({"body": text}) + "\n" for text in ("new", *DOCUMENTS)]
    Path(how.source).write_text("".join(lines))
    return "documents.jsonl is not what .*out.jsonl was begun with"


def foreign_lines(how, path):
    path.write_text("[1]\n" * 3)
    return "out.jsonl was changed since it was written"


@pytest.mark.parametrize("change", [damaged_options, another_source, foreign_lines])
def test_it_goes_on_with_nothing_but_what_it_has_written(how, tmp_path, change):
    path = tmp_path / "out.jsonl"
    run(how, path, 2)
    told = change(how, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=told):
        run(how, path)
    assert path.read_bytes() == before


def test_a_request_that_is_no_text(how, tmp_path, capsys):
    (tmp_path / "prompt.txt").write_bytes(b"\xff{document}")
    argv = [
        "augment",
        how.source,
        tmp_path / "out.jsonl",
        "--model",
        how.model,
        "--prompt_file",
        tmp_path / "prompt.txt",
    ]
    assert main([*map(str, argv)]) == 2
    assert "prompt.txt is not UTF-8 text" in capsys.readouterr().err
