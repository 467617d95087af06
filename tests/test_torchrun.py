"""Commands under torchrun: one answer, printed and written once, equal to one process's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from paramattr import save_state_dict
from tests.blind_sr.made_up import write_photographs

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
MODULE = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()

def loader():
    draw = torch.Generator().manual_seed(1)
    def batch(n):
        inputs = torch.randn(n, 3, generator=draw).double()
        return inputs, torch.randint(0, 4, (n,), generator=draw)
    return {"red": [batch(2), batch(1), batch(2)], "blue": [batch(3), batch(2)]}

def broken():
    batches = loader()
    batches["red"][0][0][1] = float("nan")  # the second sample: the second rank's
    return batches
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "own_models.py").write_text(MODULE)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    save_state_dict(folder / "base.safetensors", model.state_dict())
    with torch.no_grad():
        model[0].weight[2] += 0.7
        model[2].weight[1] += 0.2
    save_state_dict(folder / "tuned.safetensors", model.state_dict())
    return folder


def started(folder, *words, ranks=True):
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(folder), str(root), str(root / "examples")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    several = TORCHRUN if ranks else ()
    return subprocess.run(
        [sys.executable, *several, "-m", "paramattr", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def difference(folder, *words, batches="loader", ranks=True):
    own = ("--model", "own_models:model", "--batches", f"own_models:{batches}")
    pair = ("base.safetensors", "tuned.safetensors")
    return started(folder, "diff", *pair, *own, "--units", "output_channel", *words, ranks=ranks)


def assert_alike(found, expected, where=""):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_alike(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, one in enumerate(expected):
            assert_alike(found[place], one, f"{where}/{place}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), where
    else:
        assert found == expected, where


def test_diff_prints_and_writes_once_what_one_process_does(folder):
    alone = difference(folder, "--json", "--out", "alone", ranks=False)
    assert alone.returncode == 0, alone.stderr
    both = difference(folder, "--json", "--out", "both")
    assert both.returncode == 0, both.stderr
    expected, found = json.loads(alone.stdout), json.loads(both.stdout)  # one object, not two
    for one in (expected, found):
        one.pop("settings")
    assert_alike(found, expected)
    names = {file.name for file in (folder / "alone").iterdir()}
    ranked = {f"progress.rank{rank}of2.safetensors" for rank in (0, 1)}
    written = {file.name for file in (folder / "both").iterdir()}
    assert written == names - {"progress.safetensors"} | ranked


def test_a_mistake_is_one_line(folder):
    found = difference(folder, "--steps", "0")
    assert found.returncode != 0
    assert found.stdout == ""
    lines = [line for line in found.stderr.splitlines() if line.startswith("paramattr:")]
    assert len(lines) == 1, found.stderr
    assert "steps" in lines[0]


def test_an_error_of_one_rank_is_told(folder):
    found = difference(folder, batches="broken")
    assert found.returncode != 0
    assert found.stdout == ""
    assert "the objective is nan for sample 1" in found.stderr


def test_commands_of_one_process_say_so(folder):
    found = started(folder, "info", "base.safetensors")
    assert found.returncode != 0
    assert "start it without torchrun" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["mask", "compare"])
def test_the_study_prints_once_what_one_process_does(folder, command):
    write_photographs(folder, 2, (44, 40))
    words = ("blindsr", command, "--images", str(folder), "--crop", "20", "--network", "srcnn")
    words = (*words, "--methods", "faig,random", "--steps", "2", "--json", "--out")
    alone = started(folder, *words, f"{command}-alone", ranks=False)
    both = started(folder, *words, f"{command}-both")
    assert alone.returncode == both.returncode == 0, alone.stderr + both.stderr
    expected, found = json.loads(alone.stdout), json.loads(both.stdout)
    assert found.keys() == expected.keys()
    for key in ("psnr", "barriers") if command == "mask" else ("areas",):
        for row, wanted in zip(found[key], expected[key], strict=True):
            assert row == wanted or row == pytest.approx(wanted, rel=1e-4)
    one, other = (
        {f.name for f in (folder / f"{command}-{n}").iterdir()} for n in ("alone", "both")
    )
    assert one == other
