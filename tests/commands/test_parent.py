"""No process of a run outlives the one that started it, not even before it has imported anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from lit_recycle.commands.parent import LAUNCHER

IMPORTS = """
import os, subprocess, sys, time
os.environ["{launcher}"] = str(os.getpid())
child = "import sys; sys.argv = ['x', 'fit']; import lit_recycle.commands.parent as p; p.end_with_parent(); " \\
        "print('up', flush=True); import time; time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", {before!r} + child], env=os.environ | {{"LOCAL_RANK": "1"}})
print(process.pid, flush=True)
time.sleep({lives})
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_in(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(pid):
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_child_ends_with_its_launcher_whatever_it_is_busy_with() -> None:
    code = IMPORTS.format(launcher=LAUNCHER, before="", lives=60)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        child = int(launcher.stdout.readline())
        assert launcher.stdout.readline() == b"up\n"
        launcher.kill()
        assert gone_in(child, 30)


def test_a_child_whose_launcher_was_gone_before_it_could_ask_ends_at_once() -> None:
    """The kernel tells only of deaths to come: the child has slept through that of its parent."""
    code = IMPORTS.format(launcher=LAUNCHER, before="import time; time.sleep(4); ", lives=0)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        child = int(launcher.stdout.readline())
        launcher.wait()
        assert alive(child)
        assert gone_in(child, 30)


def test_the_command_asks_before_it_imports_anything_heavy() -> None:
    code = (
        "import sys, lit_recycle.cli as cli\n"
        "def asked(): print(sorted({'torch', 'lightning'} & sys.modules.keys())); sys.exit(0)\n"
        "cli.end_with_parent = asked; cli.main(['fit'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
