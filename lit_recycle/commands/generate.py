"""``lit-recycle generate``: text from a checkpoint."""

from __future__ import annotations

import argparse
import itertools
import sys

from lit_recycle.commands.without_gc import without_gc


def main(argv: list[str]) -> int:
    """Print the prompt and its continuation as it is sampled."""
    options = parse(argv)
    with without_gc():  # only now: --help needs no torch
        from lit_recycle.checkpoints.native import load_model
        from lit_recycle.sampling.generate import check_sampling, generate

    check_sampling(options.temperature, options.top_p, options.seed)
    model, tokenizer = load_model(options.ckpt_path)
    prompt = [int(i) for i in tokenizer.encode(options.prompt)] or [tokenizer.eos_id]
    ids = generate(
        model,
        prompt,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        allowed=tokenizer.vocab_size,
    )
    print(options.prompt, end="")
    shown, done = "", []
    for token in itertools.islice(ids, options.max_new_tokens):
        if token == tokenizer.eos_id:
            break
        done.append(token)
        text = tokenizer.decode(done)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character may need several tokens
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    print()
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lit-recycle generate", description="Sample text from a checkpoint.")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint of this project, or its address")
    parser.add_argument("--prompt", default="", help="text to continue; a document's beginning when not given")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token each time")
    parser.add_argument("--top_p", type=float, default=0.95, help="sample among tokens of this total probability")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(argv)
    if options.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens must be at least 1, got {options.max_new_tokens}")
    return options
