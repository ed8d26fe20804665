"""``lit-recycle augment SRC DST``: training data of documents and what a model thinks about them."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from lit_recycle.commands.without_gc import without_gc

EXAMPLES = """example, and the source of a run that reads it:
  lit-recycle augment corpus/ thoughts.jsonl --model HF_DIR --max_tokens 1e8

  - name: thinking
    path: thoughts.jsonl
    template: "{document}\\n<think>{thinking}</think>"
"""

TOO_LONG = (
    "requests with their longest thoughts go {} tokens past what the model was trained to read: lower --piece_length "
    "or --max_new_tokens"
)


def main(argv: list[str]) -> int:
    """Sample, with a progress bar, until all is done or so many tokens were sampled."""
    options = parse(argv)
    with without_gc():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from lit_recycle.data.sources import find_files
        from lit_recycle.sampling.augment import Augmentation, augment
        from lit_recycle.sampling.sampled import device_of, load_sampled

    chosen = {name: value for name, value in vars(options).items() if name in Augmentation.__dataclass_fields__}
    if options.prompt_file:
        chosen["prompt"] = _read(options.prompt_file)
    how, device = Augmentation(**chosen), device_of(options.device)
    nbytes = sum(file.path.stat().st_size for file in find_files(how.source))
    batches = augment(how, options.destination, lambda: load_sampled(how.model, device))
    written = next(batches)  # what can be refused is refused here, before there is a bar
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[tokens]:,} tokens"))
    pieces, tokens, told = 0, 0, False
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("Thinking", total=nbytes, tokens=0)
        for batch in itertools.chain([written], batches):
            pieces, tokens = pieces + batch.pieces, tokens + batch.tokens
            bar.update(task, advance=batch.bytes, tokens=tokens)
            if batch.beyond and not told:
                bar.console.print(f"[yellow]warning:[/] {TOO_LONG.format(batch.beyond)}", soft_wrap=True)
                told = True
            if tokens >= options.max_tokens:
                break
        else:
            bar.update(task, completed=nbytes)
    rest = "" if bar.finished else f"; --max_tokens {options.max_tokens:g} is reached, the same command goes on"
    print(f"{options.destination}: {pieces:,} records, {tokens:,} tokens sampled now{rest}")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lit-recycle augment",
        description="Write JSON lines of documents and of thoughts about them, sampled from a model. The same command "
        "goes on where it was interrupted.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="file, folder or glob of text, .jsonl or .parquet")
    parser.add_argument("destination", metavar="DST", type=Path, help="file of JSON lines")
    parser.add_argument("--model", required=True, help="Hugging Face folder, or checkpoint of this project")
    parser.add_argument("--text_field", default="text", help="key or column of the text (text)")
    parser.add_argument("--prompt_file", type=Path, help="a request of your own, with {document} in it")
    parser.add_argument("--piece_length", type=int, default=8192, help="characters of a document at a time (8192)")
    parser.add_argument("--batch_size", type=int, default=8, help="pieces at a time (8)")
    parser.add_argument("--max_new_tokens", type=int, default=1024, help="of a thought (1024)")
    parser.add_argument("--max_tokens", type=float, default=float("inf"), help="sampled by this call; no limit")
    parser.add_argument("--stop", help="text that ends a thought, besides the model's own end")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest token each time (0.7)")
    parser.add_argument("--top_p", type=float, default=0.95, help="sample among tokens of this total probability")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda where there is one, or cpu")
    options = parser.parse_args(argv)
    if not options.max_tokens > 0:
        raise ValueError(f"--max_tokens must be above 0, got {options.max_tokens:g}")
    return options


def _read(prompt: Path) -> str:
    try:
        return prompt.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompt_file {prompt} is not UTF-8 text ({error}): convert it") from error
