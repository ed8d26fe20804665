"""Human-readable numbers."""

from __future__ import annotations


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
