"""`paramattr blindsr report`, on tiny crops."""

import pytest

from tests.command_line import answer, refusal, study


def test_one_file_shows_the_study(folder, tmp_path):
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")
    out = tmp_path / "report.html"
    words = ("--network", "srcnn", "--images", folder, "--crop", 12, "--steps", 2)
    words += ("--methods", "faig, random", "--out", out)
    assert len(answer(study, "report", *words)["areas"]) == 4
    html = out.read_text()
    # 2 functions of 2 photographs, before, after and input; then 2 sweeps on 2 inputs.
    assert html.count('<img src="data:image/png;base64,') == 2 * 2 * 3 + 2 * 2
    for heading in ("Path profile", "Masking curves", "Where the filters lie", "Modulation"):
        assert f">{heading}</h2>" in html
    assert len(html) < 10_000_000


def test_a_folder_is_refused_before_the_work(tmp_path):
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")
    assert "is a folder: expected a file" in refusal(study, "report", "--out", tmp_path)
