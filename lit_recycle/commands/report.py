"""``lit-recycle report``: a page about one or several runs, from their logs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_recycle.commands.without_gc import without_gc
from lit_recycle.destination import check_local


def main(argv: list[str]) -> int:
    """Write the page and say where it is."""
    options = parse(argv)
    with without_gc():  # only now: --help needs neither TensorBoard nor matplotlib
        from lit_recycle.report.report import write_report

    out = options.out or options.run_dirs[0] / "report"
    check_local(out)
    print(write_report(options.run_dirs, out))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lit-recycle report",
        description="Write report.html, one file with all pictures inside, and the pictures as PNGs. Several runs are "
        "compared over tokens, total FLOPs and FLOPs since the growth.",
    )
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="default_root_dir of a run")
    parser.add_argument("--out", type=Path, default=None, help="folder to write to; RUN_DIR/report when not given")
    return parser.parse_args(argv)
