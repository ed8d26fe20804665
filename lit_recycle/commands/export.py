"""``lit-recycle export CKPT HF_DIR``: a Hugging Face folder of a checkpoint."""

from __future__ import annotations

import argparse

from lit_recycle.commands.without_gc import without_gc
from lit_recycle.hub.native_config import expressible
from lit_recycle.hub.writer import SHARD_SIZE


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle export",
        description="Write a checkpoint as a Hugging Face folder that transformers loads: config, safetensors, "
        "tokenizer.",
    )
    parser.add_argument("source", metavar="CKPT", help="checkpoint of this project, a file or a sharded folder")
    parser.add_argument("destination", metavar="HF_DIR", help="folder to write; must not exist")
    parser.add_argument("--family", choices=expressible(), help="model_type; the first that fits by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="convert weights on the way")
    parser.add_argument(
        "--max-shard-size", default=SHARD_SIZE, metavar="SIZE", help=f"of a safetensors file ({SHARD_SIZE})"
    )
    parser.add_argument("--optimizer", action="store_true", help="write the optimizer's state too")
    parser.add_argument("--drop-mtp", action="store_true", help="leave out layers for multi-token prediction")
    args = parser.parse_args(argv)
    with without_gc():
        from lit_recycle.hub.export import export_checkpoint

    family = export_checkpoint(
        args.source,
        args.destination,
        family=args.family,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        optimizer=args.optimizer,
        drop_mtp=args.drop_mtp,
    )
    print(f"wrote {args.destination}: a {family} model")
    return 0
