"""What users get wrong, each as a command of its own: refused in one sentence that names it, and nothing is left."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from campaign.verdicts import Trial
from commands import test_bad_input as tables
from data.tiny_bpe import bpe_text
from processes import config, start

TABLE = Path(__file__).with_name("inputs.yaml")


def trials(seed: int, count: int, undisturbed: Path) -> Iterator[Trial]:
    """The first ``count`` wrong inputs of all tables."""
    found = [*_from_the_tests(), *_from_the_table(undisturbed)]
    yield from found[:count]


def _from_the_table(undisturbed: Path) -> Iterator[Trial]:
    for number, (command, *says) in enumerate(yaml.safe_load(TABLE.read_text())):

        def run(work: Path, command: str = command, says: list[str] = says) -> int:
            places = _places(work, undisturbed)
            _refused(work, [w.format(**places) for w in shlex.split(command)], [s.format(**places) for s in says])
            return 1

        yield Trial(f"wrong input, {command.split()[0]}", str(number), run)


def _from_the_tests() -> Iterator[Trial]:
    def options(work: Path, given: tuple[str, ...], says: tuple[str, ...]) -> None:
        _refused(work, ["fit", "--config", config(work / "run"), *given], says)

    def file(work: Path, text: str, says: tuple[str, ...]) -> None:
        (work / "wrong.yaml").write_text(text)
        _refused(work, ["fit", "--config", config(work / "run"), "--config", work / "wrong.yaml"], says)

    def events(work: Path, given: list[dict[str, Any]], says: tuple[str, ...]) -> None:
        path = tables.with_events(work / "events.yaml", given)
        for command in ("fit", "plan"):
            _refused(work, [command, "--config", config(work / "run"), "--config", path], says)

    for kind, table, run in (
        ("options", tables.OPTIONS, options),
        ("file", tables.FILES, file),
        ("events", tables.EVENTS, events),
    ):
        for name, (given, says) in table.items():  # type: ignore[attr-defined]

            def trial(work: Path, run: Any = run, given: Any = given, says: Any = says) -> int:
                run(work, given, says)
                return 1

            yield Trial(f"wrong input, {kind}", name, trial)


def _places(work: Path, undisturbed: Path) -> dict[str, Path]:
    """What the table's placeholders stand for, in the folder of the trial."""
    import pico

    text = work / "text"
    text.mkdir()
    (text / "a.txt").write_text("the cat sat on the mat " * 99)
    (work / "empty").mkdir()
    (work / "bad").write_bytes(b"\x80\x02}q\x00[1, 2\n")
    checkpoints = undisturbed / "one-device/run/checkpoints"
    shutil.copy(checkpoints / "step=5.ckpt", work / "some.ckpt")
    shutil.copytree(undisturbed / "FSDP2/run/checkpoints/step=5.ckpt", work / "sharded.ckpt")
    pico.build("olmoe").save_pretrained(work / "hf")
    (work / "hf/tokenizer.json").write_text(bpe_text("<|endoftext|>"))
    return {
        "config": config(work / "run"), "ckpt": work / "some.ckpt", "folder": work / "sharded.ckpt",
        "run": checkpoints.parent, "hf": work / "hf", "bad": work / "bad", "empty": work / "empty",
        "out": work / "out", "text": text,
    }  # fmt: skip


def _refused(work: Path, argv: list[Any], says: Any) -> None:
    before = _files(work)
    run = start(*argv, log=work / "log")
    codes = run.wait(120)
    told = run.output
    assert codes == [2], f"exit code {codes}\n{told[-2000:]}"
    assert "Traceback" not in told, told[-2000:]
    # argparse says who it is where this program says no more than that it is an error
    sentences = [line for line in told.splitlines() if line.startswith("error: ") or ": error: " in line]
    assert len(sentences) == 1 and len(sentences[0]) < 600, told[-2000:]
    for text in says:
        assert text in sentences[0], f"does not say {text!r}: {sentences[0]}"
    left = {p for p in _files(work) - before if p.parts[0] not in ("log", "cache")}
    assert not left, f"left behind: {left}"


def _files(work: Path) -> set[Path]:
    return {path.relative_to(work) for path in work.rglob("*") if path.is_file()}
