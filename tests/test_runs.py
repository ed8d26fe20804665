"""Runs on several processes, as the tests start them: what fails is told."""

from __future__ import annotations

import os
import resource
import signal
import time

import pytest
from runs import on_processes


def _crash() -> None:
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)


def _fail() -> None:
    if os.environ["RANK"] == "1":
        raise KeyError("no such thing")
    time.sleep(600)


def test_a_process_that_crashes_ends_all_and_tells_where() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exit codes \[None, -11\].*Segmentation fault.*in _crash"):
        on_processes(2, _crash)


def test_a_process_that_fails_ends_all_and_tells_why() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in _fail.*no such thing"):
        on_processes(2, _fail)
