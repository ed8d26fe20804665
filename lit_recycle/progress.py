"""Progress bar over bytes that are read, fetched or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(nbytes: int, what: str = "writing") -> Iterator[Callable[[int], None]]:
    """Gives what is to be called with each number of bytes just done; at the end all are. Drawn in a terminal alone."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not (nbytes and console.is_terminal)
    ) as bar:
        task = bar.add_task(what, total=nbytes)
        yield lambda done: bar.advance(task, done)
        bar.update(task, completed=nbytes)
