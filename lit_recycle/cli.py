"""The command line: ``lit-recycle COMMAND …``. Finds the command, and turns a user's mistake into one sentence."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence

from lit_recycle import __version__
from lit_recycle.commands.parent import end_with_parent
from lit_recycle.commands.shipped import with_shipped
from lit_recycle.commands.without_gc import without_gc

COMMANDS = {
    "fit": ("trainer", "train, and grow on the way"),
    "validate": ("trainer", "validation loss of a checkpoint"),
    "test": ("trainer", "test loss of a checkpoint"),
    "predict": ("trainer", "per-token losses of a checkpoint"),
    "plan": ("plan", "what a run will be, stage by stage: sizes, FLOPs, source maps"),
    "advise": ("advise", "when and how to grow, for a checkpoint or configuration and a budget"),
    "eval": ("eval_", "downstream tasks of several models, in one table"),
    "grow": ("grow", "grow a checkpoint on disk: this project's or Hugging Face's"),
    "operators": ("operators", "what a growth may do to a model"),
    "generate": ("generate", "sample text from a checkpoint"),
    "augment": ("augment", "documents with what a model thinks about them, as training data"),
    "reason": ("reason", "reinforcement learning of reasoning under a token budget, on a Hugging Face folder"),
    "import": ("import_", "Hugging Face folder → checkpoint to train on"),
    "export": ("export", "checkpoint → Hugging Face folder"),
    "dequantize": ("dequantize", "the FP8 weights of a Hugging Face folder in bfloat16"),
    "merge": ("merge", "weighted mean of checkpoints, instead of a decay"),
    "merge-branches": ("merge_branches", "checkpoint of branches → one of plain matrices"),
    "consolidate": ("consolidate", "sharded checkpoint → one file"),
    "report": ("report", "one page about one or several runs, from their logs"),
    "families": ("families", "Hugging Face model families that can be grown"),
}

USAGE = f"""lit-recycle {__version__}: train Mixture-of-Experts language models and grow them mid-run

usage: lit-recycle COMMAND [options]        lit-recycle COMMAND --help

""" + "\n".join(f"  {name:<16}{text}" for name, (_, text) in COMMANDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, or 2 for a user's mistake, which is told in one sentence on stderr."""
    argv = with_shipped(sys.argv[1:] if argv is None else argv)
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
    if os.getcwd() not in sys.path:  # a user's own classes are found as with `python main.py`
        sys.path.insert(0, os.getcwd())
    end_with_parent()
    try:
        with without_gc():
            command = importlib.import_module(f"lit_recycle.commands.{module}")
        return command.main(argv if module == "trainer" else argv[1:]) or 0
    except KeyboardInterrupt:  # not in training, where it saves
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from lit_recycle.commands.errors import sentence  # which knows all that may be misspelt, operators and events

        told = sentence(error)
        if told is None or os.environ.get("LIT_RECYCLE_TRACEBACK"):
            raise
        rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
        if rank == "0":
            print(f"error: {told}", file=sys.stderr)
        elif not isinstance(error, ValueError):  # configurations are the same for all processes, their disks are not
            print(f"error in process {rank}: {told}", file=sys.stderr)
        return _ended(2)


def _ended(code: int) -> int:
    """The exit status; at once where a thread still saves together with processes that are lost, and never ends."""
    if any(thread.name == "async-save" for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # otherwise the thread's end in the middle of an exchange aborts the process
    return code


if __name__ == "__main__":
    sys.exit(main())
