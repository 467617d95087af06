"""`paramattr blindsr report`, on tiny crops."""

import json
import sys

import pytest

from paramattr.cli import main

from .made_up import write_photographs


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["paramattr", "blindsr", "report", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_one_file_shows_the_study(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")
    folder = tmp_path / "photographs"
    folder.mkdir()
    write_photographs(folder, 2, (44, 40))
    out = tmp_path / "report.html"
    words = ("--network", "srcnn", "--images", folder, "--crop", 12, "--steps", 2)
    words += ("--methods", "faig, random", "--out", out, "--json")
    code, printed, err = run(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    assert len(json.loads(printed)["areas"]) == 4
    html = out.read_text()
    # 2 functions of 2 photographs, before, after and input; then 2 sweeps on 2 inputs.
    assert html.count('<img src="data:image/png;base64,') == 2 * 2 * 3 + 2 * 2
    for heading in ("Path profile", "Masking curves", "Where the filters lie", "Modulation"):
        assert f">{heading}</h2>" in html
    assert len(html) < 10_000_000


def test_a_folder_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")
    code, out, err = run(monkeypatch, capsys, "--out", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a folder: expected a file" in err
