"""The command line: ``lit-recycle COMMAND …``. Finds the command, and turns a user's mistake into one sentence."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

from lit_recycle import __version__

COMMANDS = {
    "fit": ("trainer", "train, and grow on the way"),
    "validate": ("trainer", "validation loss of a checkpoint"),
    "test": ("trainer", "test loss of a checkpoint"),
    "predict": ("trainer", "per-token losses of a checkpoint"),
    "plan": ("plan", "what a run will be, stage by stage: sizes, FLOPs, source maps"),
    "grow": ("grow", "grow a checkpoint on disk: this project's or Hugging Face's"),
    "generate": ("generate", "sample text from a checkpoint"),
    "import": ("import_", "Hugging Face folder → checkpoint to train on"),
    "export": ("export", "checkpoint → Hugging Face folder"),
    "families": ("families", "Hugging Face model families that can be grown"),
}

USAGE = f"""lit-recycle {__version__}: train Mixture-of-Experts language models and grow them mid-run

usage: lit-recycle COMMAND [options]        lit-recycle COMMAND --help

""" + "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, or 2 for a user's mistake, which is told in one sentence on stderr."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        print(f"error: there is no command {argv[0]!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[argv[0]]
    try:
        command = importlib.import_module(f"lit_recycle.commands.{module}")
        return command.main(argv if module == "trainer" else argv[1:]) or 0
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("LIT_RECYCLE_TRACEBACK") or not is_users(error):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {one_sentence(error)}", file=sys.stderr)
        return 2


def is_users(error: BaseException) -> bool:
    """Whether an exception says what a user did wrong, rather than what is broken in a program.

    That is an error of the file system, Lightning's complaint about a configuration, or a ``ValueError`` raised by
    this project's own code.
    """
    if isinstance(error, OSError) or type(error).__name__ == "MisconfigurationException":
        return True
    return isinstance(error, ValueError) and _raised_by(error.__traceback__).startswith(("lit_recycle", "callbacks"))


def one_sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or traceback.format_exception_only(error)[-1].strip()


def _raised_by(trace: TracebackType | None) -> str:
    name = ""
    while trace is not None:
        name, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return name


if __name__ == "__main__":
    sys.exit(main())
