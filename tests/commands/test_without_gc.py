"""What a command imports, and what the garbage collector does meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from lit_recycle.commands.without_gc import without_gc

HEAVY = {"torch", "lightning", "transformers", "numpy", "matplotlib"}


def test_collector_rests_and_keeps_its_hands_off_what_was_imported() -> None:
    frozen = gc.get_freeze_count()
    try:
        with without_gc():
            assert not gc.isenabled()
            kept = [[]]  # a tracked object, as an imported module's are
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen and not any(kept is tracked for tracked in gc.get_objects())
    finally:
        gc.unfreeze()


def test_garbage_of_before_does_not_stay() -> None:
    class Node:
        """One that refers to itself, as trainers and their modules do."""

        def __init__(self) -> None:
            self.me = self

    ref = weakref.ref(Node())
    try:
        with without_gc():
            pass
        gc.collect()
        assert ref() is None
    finally:
        gc.unfreeze()


def test_collector_works_again_after_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError), without_gc():
        import lit_recycle.no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.unfreeze()


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "families",
        "operators",
        *(f"{name} --help" for name in ("grow", "import", "export", "generate", "augment", "consolidate", "report")),
    ],
)
def test_command_imports_nothing_heavy(line: str, pytestconfig: pytest.Config) -> None:
    code = f"""
import contextlib, os, sys
from lit_recycle.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, "w")):
    assert main({line.split()}) == 0
heavy = set({sorted(HEAVY)}) & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pytestconfig.rootpath)


def test_a_run_does_not_import_what_it_does_not_use(pytestconfig: pytest.Config) -> None:
    code = """
import sys, lit_recycle.commands.trainer, lit_recycle.callbacks, lit_recycle.hub.convert, lit_recycle.growth
from lit_recycle.training.module import LitMoE
LitMoE().configure_model()
others = ("lit_recycle.commands.plan", "lit_recycle.reasoning", "lit_recycle.reparam")
found = [name for name in sys.modules if name.startswith(others)]
assert not found, found
import lit_recycle.reasoning.rewards, lit_recycle.reasoning.config
assert "trl" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pytestconfig.rootpath)
