"""What `paramattr` says of itself and of files."""

import subprocess
import sys
from importlib import metadata
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from paramattr import Scores, UnitIndex, save_state_dict
from paramattr.files.reading import load_tensors
from tests.command_line import answer, refusal
from tests.tiny import ConvNet, seeded


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def test_version_and_help(ran):
    assert ran("--version") == (0, f"{version('paramattr')}\n", "")
    assert ran("-h")[1] == ran("--help")[1]
    assert "paramattr diff base tuned" in ran("diff", "-h")[1]


def test_the_commands_import_no_torch_before_they_run():
    code = (
        "import sys, paramattr.cli as cli; cli.entry_points = lambda group: [];"
        "sys.argv = ['paramattr', 'diff', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_info_names_what_a_file_holds(ran, tmp_path):
    index = UnitIndex.of(seeded(ConvNet), "kernel")
    scores = Scores(index, torch.arange(len(index)))
    scores.save(tmp_path / "scores.safetensors")
    scores.top(count=2).save(tmp_path / "selection.safetensors")
    save_state_dict(tmp_path / "state.safetensors", {"a.weight": torch.zeros(2, 3)})
    torch.save({"params": {"a.weight": torch.zeros(2, 3)}}, tmp_path / "state.pth")
    (tmp_path / "rows.json").write_text('{"rows": [1, 2]}')

    def told(name: str) -> dict:
        assert ran("info", name)[0] == 0
        return answer(ran, "info", name)

    assert told("scores.safetensors")["top"] == {
        f"{unit.name}[{', '.join(map(str, unit.position))}]": value
        for unit, value in sorted(scores, key=lambda pair: -pair[1])[:5]
    }
    assert told("selection.safetensors")["selected"] == 2
    for name in ("state.safetensors", "state.pth"):
        assert told(name)["first"] == {"a.weight": [2, 3]}
    assert told("rows.json")["keys"] == {"rows": 2}
    for path in (tmp_path, tmp_path / "none", tmp_path / "rows.csv"):
        refusal(ran, "info", path)


def test_doctor_names_versions_and_what_is_missing(ran, monkeypatch):
    assert answer(ran, "doctor")["versions"]["torch"] == version("torch")
    found = metadata.Distribution.from_name

    def without(name):
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", without)
    assert "pip install 'paramattr[hf]'" in ran("doctor")[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device to write to")
def test_a_full_disk_under_what_is_printed_ends_in_one_line():
    code = "import sys; sys.argv = ['', 'doctor']; from paramattr.__main__ import main; main()"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


def test_a_file_that_lies_about_its_units_is_refused_in_one_line(ran, tmp_path):
    file = tmp_path / "scores.safetensors"
    index = UnitIndex.of(seeded(ConvNet), "layer")
    Scores(index, torch.arange(len(index))).save(file)
    tensors, about = load_tensors(file)
    for change in (
        {"groups": [["a", 0, [10**15]]]},
        {"groups": "many"},
        {"shapes": {}},
        {"labels": ["none"]},
        {"samples": [1]},
    ):
        save_state_dict(file, tensors, {**about, **change})
        said = refusal(ran, "info", file)
        assert f"file {file} does not hold scores as paramattr writes it" in said
