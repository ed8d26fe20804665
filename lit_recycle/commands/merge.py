"""``lit-recycle merge CKPT… DST``: a weighted mean of checkpoints instead of a decay of the learning rate."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_recycle.commands.source import source_on_disk
from lit_recycle.commands.without_gc import without_gc
from lit_recycle.destination import check_destination
from lit_recycle.hub.writer import SHARD_SIZE
from lit_recycle.progress import progress_bar

EXAMPLES = """examples:
  lit-recycle merge runs/mine/checkpoints/step=*.ckpt merged.ckpt --decay linear
  lit-recycle merge step-8000/ step-9000/ step-10000/ merged/ --decay cosine
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle merge",
        description="Weighted mean of checkpoints of a constant learning rate, of this project (put in order by their "
        "steps) or Hugging Face folders (the oldest first).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", metavar="CKPT", nargs="+", help="checkpoints or their addresses, or Hugging Face folders"
    )
    parser.add_argument("destination", metavar="DST", help="what is written; must not exist")
    parser.add_argument("--decay", choices=("linear", "cosine", "mean"), default="linear", help="of updates (linear)")
    parser.add_argument("--max-shard-size", metavar="SIZE", help=f"of a safetensors file ({SHARD_SIZE})")
    args = parser.parse_args(argv)
    check_destination(destination := Path(args.destination).expanduser())
    sources = [source_on_disk(source) for source in args.sources]
    with without_gc():
        from lit_recycle.checkpoints.merge import merge_checkpoints, merge_folders, merge_weights

    weights = merge_weights(args.decay, len(sources))
    if any((source / "config.json").is_file() for source in sources):
        nbytes = sum(path.stat().st_size for path in sources[-1].glob("*.safetensors"))
        with progress_bar(nbytes) as progress:
            size = args.max_shard_size or SHARD_SIZE
            merge_folders(sources, destination, args.decay, max_shard_size=size, progress=progress)
    elif args.max_shard_size:
        raise ValueError("--max-shard-size is of Hugging Face folders, and these are checkpoints: leave it out")
    else:
        sources = merge_checkpoints(sources, destination, args.decay)
    for source, weight in zip(sources, weights, strict=True):
        print(f"{weight:8.4f} × {source}")
    print(f"wrote {destination}")
    return 0
