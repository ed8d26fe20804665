import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from lit_recycle.data import workspace
from lit_recycle.data.workspace import LOCK, room_beside


def _work(folder: Path, begun) -> None:
    with room_beside(folder) as room:
        (room / "part").write_text("half of it")
        begun.set()
        signal.pause()


def test_a_process_at_work_keeps_its_room_and_a_killed_one_loses_it(tmp_path):
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=_work, args=(tmp_path / "corpus-a", begun))
    process.start()
    assert begun.wait(30)
    with room_beside(tmp_path / "corpus-b"):
        rooms = {path.name[:9] for path in tmp_path.iterdir()}
    assert rooms == {".corpus-a", ".corpus-b"}
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    (left,) = tmp_path.iterdir()
    assert (left / "part").exists()
    with room_beside(tmp_path / "corpus-b"):
        assert not left.exists()
    assert not [*tmp_path.iterdir()]


def test_a_lock_is_never_seen_free_while_its_process_lives(tmp_path, monkeypatch):
    seen, lock = [], workspace.fcntl.flock

    def look(file, how):
        if not how & workspace.fcntl.LOCK_NB:
            seen.extend(workspace._is_abandoned(room) for room in tmp_path.iterdir())
        lock(file, how)

    monkeypatch.setattr(workspace.fcntl, "flock", look)
    with room_beside(tmp_path / "corpus-a") as room:
        assert seen == [False] and (room / LOCK).exists() and not workspace._is_abandoned(room)


@pytest.mark.parametrize("error", [OSError("corrupt data"), FileNotFoundError(2, "no such file", "elsewhere")])
def test_errors_that_are_not_of_the_place_stay_what_they_are(tmp_path, error):
    with pytest.raises(OSError) as caught, room_beside(tmp_path / "corpus-a"):
        raise error
    assert caught.value is error


def test_what_no_process_has_locked_for_a_minute_goes(tmp_path):
    old, young = tmp_path / ".corpus-old", tmp_path / ".corpus-young"
    for left in (old, young):
        left.mkdir()
    os.utime(old, (0, 0))
    with room_beside(tmp_path / "corpus-a"):
        assert not old.exists() and young.exists()


def test_a_room_that_is_gone_meanwhile_is_nobodys_business(tmp_path):
    assert not workspace._is_abandoned(tmp_path / ".corpus-gone")


def test_where_nothing_comes_about_no_folder_is_left(tmp_path):
    with pytest.raises(ValueError, match="no text"), room_beside(tmp_path / "cache/of/mine/corpus-a"):
        raise ValueError("no text")
    assert not [*tmp_path.iterdir()]
