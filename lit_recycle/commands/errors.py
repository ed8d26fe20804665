"""Error messages: a user's mistake in one sentence, out of the exception that tells of it."""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from types import FrameType

from lit_recycle.growth import operators
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width

SPEAKS_TO_USERS = ("lit_recycle.", "lightning.", "torch.optim.")
"""Modules whose ``ValueError`` says what a user did wrong."""

_EVENT_PARTS = (GrowthEvent, Trigger, Depth, Width, Rewarm)
_WAYS_OUT = {
    errno.ENOSPC: ": free some space, or write elsewhere (trainer.default_root_dir, data.cache_dir)",
    errno.EDQUOT: ": free some space, or write elsewhere (trainer.default_root_dir, data.cache_dir)",
    errno.EROFS: ": write elsewhere (trainer.default_root_dir, data.cache_dir)",
    errno.ENOENT: ": give a path where there is one",
    errno.EACCES: ": give the rights, or another path",
    errno.EMFILE: ": allow more open files (ulimit -n)",
}
"""What the system says no way out of."""

_BETTER = {
    "No supported gpu backend found": "trainer.accelerator gpu: no GPU is found on this machine: set it to cpu or auto",
    "`devices` selected with `CPUAccelerator`": (
        "trainer.devices: on CPUs give the number of processes, such as 2: lists are of GPUs"
    ),
    "model.optimizer: Muon only supports 2D parameters": (
        "model.optimizer Muon is torch's, which trains matrices alone: set it to lit_recycle.training.muon.Muon"
    ),
}
"""For messages of Lightning's and torch's that name no key or no way out, by how they begin."""

_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|Cannot allocate memory")
_FILE = re.compile(r"^while reading (.+)$")
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']+)' does not accept option '(?P<sub>[^']+)'|Option '(?P<key>[^']+)' is not accepted)"
)
_CLASS = re.compile(r"^Problem with given class_path '([^']+)'")
_KEY = re.compile(r'^Parser key "([^"]+)"')
_IN_WORKER = re.compile(
    r"Caught ValueError in DataLoader worker process.*^  File \"([^\"]+)\".*^ValueError: (.*)", re.M | re.S
)
"""What torch makes of an error in a process that gathers data: the last file of its traceback, and what it said."""
_NO_CLASS = re.compile(r"Not a valid subclass of|Expected an instantiatable class, but \S+ is abstract")
_BOILERPLATE = re.compile(r"^(Parser key|Problem with given class_path) [\"'][^\"']+[\"']:\s*")


def sentence(error: BaseException, options: Iterable[str] = ()) -> str | None:
    """What to tell the user; None for what is broken in a program, which deserves a traceback.

    A user's mistakes are errors of the file system, of a configuration (Lightning's, OmegaConf's, or the command
    line's), and a ``ValueError`` raised by this project's own code, wherever a parser has wrapped it, or by a class
    that refuses its arguments. That another process of a run is gone, or memory short, is no mistake, but a traceback
    would not tell more.

    Args:
        error: An exception.
        options: The keys that there are, to find the one that was meant.
    """
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        way_out = _WAYS_OUT.get(error.errno or 0, "")
        return f"{error.strerror}{place}{way_out}" if error.strerror else _one_line(error)
    if type(error).__name__ == "LostPeer":
        return _one_line(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return (
            "out of memory: lower data.batch_size or data.seq_len, set model.activation_checkpointing true, or spread "
            f"the model with trainer.strategy fsdp2 ({_one_line(error)[:160]})"
        )
    if isinstance(error, ValueError) and (worker := _IN_WORKER.match(str(error))):
        return _one_line(worker[2]) if "lit_recycle" in Path(worker[1]).parts else None
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "a process that gathers data has ended; where /dev/shm is small, give it more room or set data.num_workers"
            f" 0 ({_one_line(error)[:160]})"
        )
    if isinstance(error, ArgumentError):
        return _parsing(error, options)
    *_, deepest = _causes(error)
    if type(deepest).__name__ == "RepresenterError":  # an enumeration, the default of a class
        return (
            f"a class in the configuration has the default {deepest.args[-1]!r}, which YAML cannot say: give that "
            "argument in its init_args, as a word (Timer: interval: step)"
        )
    if type(error).__module__ == "omegaconf.errors":
        way_out = ": give a key that there is" if type(error).__name__ == "InterpolationKeyError" else ""
        return f"{getattr(error, 'full_key', None) or 'the configuration'}: {str(error).splitlines()[0]}{way_out}"
    innermost = deepest if _raised_by(error).startswith("jsonargparse.") else error
    users = "MisconfigurationException" in (type(error).__name__, type(innermost).__name__)
    users |= isinstance(innermost, (ValueError, ImportError)) and _raised_by(innermost).startswith(SPEAKS_TO_USERS)
    users |= isinstance(innermost, ValueError) and innermost is not error and _constructor(innermost) is not None
    users |= isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric")
    users |= isinstance(error, TypeError) and _raised_by(error).startswith("lightning.fabric.accelerators.")
    if not users:
        return _wrong_arguments(innermost) if isinstance(innermost, (TypeError, ArithmeticError)) else None
    told = _one_line(innermost)
    return next((better for said, better in _BETTER.items() if told.startswith(said)), told)


def _parsing(error: ArgumentError, options: Iterable[str]) -> str:
    """jsonargparse tells of every alternative that a value is not; its first is the one that was meant.

    Each level of a configuration has raised an exception from the one below: the keys are collected on the way down.
    """
    messages = [str(e.message if isinstance(e, ArgumentError) else e).strip() for e in _causes(error)]
    files, keys, classes = ([m[1] for text in messages if (m := p.match(text))] for p in (_FILE, _KEY, _CLASS))
    path = ".".join(dict.fromkeys(keys))
    if messages[-1].startswith("expected "):  # argparse, of an option without its value
        path = next((e.argument_name for e in _causes(error) if isinstance(e, ArgumentError) and e.argument_name), path)
    told = _problem(messages, path, classes[-1] if classes else None, options)
    return f"{files[-1]}: {told}" if files else told


def _problem(messages: list[str], path: str, owner: str | None, options: Iterable[str]) -> str:
    """One problem, at a path of keys in a configuration; ``owner`` is the class whose arguments are at that path."""
    message = messages[-1]
    if message.startswith("Unexpected config:"):
        return "it holds no keys and values, as a configuration does (trainer: {max_steps: 3})"
    if file := re.fullmatch(r"unrecognized arguments: (\S+\.ya?ml)", message):
        return f"{file[1]} is no option: a configuration is given with --config {file[1]}"
    alternatives = messages[-2] if message.startswith("Expected a") and "Union subtypes" in messages[-2] else ""
    if unrecognized := re.match(r"unrecognized arguments: --([\w.]+)", message):
        return _unknown(unrecognized[1], options)
    if unknown := _UNKNOWN.search(alternatives or message):
        if "class_path" in (unknown["key"], unknown["sub"]):
            return f"{path}: the arguments of a class_path go below init_args"
        owner = owner or next(iter(re.findall(_CLASS.pattern[1:], alternatives)), None)
        if owner:
            return _unknown((unknown["key"] or unknown["sub"]).partition(".")[0], _parameters(owner), path)
        return _unknown(".".join(filter(None, (unknown["group"], unknown["sub"], unknown["key"]))), options, path)
    if alternatives:
        return f"{path} cannot be {alternatives.rpartition('Given value:')[2].strip()!r}: see --help"
    if wrong_type := re.match(r"Expected a <class '(\w+)'>\. Got value: (.*)", message):
        return f"{path} must be of type {wrong_type[1]}, got {wrong_type[2]!r}"
    if choice := re.match(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", message):
        return f"{path} must be one of {choice[1]}, got {choice[2]!r}"
    if path.endswith("events.grow") and (name := re.search(r"has no attribute '(\w+)'", message)):
        near = difflib.get_close_matches(name[1], operators.__all__, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}? " if near else ""
        return f"{path}: there is no operator {name[1]!r}; {meant}`lit-recycle operators` lists them"
    if lacking := re.match(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"{path}: there is no class {lacking[2]!r} in {lacking[1]}: give the path of one that is there"
    if missing := re.search(r"No module named '([\w.]+)'", message):
        return f"{path}: there is no module {missing[1]!r}, neither in the folder of the call nor on PYTHONPATH"
    if unknown_class := re.search(r"Expected a dot import path string: (\S+)", message):
        own = f"one of your own needs its module, my_module.{unknown_class[1]}"
        return f"{path}: no class is known as {unknown_class[1]}; {own}"
    if _NO_CLASS.match(message):
        got = re.search(r"Got value: (.*?)(?: Subclass types|$)", _one_line(message))
        return f"{path} takes a class's name, or class_path and init_args" + (f", and got {got[1]}" if got else "")
    if no_list := re.match(r"Expected a <class 'collections\.abc\.Sequence'>\. Got value: (.*)", message):
        return f"{path} must be a list, got {no_list[1]}"
    text = _one_line(_BOILERPLATE.sub("", message).replace('in "<unicode string>", line', "at line"))
    return f"{path}: {text}" if path else text


def _unknown(key: str, known: Iterable[str], path: str = "") -> str:
    if key.endswith(".help"):
        return f"there is no key {key!r}: --help lists all of them"
    names = [field.name for kind in _EVENT_PARTS for field in fields(kind)] if path.endswith("events") else list(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    where = f" in {path}" if path else ""
    if path.endswith("events.grow") and not near:
        return f"there is no key {key!r}{where}: the operator has {', '.join(names) or 'none'}"
    return f"there is no key {key!r}{where}" + (f"; did you mean {near[0]!r}?" if near else ": see --help")


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _causes(error: BaseException) -> Iterator[BaseException]:
    step: BaseException | None = error
    while step is not None:
        yield step
        step = step.__cause__


def _raised_by(error: BaseException) -> str:
    """The module whose code raised an exception, with a dot at its end."""
    frame = _last_frame(error)
    return f"{frame.f_globals.get('__name__', '') if frame else ''}."


def _constructor(error: BaseException) -> FrameType | None:
    """Where a class that a configuration names, a user's own too, takes its arguments, if that has raised it."""
    frame = _last_frame(error)
    return frame if frame and frame.f_code.co_name in ("__init__", "__post_init__") else None


def _last_frame(error: BaseException) -> FrameType | None:
    """Where it was raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last and last.tb_frame


def _wrong_arguments(error: BaseException) -> str | None:
    """What is told of a class of this project, Lightning or torch that fails on its arguments, most often on a null."""
    frame = _constructor(error)
    if frame is None or not _raised_by(error).startswith(SPEAKS_TO_USERS):
        return None
    owner = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else "a class"
    return f"{owner} cannot take these arguments, a null or another type: {_one_line(error)}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split()) or type(text).__name__
