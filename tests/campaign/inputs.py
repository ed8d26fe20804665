"""What users get wrong, each as a command of its own: refused in one sentence that names it, and nothing is left."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from campaign.kills import LIMIT, leave_alone
from campaign.verdicts import Trial
from commands import test_bad_input as tables
from data.tiny_bpe import bpe_text
from processes import config, start

TABLE = Path(__file__).with_name("inputs.yaml")
WAY_OUT = re.compile(
    r"\b(must|give|set|did you mean|choose|see|raise|lower|leave|use|fetch|needs?|install|copy|make|at least|exists?"
    r"|lists?|allow|train|takes?|put|expected|required|not in|one of|is not|invalid (int|float|choice)|no such|belongs?"
    r"|unrecognized"
    r"|quote|write|[Aa]llowed|[Aa]vailable|has to be|is given with"
    r"|finds none|excludes? each other|order|there is no|cannot|holds no|nothing to|only|multiple of|within)\b"
)
"""What a sentence has that says what to do, or what would have been right."""


TOKENISED = ("fewer than one sample", ".distcp is damaged")
"""What is said once a text was tokenised, perhaps in hours, and is not thrown away."""


class Wrong(NamedTuple):
    """A command line, and what its one sentence must say."""

    argv: list[Any]
    says: tuple[str, ...]


def trials(seed: int, count: int, undisturbed: Path) -> Iterator[Trial]:
    """The first ``count`` wrong inputs of all tables."""
    _make_places(undisturbed.with_name("places"), undisturbed)
    found = [*_from_the_table(undisturbed), *_from_the_tests(undisturbed)]
    yield from found[:count]


def _trial(kind: str, name: str, prepare: Callable[[Path], Wrong]) -> Trial:
    def run(work: Path) -> int:
        _refused(work, *prepare(work))
        return 1

    return Trial(f"wrong input, {kind}", name, run)


# --- inputs.yaml -----------------------------------------------------------------------------------------------------


def _from_the_table(undisturbed: Path) -> Iterator[Trial]:
    def prepare(command: str, says: list[str], work: Path) -> Wrong:
        places = {**_places(undisturbed), "config": config(work / "run"), "out": work / "out"}
        argv = [word.format(**places) for word in shlex.split(command)]
        return Wrong(argv, tuple(text.format(**places) for text in says))

    for number, (command, *says) in enumerate(yaml.safe_load(TABLE.read_text())):
        yield _trial(command.split()[0], str(number), partial(prepare, command, says))


def _places(undisturbed: Path) -> dict[str, Path]:
    """What the table's placeholders stand for; only read."""
    work = undisturbed.with_name("places")
    names = {"ckpt": "some.ckpt", "folder": "sharded.ckpt", "hf": "hf", "bad": "bad", "empty": "empty", "text": "text"}
    return {key: work / name for key, name in names.items()} | {"run": leave_alone("one device", undisturbed)}


def _make_places(work: Path, undisturbed: Path) -> None:
    import pico

    (work / "text").mkdir(parents=True)
    (work / "text/a.txt").write_text("the cat sat on the mat " * 99)
    (work / "empty").mkdir()
    (work / "bad").write_bytes(b"\x80\x02}q\x00[1, 2\n")
    shutil.copy(leave_alone("one device", undisturbed) / "checkpoints/step=5.ckpt", work / "some.ckpt")
    shutil.copytree(leave_alone("FSDP2", undisturbed) / "checkpoints/step=5.ckpt", work / "sharded.ckpt")
    pico.build("olmoe").save_pretrained(work / "hf")
    (work / "hf/tokenizer.json").write_text(bpe_text("<|endoftext|>"))


# --- the tables of the tests -----------------------------------------------------------------------------------------


def _from_the_tests(undisturbed: Path) -> Iterator[Trial]:
    for command in ("fit", "plan"):
        for kind, table, prepare in (
            ("options", tables.OPTIONS, _options),
            ("file", tables.FILES, _file),
            ("events", tables.EVENTS, _events),
            ("warm-ups", tables.WARMUPS, _warmups),
        ):
            for name in table:
                if command == "fit" or name not in tables.NOT_PLANNED:
                    yield _trial(kind, f"{command} {name}", partial(prepare, command, name))
    for name in tables.DATA:
        yield _trial("data", name, partial(_data, name))
    for name in tables.FILES_OF_OTHERS:
        for command in ("fit", "generate", "grow"):
            yield _trial("checkpoint", f"{command} {name}", partial(_checkpoint, command, name, undisturbed))
    for name in tables.FOLDERS:
        for command in ("fit", "generate", "consolidate"):
            yield _trial("sharded checkpoint", f"{command} {name}", partial(_folder, command, name, undisturbed))


def _options(command: str, name: str, work: Path) -> Wrong:
    given, says = tables.OPTIONS[name]
    return Wrong([command, "--config", config(work / "run"), *given], says)


def _second_file(command: str, text: str, says: tuple[str, ...], work: Path) -> Wrong:
    (work / "wrong.yaml").write_text(text)
    return Wrong([command, "--config", config(work / "run"), "--config", work / "wrong.yaml"], says)


def _file(command: str, name: str, work: Path) -> Wrong:
    return _second_file(command, *tables.FILES[name], work)


def _events(command: str, name: str, work: Path) -> Wrong:
    events, says = tables.EVENTS[name]
    return _second_file(command, tables.with_events(work / "events.yaml", events).read_text(), says, work)


def _warmups(command: str, name: str, work: Path) -> Wrong:
    callbacks, says = tables.warmup(name)
    return _second_file(command, yaml.safe_dump({"trainer": {"callbacks": callbacks}}), says, work)


def _data(name: str, work: Path) -> Wrong:
    file, content, says = tables.DATA[name]
    if content is not None:
        (work / file).write_bytes(content)
    return Wrong(["fit", "--config", config(work / "run"), "--data.path", work / file], says)


def _checkpoint(command: str, name: str, undisturbed: Path, work: Path) -> Wrong:
    path = work / "some.ckpt"
    shutil.copy(leave_alone("one device", undisturbed) / "checkpoints/step=3.ckpt", path)
    spoil, says = tables.FILES_OF_OTHERS[name]
    spoil(path, work / "executed")
    return Wrong(_with_checkpoint(command, path, work), (str(path), *says))


def _folder(command: str, name: str, undisturbed: Path, work: Path) -> Wrong:
    path, run = work / "some.ckpt", leave_alone("FSDP2", undisturbed)
    shutil.copytree(run / "checkpoints/step=3.ckpt", path)
    spoil, says = tables.FOLDERS[name]
    spoil(path, run / "checkpoints/step=4.ckpt", work / "executed")
    return Wrong(_with_checkpoint(command, path, work), says)


def _with_checkpoint(command: str, path: Path, work: Path) -> list[Any]:
    argv = {
        "fit": ["--config", config(work / "run"), "--ckpt_path", path],
        "generate": ["--ckpt_path", path],
        "grow": [path, work / "grown.ckpt", "--depth", "2"],
        "consolidate": [path, work / "whole.ckpt"],
    }
    return [command, *argv[command]]


# --- what is asked of an answer --------------------------------------------------------------------------------------


def _refused(work: Path, argv: list[Any], says: tuple[str, ...]) -> None:
    before = _files(work)
    run = start(*argv, log=work / "log")
    codes = run.wait(LIMIT)
    told = run.output
    assert codes == [2], f"exit code {codes}\n{told[-2000:]}"
    assert "Traceback" not in told, told[-2000:]
    # argparse says who it is where this program says no more than that it is an error
    sentences = [line for line in told.splitlines() if line.startswith("error: ") or ": error: " in line]
    assert len(sentences) == 1 and len(sentences[0]) < 600, told[-2000:]
    for text in says:
        assert text in sentences[0], f"does not say {text!r}: {sentences[0]}"
    assert WAY_OUT.search(sentences[0]), f"says no way out: {sentences[0]}"
    kept = ("log", "cache") if any(text in sentences[0] for text in TOKENISED) else ("log",)
    left = {p for p in _files(work) - before if p.parts[0] not in kept}
    assert not left, f"left behind: {left}"
    assert not (work / "executed").exists(), "what a file says was run"


def _files(work: Path) -> set[Path]:
    """And folders."""
    return {path.relative_to(work) for path in work.rglob("*")}
