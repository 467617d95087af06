"""What `paramattr` says of itself and of files."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from paramattr import Scores, UnitIndex, cli, save_state_dict
from tests.tiny import ConvNet, seeded


@pytest.fixture
def ran(monkeypatch, capsys):
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paramattr", *words])
        monkeypatch.setattr("paramattr.cli.entry_points", lambda group: [])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code, said.out, said.err

    return call


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
        code, said, err = ran("info", str(tmp_path / name), "--json")
        assert (code, err) == (0, "")
        assert ran("info", str(tmp_path / name))[0] == 0
        return json.loads(said)

    assert told("scores.safetensors")["top"] == {
        f"{unit.name}[{', '.join(map(str, unit.position))}]": value
        for unit, value in sorted(scores, key=lambda pair: -pair[1])[:5]
    }
    assert told("selection.safetensors")["selected"] == 2
    for name in ("state.safetensors", "state.pth"):
        assert told(name)["first"] == {"a.weight": [2, 3]}
    assert told("rows.json")["keys"] == {"rows": 2}
    for path in (tmp_path, tmp_path / "none", tmp_path / "rows.csv"):
        code, said, err = ran("info", str(path))
        assert (code, said, err.count("\n")) == (2, "", 1)


def test_doctor_names_versions_and_what_is_missing(ran, monkeypatch):
    code, said, _ = ran("doctor", "--json")
    assert code == 0
    assert json.loads(said)["versions"]["torch"] == version("torch")
    monkeypatch.setattr("paramattr.doctor.EXTRAS", {"hats": ("a-hat-that-is-not-there",)})
    assert "pip install 'paramattr[hats]'" in ran("doctor")[1]
