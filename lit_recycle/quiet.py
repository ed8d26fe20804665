"""Messages of other libraries that tell a user of this program nothing, one by one, each with its reason."""

from __future__ import annotations

import logging
import warnings

WARNINGS = (
    # Lightning's own use of torch; nothing that a user could change.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # ModelCheckpoint gives files that would clash another name; and a resumed run finds its own.
    r"Checkpoint directory .* exists and is not empty",
)

LOG_LINES = {
    # An advertisement, at the start of every run.
    "lightning.pytorch.utilities.rank_zero": "litlogger",
}
"""Logger, and a word that is found in no other of its messages."""


def silence() -> None:
    """Leave the above out of what the program prints; everything else stays."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name, word in LOG_LINES.items():
        logging.getLogger(name).addFilter(_without(word))


def _without(word: str) -> logging.Filter:
    class Without(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return word not in record.getMessage()

    return Without()
