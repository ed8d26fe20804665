"""Update rules: what past growths say of the updates of new and of old rows, at a step. No torch.

The factors of all growths that still say something are multiplied: zero where rows are not trained, a re-warm's where
the rate of new rows has one of its own, one for all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from lit_recycle.growth.event import Rewarm, Trigger
from lit_recycle.growth.names import Naming
from lit_recycle.growth.new_rows import Flags, NewRows, blocks, is_by_expert, of_expert


@dataclass(frozen=True)
class UpdateRule:
    """What one growth says.

    Args:
        train: ``all``, ``new`` or ``old``: what is trained.
        ramp: Of the rate of new rows; None where they have none of their own.
        start: Number of optimizer steps before the growth.
        event: Number of the growth in the life of the model.
    """

    train: str
    ramp: Rewarm | None
    start: int
    event: int

    def trains(self, new: bool) -> bool:
        """Whether new rows, or old ones, are trained."""
        return self.train == "all" or (self.train == "new") == new

    def factor(self, new: bool, step: int) -> float:
        """What an update is multiplied by, in the step that follows so many."""
        if not self.trains(new):
            return 0.0
        return self.ramp.factor(step - self.start) if self.ramp and new else 1.0


def update_rules(growth: Sequence[Mapping[str, Any]], step: int) -> list[UpdateRule]:
    """The rules that are still on before a step, from the records of growths; those of an earlier run say nothing."""
    found = []
    for number, record in enumerate(growth):
        if record.get("earlier"):
            continue
        event, since = record["event"], step - record["steps"]
        is_over = event["train_steps"] is not None and since >= event["train_steps"]
        train = "all" if is_over else event["train"]
        ramp = Rewarm(**event["rewarm"]) if event["rewarm"] else None
        if ramp and (ramp.who == "all" or ramp.is_over(since)):
            ramp = None
        if train != "all" or ramp:
            found.append(UpdateRule(train, ramp, record["steps"], number))
    return found


def new_rows(growth: Sequence[Mapping[str, Any]], rules: Sequence[UpdateRule]) -> list[NewRows]:
    """For each rule the rows that its growth has added."""
    return [NewRows.of(growth[rule.event :]) for rule in rules]


def is_trained(rules: Sequence[UpdateRule], kind: Flags) -> bool:
    """Whether elements that are new to these growths, or not, are trained."""
    return all(rule.trains(new) for rule, new in zip(rules, kind, strict=True))


def factor(rules: Sequence[UpdateRule], kind: Flags, step: int) -> float:
    """What the update of such elements is multiplied by."""
    return prod(rule.factor(new, step) for rule, new in zip(rules, kind, strict=True))


def count_trained(
    growth: Sequence[Mapping[str, Any]], step: int, naming: Naming, shapes: Mapping[str, Sequence[int]]
) -> int:
    """Number of parameters that are trained in a step, of those with these names and shapes."""
    rules = update_rules(growth, step)
    new = new_rows(growth, rules)
    parts = (block for name, shape in shapes.items() for block in blocks(naming.parse(name), shape, new))
    return sum(block.size for block in parts if is_trained(rules, block.kind))


def speaks_of_rows(event: Mapping[str, Any]) -> bool:
    """Whether an event treats new and old rows differently."""
    return event["train"] != "all" or bool(event["rewarm"] and event["rewarm"]["who"] == "new")


def in_words(event: Mapping[str, Any]) -> str:
    """What is trained after an event, for people; empty where it is everything."""
    if event["train"] == "all":
        return ""
    steps = "" if event["train_steps"] is None else f" for {event['train_steps']:,} steps"
    return f"{event['train']} rows alone{steps}"


def check_rules(growth: Sequence[Mapping[str, Any]]) -> None:
    """Look at the growths of a run, past ones and those to come.

    Raises:
        ValueError: For an event that speaks of new rows and adds none, or after which nothing is trained.
    """
    for number, record in enumerate(growth):
        event, past = record["event"], growth[: number + 1]
        number_in_run = sum(not one.get("earlier") for one in past)
        name = f"event {number_in_run} (at {Trigger(**event['at'])})"
        means_new = event["train"] != "old" and speaks_of_rows(event)
        if means_new and not NewRows.of([record]).any:
            key = "train: new" if event["train"] == "new" else "rewarm.who: new"
            raise ValueError(f"{name} adds nothing to the model that {key} could mean: leave it out")
        rules = update_rules(past, record["steps"])
        kinds = _kinds(new_rows(past, rules))
        if rules and not any(is_trained(rules, kind) for kind in kinds):
            raise ValueError(
                f"nothing would be trained after {name}: what its train leaves, that of an earlier growth "
                "does not train; give the earlier one train_steps"
            )


def _kinds(new: Sequence[NewRows]) -> Iterator[Flags]:
    """The kinds of elements that there are in a model, as far as maps tell without the names of its tensors."""
    if not new:
        return
    for place in (None, *range(len(new[0].layers))):
        whole = tuple(place is not None and n.layers[place] for n in new)
        yield whole
        for axis in {axis for n in new for axis, where in n.entries if where == place}:
            each = [n.entries.get((axis, place)) or () for n in new]
            count = max((len(flags) for flags in each if is_by_expert(flags)), default=1)
            for rows in ([of_expert(flags, e) for flags in each] for e in range(count)):
                for i in range(max(map(len, rows))):
                    yield tuple(w or bool(flags and flags[i]) for w, flags in zip(whole, rows, strict=True))
        for suffix in {suffix for n in new for layer, suffix in n.tensors if layer == place}:
            yield tuple(w or (place, suffix) in n.tensors for w, n in zip(whole, new, strict=True))
