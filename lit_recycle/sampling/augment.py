"""Documents with what a model thinks about them: thinking-augmented pretraining (Wang et al. 2025, arXiv 2509.20186).

    DST               JSON lines: {"document": …, "thinking": …}, one per piece of a document, in the order of SRC
    DST.options.json  what it is made with, so that a later call goes on and does not mix

Each piece is sampled from a seed of its own, and whole batches are written, so that a call that was killed goes on to
the same file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from lit_recycle.checkpoints.atomic import beside
from lit_recycle.data.oddities import Oddities
from lit_recycle.data.sources import find_files, read_documents
from lit_recycle.destination import check_local
from lit_recycle.sampling.generate import check_sampling, generate_batch
from lit_recycle.sampling.sampled import Sampled
from lit_recycle.seeding import seed_of

PROMPT = """{document}

---
Above is a text. Think through it step by step, as somebody who knows its field would: what it says, why it holds, what
it rests on, and what follows from it. Dwell on what is hard, pass over what is plain."""


@dataclass(frozen=True)
class Augmentation:
    """How thoughts are sampled.

    Attributes:
        model: folder or checkpoint.
        source: what is read.
        text_field: key or column of the text in it.
        prompt: the request, with `{document}` where a piece of a document is put.
        piece_length: characters after which a document is cut, at the end of a line where there is one.
        batch_size: pieces that are sampled together.
        max_new_tokens: the longest thought.
        stop: text that ends a thought, besides the model's own end.
        temperature: divides the logits.
        top_p: as for `generate`.
        seed: of everything.

    Raises:
        ValueError: a value is out of range.
    """

    model: str
    source: str
    text_field: str = "text"
    prompt: str = PROMPT
    piece_length: int = 8192
    batch_size: int = 8
    max_new_tokens: int = 1024
    stop: str | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if "{document}" not in self.prompt:
            raise ValueError(f"the prompt must say where the document is put, as {{document}}; it is {self.prompt!r}")
        for name in ("piece_length", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_sampling(self.temperature, self.top_p)


@dataclass(frozen=True)
class Batch:
    """What was written.

    Attributes:
        pieces: of documents.
        tokens: that were sampled for them.
        bytes: of the source that they took.
        beyond: tokens by which the longest request and the longest thought allowed go past what the model was trained
            to read, 0 where they do not.
    """

    pieces: int
    tokens: int
    bytes: int
    beyond: int = 0


def augment(how: Augmentation, destination: Path, load: Callable[[], Sampled]) -> Iterator[Batch]:
    """Write what is not written yet, a batch at a time; the first yield is of what was there.

    Raises:
        ValueError: the destination was made otherwise, is an address or part of the source, or the source cannot be
            read, or has changed.
    """
    check_local(destination)
    _check_apart(destination, how.source)
    options = destination.with_name(destination.name + ".options.json")
    made = asdict(how) | {"source": os.path.abspath(how.source), "model": os.path.abspath(how.model)}
    done, end, last = _written(destination, options, made, how.batch_size)
    pieces = _pieces(how)
    skipped, known = _skip(pieces, done)
    if known != last:
        raise ValueError(f"{how.source} is not what {destination} was begun with: restore it, or write elsewhere")
    batch = [*islice(pieces, how.batch_size)]
    sampled = load() if batch else None  # before there is anything of it on disk
    destination.parent.mkdir(parents=True, exist_ok=True)
    with beside(options) as part:
        part.write_text(json.dumps(made, indent=2))
    yield Batch(done, 0, skipped)
    with open(destination, "a", encoding="utf-8") as out:
        out.truncate(end)
        while batch:
            assert sampled is not None
            documents = [text for text, _ in batch]
            prompts = [sampled.prompt(how.prompt.replace("{document}", document)) for document in documents]
            thoughts, tokens = _thoughts(how, sampled, prompts, done)
            pairs = zip(documents, thoughts, strict=True)
            lines = [json.dumps({"document": d, "thinking": t}, ensure_ascii=False) + "\n" for d, t in pairs]
            out.write("".join(lines))
            out.flush()
            done += len(batch)
            beyond = max(map(len, prompts)) + how.max_new_tokens - sampled.max_length
            yield Batch(len(batch), tokens, sum(size for _, size in batch), max(beyond, 0))
            batch = [*islice(pieces, how.batch_size)]


def _thoughts(how: Augmentation, sampled: Sampled, prompts: list[list[int]], first: int) -> tuple[list[str], int]:
    """The thoughts about pieces by their requests, the first of which has a number; how many tokens were sampled."""

    def ends(ids: list[int]) -> bool:
        if ids[-1] in sampled.ends or not how.stop:
            return ids[-1] in sampled.ends
        return how.stop in sampled.decode(ids[-len(how.stop.encode()) - 4 :])

    found = generate_batch(
        sampled.model,
        prompts,
        [seed_of(how.seed, number) for number in range(first, first + len(prompts))],
        how.max_new_tokens,
        ends,
        temperature=how.temperature,
        top_p=how.top_p,
        allowed=sampled.allowed,
    )
    texts = [sampled.decode([token for token in ids if token not in sampled.ends]) for ids in found]
    return [text.partition(how.stop)[0] if how.stop else text for text in texts], sum(map(len, found))


def _pieces(how: Augmentation) -> Iterator[tuple[str, int]]:
    """Every piece and the bytes of the source that it took."""
    oddities = Oddities()
    for file in find_files(how.source):
        for text, size in read_documents(file, how.text_field, oddities):
            cut = [*_cut(text, how.piece_length)]
            yield from ((piece, size // len(cut)) for piece in cut)


def _skip(pieces: Iterator[tuple[str, int]], count: int) -> tuple[int, str]:
    """Go past so many pieces; the bytes of the source that they took, and the last one."""
    nbytes, last = 0, ""
    for text, size in islice(pieces, count):
        nbytes, last = nbytes + size, text
    return nbytes, last


def _cut(text: str, length: int) -> Iterator[str]:
    while len(text) > length:
        end = text.rfind("\n", 0, length) + 1 or length
        yield text[:end]
        text = text[end:]
    yield text


def _check_apart(destination: Path, source: str) -> None:
    """Raises ValueError for what would be read as part of the source when the command goes on."""
    place, root = Path(os.path.abspath(destination)), Path(os.path.abspath(Path(source).expanduser()))
    if (root.is_dir() and root in place.parents) or (has_magic(source) and fnmatch(str(place), str(root))):
        raise ValueError(f"{destination} lies in {source}, and would be read as part of it: write elsewhere")


def _written(destination: Path, options: Path, made: dict[str, Any], batch_size: int) -> tuple[int, int, str]:
    """Pieces that are written already, in whole batches, their bytes, and the document of the last one."""
    if options.exists():
        before = _read(options)
        if other := [name for name in made if before.get(name) != made[name]]:
            raise ValueError(
                f"{destination} was begun with {other[0]} {before.get(other[0])!r}, not {made[other[0]]!r}: go on with "
                "that, or write elsewhere"
            )
    elif destination.exists():
        raise ValueError(f"{destination} exists and was not made by this command: write elsewhere")
    if not destination.exists():
        return 0, 0, ""
    with open(destination, "rb") as lines:
        ends = [0]
        for line in lines:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
    pieces = (len(ends) - 1) // batch_size * batch_size
    return pieces, ends[pieces], _document(destination, ends[pieces - 1]) if pieces else ""


def _read(options: Path) -> dict[str, Any]:
    try:
        return {**json.loads(options.read_text())}
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{options} is damaged ({error}): remove it and what lies beside it, or write elsewhere"
        ) from error


def _document(destination: Path, start: int) -> str:
    """That of the record which begins at a byte."""
    with open(destination, "rb") as lines:
        lines.seek(start)
        try:
            return str(json.loads(lines.readline())["document"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{destination} was changed since it was written ({error}): write elsewhere") from error
