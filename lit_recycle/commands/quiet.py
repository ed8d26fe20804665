"""Messages of other libraries that tell a user of this program nothing, one by one, each with its reason."""

from __future__ import annotations

import logging
import warnings

WARNINGS = (
    # Lightning's own use of torch; nothing that a user could change.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # ModelCheckpoint gives files that would clash another name; and a resumed run finds its own.
    r"Checkpoint directory .* exists and is not empty",
    # A checkpoint may be gone on from in another folder; whatever it said of the old one does not matter there.
    r"The dirpath has changed from",
    # Every module here configures its model late; an average is sharded as its model is, or refused.
    r"You're using the WeightAveraging callback with a model that overrides",
)

LOG_LINES = (
    # An advertisement, at the start of every run.
    ("lightning.pytorch.utilities.rank_zero", "litlogger"),
    # SaveOnInterrupt has said what is being done, and how to go on.
    ("lightning.pytorch.utilities.rank_zero", "attempting graceful shutdown"),
)
"""Loggers, each with words that are found in no other of its messages."""


class _Without(logging.Filter):
    """Lets pass what has not these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in record.getMessage()


def silence() -> None:
    """Leave the above out of what the program prints; everything else stays."""
    for pattern in WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name, words in LOG_LINES:
        logging.getLogger(name).addFilter(_Without(words))
