"""Comparisons of an experiment: two variants, and what is claimed of them, which results can contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

METRICS = {"loss": "validation loss", "bits_per_byte": "bits per byte", "accuracy": "accuracy, one of four"}
Claim = Literal["better", "equal"]
SHAPES = "{better: A, worse: B}, {equal: [A, B]} or {compare: [A, B]}, with by and where as needed"


@dataclass(frozen=True)
class Comparison:
    """Two labels of one axis, and what is claimed of them.

    Args:
        first: Label of one variant.
        second: Label of the other one.
        claim: That the first is better than the second, or that they are alike; None where nobody claims anything.
        by: Name of the metric.
        where: Labels of other axes at which this is said; at all of them when not given.
    """

    first: str
    second: str
    claim: Claim | None = "better"
    by: str = "loss"
    where: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, said: Any, axes: Mapping[str, Sequence[str] | Mapping[str, Any]]) -> Comparison:
        """Of an entry of ``expect``.

        Args:
            said: The entry.
            axes: Labels of each axis of the experiment.

        Raises:
            ValueError: For another shape, or for labels, axes or metrics that there are not.
        """
        if not isinstance(said, Mapping):
            raise ValueError(f"an entry of expect is {SHAPES}; got {said!r}")
        entry = {key: value for key, value in said.items() if key not in ("by", "where")}
        match entry:
            case {"better": first, "worse": second} if len(entry) == 2:
                claim: Claim | None = "better"
            case {"equal": [first, second]} if len(entry) == 1:
                claim = "equal"
            case {"compare": [first, second]} if len(entry) == 1:
                claim = None
            case _:
                raise ValueError(f"an entry of expect is {SHAPES}; got {dict(said)}")
        where = {str(axis): str(text) for axis, text in (said.get("where") or {}).items()}
        made = cls(str(first), str(second), claim, said.get("by", "loss"), where)
        made._check(axes)
        return made

    def _check(self, axes: Mapping[str, Sequence[str] | Mapping[str, Any]]) -> None:
        if self.by not in METRICS:
            raise ValueError(f"expect: there is no metric {self.by!r}; choose from {', '.join(METRICS)}")
        if not any(self.first in labels and self.second in labels for labels in axes.values()):
            raise ValueError(f"expect: {self.first!r} and {self.second!r} are no two labels of one axis")
        for axis, text in self.where.items():
            if text not in axes.get(axis, ()):
                raise ValueError(f"expect: {text!r} is no label of the axis {axis!r}")

    def pairs(self, points: Sequence[Mapping[str, str]]) -> list[tuple[str, Mapping[str, str], Mapping[str, str]]]:
        """Points that differ in the comparison's axis alone, and what they have in common, in words."""
        found: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = []
        for point in points:
            for axis in (a for a, text in point.items() if text == self.first):
                other = {**point, axis: self.second}
                if other in points and all(point[a] == text for a, text in self.where.items()):
                    found.append((", ".join(f"{a} {t}" for a, t in point.items() if a != axis), point, other))
        return found
