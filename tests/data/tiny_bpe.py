"""A tokenizer small enough to be trained in a test."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers


def bpe_text(*special: str) -> str:
    """A `tokenizer.json` of a byte-level BPE, as GPT-2's, with the given special tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat; the dog sat on the log"] * 20, trainer)
    return backend.to_str()
