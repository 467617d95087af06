"""SIGINT and SIGTERM end a command in one line, at whatever moment; SIGKILL leaves what resumes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from paramattr.files import writing
from paramattr.files.resume import Unfinished
from paramattr.files.writing import write_whole

PATIENCE = 300
"""Seconds that a busy machine may take."""


def started(code: str, folder: Path) -> subprocess.Popen:
    """Run some code in a process that makes the file `ready` where it is to be stopped."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(code: str, folder: Path, number: int) -> tuple[int, str, str]:
    process, until = started(code, folder), time.monotonic() + PATIENCE
    while not (folder / "ready").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


WAITING = """
    import sys, time
    from pathlib import Path
    from paramattr.files.writing import signals, progress_is_in, is_written
    with signals():
        {before}
        try:
            Path("ready").touch()
            time.sleep(300)
        finally:
            print("restored")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("pass", "nothing was kept: run the same command again"),
        (
            "Path('p').touch(); progress_is_in('p')",
            "the progress is kept in p: run the same command again to resume",
        ),
        (
            "is_written('a'); is_written('b'); is_written('a')",
            "of the results 2 are written, up to b, and no progress is kept: run the same "
            "command again from the start",
        ),
    ],
)
def test_a_signal_ends_in_one_line_after_what_is_open_is_closed(
    tmp_path, number, code, before, said
):
    found = stopped(WAITING.format(before=before), tmp_path, number)
    assert found == (
        code,
        "restored\n",
        f"paramattr: stopped by {signal.Signals(number).name}; {said}\n",
    )


SLOW = """
import time
from pathlib import Path
try:
    Path("ready").touch()
    time.sleep(300)
except BaseException:
    pass  # as some modules do
"""
IMPORTING = """
    import sys
    sys.path.insert(0, "")
    from paramattr.files.writing import signals
    with signals():
        import slow
        print("went on")
"""
SWALLOWED = """
    import time
    from pathlib import Path
    from paramattr.files.writing import signals
    class Held:
        def __del__(self):
            Path("ready").touch()
            time.sleep(300)
    with signals():
        held = Held()
        del held
        time.sleep(300)
"""


@pytest.mark.parametrize("code", [IMPORTING, SWALLOWED])
def test_no_module_and_no_destructor_swallows_a_signal(tmp_path, code):
    (tmp_path / "slow.py").write_text(SLOW)
    code, out, err = stopped(code, tmp_path, signal.SIGTERM)
    assert (code, out) == (143, "")
    assert err == "paramattr: stopped by SIGTERM; nothing was kept: run the same command again\n"


def test_a_second_signal_ends_it_at_once(tmp_path):
    code = WAITING.format(before="pass").replace(
        'print("restored")', 'Path("closing").touch(); time.sleep(300)'
    )
    process = started(code, tmp_path)
    for mark in ("ready", "closing"):
        until = time.monotonic() + PATIENCE
        while not (tmp_path / mark).exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 130


def test_the_command_line_is_stopped_while_its_modules_are_imported():
    code = """
        import os, signal, sys
        sys.argv = ["paramattr", "doctor"]
        class Stops:
            def find_spec(self, name, path, target=None):
                if name == "typer":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Stops())
        from paramattr.__main__ import main
        main()
    """
    process = started(code, Path.cwd())
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert err == "paramattr: stopped by SIGINT; nothing was kept: run the same command again\n"


def test_handlers_are_as_they_were_after_a_block():
    before = [signal.getsignal(number) for number in writing.SIGNALS]
    with writing.signals():
        assert [signal.getsignal(number) for number in writing.SIGNALS] != before
        with writing.signals():
            pass
        assert [signal.getsignal(number) for number in writing.SIGNALS] != before
    assert [signal.getsignal(number) for number in writing.SIGNALS] == before


def test_a_run_and_a_result_are_what_was_kept(tmp_path):
    with writing.signals():
        write_whole(tmp_path / "rows.json", "{}")
        assert f"results 1 are written, up to {tmp_path / 'rows.json'}" in writing.line(2)
        Unfinished(tmp_path / "progress", {})
        assert f"kept in {tmp_path / 'progress'}: run the same" in writing.line(15)
        (tmp_path / "progress").unlink()
        assert "progress is kept:" in writing.line(2)  # what is gone is not promised


def test_five_kills_and_five_resumes_end_in_the_same_files():
    code = """
        import json
        from benchmarks.bench_kills import Config, run
        *_, found = run(Config(kills=5, batches=6, side=12))
        print(json.dumps(found))
    """
    process = started(code, Path.cwd())
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    assert (found["kills"], found["equal"], found["corrupt"]) == (5, 5, 0)
