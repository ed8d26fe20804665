"""The option with which a command is told the checksums of a Hugging Face folder's files."""

from __future__ import annotations

import argparse


def add_checksums(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checksums",
        metavar="FILE",
        help="SHA-256 of the source's files, as sha256sum writes them; not needed where the folder has them itself "
        "(SHA256SUMS, *.sha256, or as huggingface_hub has fetched it)",
    )
