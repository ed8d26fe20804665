"""Human-readable numbers."""

from __future__ import annotations

from collections.abc import Iterable


def human(number: float, unit: str = "") -> str:
    """Three digits and a prefix: ``18.0B`` for a count, ``2.18 GB`` for a quantity with a unit."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"] if unit else ["", "k", "M", "B", "T"]
    power = 0
    while abs(number) >= 999.5 and power < len(prefixes) - 1:
        number /= 1000
        power += 1
    digits = f"{number:.0f}" if abs(number) >= 99.95 else f"{number:.3g}"
    if power and abs(number) < 99.95:
        digits = f"{number:.2f}" if abs(number) < 9.995 else f"{number:.1f}"
    return f"{digits} {prefixes[power]}{unit}" if unit else f"{digits}{prefixes[power]}"


def listing(numbers: Iterable[int], room: int = 64) -> str:
    """Numbers for people: ``0 0 1 1``. Four or more that follow each other are a run, ``0–255``; of a long list the
    middle is left out.
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [w for run in runs for w in ([f"{run[0]}–{run[-1]}"] if len(run) > 3 else [str(n) for n in run])]
    return " ".join(words if len(words) <= room else [*words[: room // 2], "…", *words[-room // 4 :]])
