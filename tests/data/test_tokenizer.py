import json

import numpy as np
import pytest
from data.tiny_bpe import bpe_text
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.data.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer, load_tokenizer

UTF8 = st.text(st.characters(exclude_categories=["Cs"]))
BPE = JsonTokenizer(bpe_text("<|endoftext|>"))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "json"])
@given(texts=st.lists(UTF8, max_size=4))
def test_round_trip_and_batches_agree(tokenizer: Tokenizer, texts: list[str]):
    batch = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in batch] == texts
    for text, ids in zip(texts, batch, strict=True):
        assert np.issubdtype(ids.dtype, np.unsignedinteger) and ids.ndim == 1
        np.testing.assert_array_equal(ids, tokenizer.encode(text))
        assert (ids < tokenizer.vocab_size).all() and tokenizer.eos_id not in ids


def test_bytes_are_ids_and_broken_utf8_is_replaced():
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert tokenizer.decode([97, 0xC3, 256, 300, -1]) == "a�"
    assert tokenizer.decode(tokenizer.encode("a\ud800")) == "a?"


def test_a_dict_carries_the_whole_tokenizer(bpe_json):
    for tokenizer in (load_tokenizer("bytes"), load_tokenizer(str(bpe_json))):
        state = json.loads(json.dumps(tokenizer.to_dict()))
        bpe_json.unlink(missing_ok=True)
        again = Tokenizer.from_dict(state)
        assert (again.fingerprint, again.vocab_size, again.eos_id) == (
            tokenizer.fingerprint,
            tokenizer.vocab_size,
            tokenizer.eos_id,
        )
        assert again.encode("the cat").tolist() == tokenizer.encode("the cat").tolist()
    with pytest.raises(ValueError, match="'morse'"):
        Tokenizer.from_dict({"kind": "morse"})


def test_fingerprint_is_of_content_not_of_layout(tmp_path):
    content = json.loads(bpe_text("<|endoftext|>"))
    assert JsonTokenizer(json.dumps(content, indent=7)).fingerprint == BPE.fingerprint
    content["added_tokens"][0]["lstrip"] = True
    assert JsonTokenizer(json.dumps(content)).fingerprint != BPE.fingerprint


def test_truncation_padding_and_added_tokens_of_the_file_do_not_reach_the_ids():
    content = json.loads(bpe_text("<|endoftext|>"))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    tokenizer = JsonTokenizer(json.dumps(content))
    text = "the dog sat on the mat"
    assert tokenizer.encode(text).tolist() == BPE.encode(text).tolist()
    assert tokenizer.encode_batch([text, "the"])[1].tolist() == BPE.encode("the").tolist()


@pytest.mark.parametrize("eos", ["<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>"])
def test_eos_is_found_by_its_usual_names(eos):
    tokenizer = JsonTokenizer(bpe_text("<pad>", eos))
    assert tokenizer.eos_id == 1 and tokenizer.vocab_size == 270


def test_what_is_not_a_tokenizer_is_refused(tmp_path, bpe_json):
    assert load_tokenizer(str(tmp_path)).vocab_size == 270  # the folder of a tokenizer.json
    with pytest.raises(ValueError, match=r"does not exist; give 'bytes' or"):
        load_tokenizer(str(tmp_path / "missing.json"))
    bpe_json.write_text('{"no": "tokenizer"}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a Hugging Face tokenizer"):
        load_tokenizer(str(bpe_json))
    bpe_json.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_tokenizer(str(bpe_json))
    bpe_json.write_text(bpe_text("<pad>"))
    with pytest.raises(ValueError, match="no token that ends a document"):
        load_tokenizer(str(bpe_json))
