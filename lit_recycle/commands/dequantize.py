"""``lit-recycle dequantize SRC DST``: the FP8 weights of a Hugging Face folder in bfloat16."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_recycle.commands.checksums_option import add_checksums
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.hub.writer import SHARD_SIZE
from lit_recycle.progress import progress_bar


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle dequantize",
        description="Write a folder of block-FP8 weights (DeepSeek, Kimi) in bfloat16, as `lit-recycle grow` needs it. "
        "`fit --model.init_from` takes such a folder as it is.",
    )
    parser.add_argument("source", metavar="SRC", help="Hugging Face folder")
    parser.add_argument("destination", metavar="DST", help="folder to write; must not exist")
    parser.add_argument(
        "--max-shard-size", default=SHARD_SIZE, metavar="SIZE", help=f"of a safetensors file ({SHARD_SIZE})"
    )
    add_checksums(parser)
    args = parser.parse_args(argv)
    with without_gc():
        from lit_recycle.hub.dequantize import dequantize_folder

    nbytes = 2 * sum(path.stat().st_size for path in Path(args.source).expanduser().glob("*.safetensors"))
    with progress_bar(nbytes) as progress:
        dequantize_folder(
            args.source,
            args.destination,
            max_shard_size=args.max_shard_size,
            checksums=args.checksums,
            progress=progress,
        )
    print(f"wrote {args.destination}")
    return 0
