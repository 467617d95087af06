"""SIGKILL in the middle of the study's long commands, and what the next start makes of it.

`test_training.py` and `test_retraining.py` do the same in process, at chosen iterations.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from blind_sr.models.networks import SRResNet

from .made_up import check_same_training, write_pair, write_photographs

# The command line itself, but for a small network that is saved often.
COMMAND = """
from functools import partial
from blind_sr.models import networks
from blind_sr.training import trainer as training
networks.NETWORKS["srresnet"] = partial(networks.SRResNet, features=4, blocks=1)
training.SAVE_EVERY = 10
training.VALIDATE_EVERY = 60
training.draw_curves = lambda *arguments: None
from paramattr.cli import main
main()
"""
PATIENCE = 300
"""Seconds that a busy machine may take."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs enough to hold some out, and weights of a small pair."""
    folder = tmp_path_factory.mktemp("photographs")
    write_pair(folder, "srresnet", partial(SRResNet, features=4, blocks=1))
    return write_photographs(folder, 16, (128, 128), coarse=16)


def start(*words, code=COMMAND):
    return subprocess.Popen(
        [sys.executable, "-c", code, "blindsr", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def kill_when(there, process):
    until = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def iteration(state):
    return torch.load(state, weights_only=True)["iteration"] if state.exists() else 0


def test_training_goes_on_after_sigkill_to_the_same_bits(folder, tmp_path):
    iterations = ("--baseline-iterations", 10, "--target-iterations", 200)
    words = ("train", "--images", folder, "--batch-size", 2, "--patch", 16, *iterations, "--out")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken, killed = start(*words, whole), start(*words, broken)
    state = broken / "srresnet_target.ckpt"
    kill_when(lambda: iteration(state) >= 30, killed)
    assert iteration(state) < 200
    finish(start(*words, broken, "--resume"))
    finish(unbroken)
    for stage in ("baseline", "target"):
        check_same_training(*(out / f"srresnet_{stage}.safetensors" for out in (whole, broken)))


@pytest.mark.slow
def test_retraining_goes_on_after_sigkill_to_the_same_bits_and_rows(folder, tmp_path):
    words = ("retrain", "--images", folder, "--find", folder, "--weights", folder, "--crop", 8)
    words += ("--methods", "faig", "--steps", 1, "--pct", 10, "--iterations", 60)
    words += ("--batch-size", 2, "--patch", 16, "--json", "--out")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken, killed = start(*words, whole), start(*words, broken)
    running = "faig_blur_on_blur_0"
    state = broken / "trainings" / f"{running}.ckpt"
    kill_when(lambda: iteration(state) >= 10, killed)
    assert iteration(state) < 60
    done = {path.stem for path in (broken / "trainings").glob("*.safetensors")}
    assert done >= {"all_on_blur_0", "all_on_noise_0"}
    assert "faig_noise_on_noise_0" not in done
    rows = json.loads(finish(start(*words, broken)))["rows"]
    assert rows == json.loads(finish(unbroken))["rows"]
    assert len(rows) == 6
    files = list((whole / "trainings").glob("*.safetensors"))
    assert len(files) == 6
    for file in files:
        check_same_training(file, broken / "trainings" / file.name)
