"""What is shipped: configurations by name, public names, and the wheel with all of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lit_recycle
from lit_recycle.cli import main
from lit_recycle.commands.shipped import with_shipped

ROOT = Path(__file__).parents[2]


def test_a_configuration_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--config", "quickstart"]) == 0, capsys.readouterr().err
    assert "experts ×2" in capsys.readouterr().out
    shipped = str(ROOT / "lit_recycle/configs/quickstart.yaml")
    assert with_shipped(["fit", "--config=quickstart"]) == ["fit", f"--config={shipped}"]
    (tmp_path / "quickstart").write_text("a file of one's own")
    for word in ("quickstart", "other", "configs/quickstart", "quickstart.yaml"):
        assert with_shipped(["fit", "--config", word]) == ["fit", "--config", word]


def test_public_names() -> None:
    assert set(lit_recycle.__all__) == set(lit_recycle._HOMES)
    for name in lit_recycle.__all__:
        assert getattr(lit_recycle, name).__name__ == name and name in dir(lit_recycle)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        lit_recycle.Nothing  # noqa: B018


def test_the_wheel_brings_all_of_it(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files beside what it builds
    for name in ("lit_recycle", "callbacks", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("callbacks/growth.py", "configs/quickstart.yaml", "configs/recycle.yaml", "hub/families/mixtral.py"):
        assert f"lit_recycle/{name}" in names
    assert not [name for name in names if name.startswith(("callbacks", "configs", "tests"))]
