"""What is left out or mended while data is read, counted by reason, with the first few files by name."""

from collections import Counter
from collections.abc import Sequence

SHOWN = 3
"""So many files are named for each reason."""


class Oddities(Counter[str]):
    """Counts by reason."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}

    def note(self, reason: str, name: object) -> None:
        """Count one of a reason, in a file."""
        self[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < SHOWN and str(name) not in names:
            names.append(str(name))

    def lines(self) -> list[str]:
        """A line for each reason."""
        return [counted(reason, self.names[reason], count) for reason, count in self.items()]


def counted(reason: str, names: Sequence[object], count: int) -> str:
    """A reason, how often, and the first few names."""
    shown = ", ".join(str(name) for name in names[:SHOWN])
    return f"{reason}: {count} ({shown}{', …' if count > min(len(names), SHOWN) else ''})"
