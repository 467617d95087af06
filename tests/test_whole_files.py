"""Files that are written in full or not at all: planted names, kills, full disks."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from paramattr.files.writing import whole_folder, write_whole

FORK = multiprocessing.get_context("fork")


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / ".s.partial").symlink_to(victim)
    write_whole(shared / "s", "new")
    assert victim.read_text() == "precious"
    assert (shared / "s").read_text() == "new"
    assert not (shared / "s").is_symlink()


def test_no_two_writes_go_through_the_same_name(tmp_path, monkeypatch):
    seen, opened = [], os.open

    def noted(path, flags, *others, **options):
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            assert flags & os.O_NOFOLLOW
            seen.append(str(path))
        return opened(path, flags, *others, **options)

    monkeypatch.setattr(os, "open", noted)
    for _ in range(3):
        write_whole(tmp_path / "s", "new")
    assert len(set(seen)) == 3
    assert {Path(path).parent for path in seen} == {tmp_path}


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    done, sync, replace = [], os.fsync, Path.replace

    def synced(number):
        done.append("folder" if Path(f"/proc/self/fd/{number}").is_dir() else "file")
        sync(number)

    def replaced(self, target):
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(tmp_path / "s", "new")
    assert done == ["file", "rename", "folder"]
    done.clear()
    with whole_folder(tmp_path / "f") as made:
        (made / "in").mkdir()
        (made / "in" / "s").write_text("new")
    assert done[-2:] == ["rename", "folder"]
    assert sorted(done[:-2]) == ["file", "folder", "folder"]


def killed_while_writing(path: Path, as_folder: bool) -> None:
    """Leave behind what a process leaves that is killed before the file has its name."""

    def write():
        Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
        if as_folder:
            with whole_folder(path) as made:
                (made / "s").write_text("half")
        else:
            write_whole(path, "half")

    process = FORK.Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("as_folder", [False, True])
def test_what_a_killed_write_left_is_removed_by_the_next(tmp_path, as_folder):
    for _ in range(2):
        killed_while_writing(tmp_path / "s", as_folder)
        assert not (tmp_path / "s").exists()
        assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".s.partial").write_text("not ours")
    if as_folder:
        with whole_folder(tmp_path / "s"):
            pass
    else:
        write_whole(tmp_path / "s", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"s", ".s.partial"}


def test_what_another_process_is_writing_stays(tmp_path):
    going, done = FORK.Event(), FORK.Event()

    def write():
        with whole_folder(tmp_path / "s") as made:
            going.set()
            done.wait(30)
            (made / "one").write_text("whole")

    process = FORK.Process(target=write)
    process.start()
    assert going.wait(30)
    write_whole(tmp_path / "s2", "new")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "s"):
        raise ZeroDivisionError
    done.set()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "s" / "one").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"s", "s2"}


def test_a_name_may_be_as_long_as_names_may_be(tmp_path):
    for name in ("n" * 255, "日" * 85):
        write_whole(tmp_path / name, "new")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_cannot_lock_still_takes_files(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(number, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    write_whole(tmp_path / "s", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
