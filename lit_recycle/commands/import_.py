"""``lit-recycle import HF_DIR RUN.ckpt``: a checkpoint to train on, from a Hugging Face folder."""

from __future__ import annotations

import argparse

from lit_recycle.commands.checksums_option import add_checksums
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.hub.native_config import expressible


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle import",
        description="Make a checkpoint of a Hugging Face folder: weights, tokenizer, and optimizer state where an "
        f"export has left some. Families: {', '.join(expressible())}.",
        epilog="Go on training with `lit-recycle fit … --ckpt_path RUN.ckpt --data.tokenizer HF_DIR`.",
    )
    parser.add_argument("source", metavar="HF_DIR", help="folder with config.json and safetensors")
    parser.add_argument("destination", metavar="RUN.ckpt", help="checkpoint to write; must not exist")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="convert weights on the way")
    add_checksums(parser)
    args = parser.parse_args(argv)
    with without_gc():
        from lit_recycle.hub.convert import import_folder

    config = import_folder(args.source, args.destination, dtype=args.dtype, checksums=args.checksums)
    print(
        f"wrote {args.destination}: {config.num_layers} layers, {config.num_params():,} parameters, "
        f"{config.num_active_params():,} active"
    )
    return 0
