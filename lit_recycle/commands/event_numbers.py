"""Number of the growth event that is wrong: a parser tells what is wrong in a list, but not where."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from lit_recycle.commands.errors import sentence
from lit_recycle.commands.growth_callback import growth_callbacks
from lit_recycle.data.pace import WARMUPS
from lit_recycle.growth.event import GrowthEvent, Trigger

MOMENTS = {"GrowthCallback": ("events", "at"), **dict.fromkeys(WARMUPS, ("stages", "until"))}
"""Where a callback, by its name, has a list of parts, and the key of their moments."""


def check_units(callbacks: Sequence[Any] | None) -> None:
    """Raises ``ValueError`` for a moment that is a bare number, of which a parser thinks nothing."""
    for callback in callbacks or ():
        name = "GrowthCallback" if growth_callbacks(callback) else str(callback.class_path).rpartition(".")[2]
        parts, key = MOMENTS.get(name, ("", ""))
        found = (callback.get("init_args") or {}).get(parts)
        for number, part in enumerate(found if isinstance(found, list) else (), 1):
            moment = part.get(key) if isinstance(part, Mapping | Namespace) else None
            what = f"{parts.removesuffix('s')} {number} of {name}"
            if moment is None and key == "at" and key in part:
                raise ValueError(f"{what}: at: null is no moment: write {{steps: 1000}}, or tokens")
            if moment is not None and not isinstance(moment, Mapping | Namespace):
                raise ValueError(f"{what}: {key}: {moment} lacks a unit: write {{steps: {moment}}}, or tokens")


def check_events(callbacks: Any) -> None:
    """Raises ``ValueError`` for an event of a parsed configuration that cannot be, with its number."""
    if (several := len(growth_callbacks(callbacks))) > 1:
        raise ValueError(
            f"trainer.callbacks has {several} callbacks that grow the model: list all events in one of them"
        )
    if wrong := wrong_event(_events(callbacks)):
        name, error = wrong
        if told := sentence(error):
            raise ValueError(f"{name}: {told}") from error


def with_number(told: str, configs: Iterable[Mapping[str, Any]]) -> str:
    """What is told of the events in configurations, of which the last one that has any counts, with the number."""
    found = [events for config in configs if (events := _events((config.get("trainer") or {}).get("callbacks")))]
    wrong = wrong_event(found[-1]) if found and "events" in told else None
    return f"{wrong[0]}: {told}" if wrong else told


def read_configs(argv: Sequence[str]) -> list[Mapping[str, Any]]:
    """The files that a command line names, as far as they can be read."""
    words = list(argv)
    paths = [after for word, after in pairwise(words) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    found = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                found.append(yaml.safe_load(file))
        except (OSError, ValueError, yaml.YAMLError):
            continue
    return [config for config in found if isinstance(config, dict)]


def wrong_event(events: Sequence[Any]) -> tuple[str, BaseException] | None:
    """The first event that cannot be, as messages call it, and why; what is interpolated is not looked at."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--event", type=GrowthEvent)
    for number, event in enumerate(events, 1):
        plain = event.as_dict() if isinstance(event, Namespace) else event
        if "${" in str(plain):
            continue
        try:
            parser.instantiate_classes(parser.parse_object({"event": plain}))
        except (ArgumentError, ValueError) as error:
            return _name(number, plain), error
    return None


def _events(callbacks: Any) -> list[Any]:
    """Of the growth callback in a list of callbacks, parsed or plain."""
    for callback in growth_callbacks(callbacks):
        events = (callback.get("init_args") or {}).get("events")
        return events if isinstance(events, list) else []
    return []


def _name(number: int, event: Any) -> str:
    try:
        return f"event {number} (at {Trigger(**event['at'])})"
    except (TypeError, KeyError, ValueError):  # that is what is wrong
        return f"event {number}"
