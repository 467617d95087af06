"""The study's analysis and the command `paramattr blindsr mask`, on tiny crops."""

import json
import math
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from blind_sr.data.images import read_image
from blind_sr.data.measures import PLANES, output_difference
from blind_sr.data.photographs import load_photographs
from blind_sr.mask import experiment
from blind_sr.mask.experiment import mask_filters, ratios
from blind_sr.models.outputs import restore, squared_errors, truth_of
from blind_sr.rankings.search import find_filters
from paramattr import Scores, Selection, contrast, substitute
from tests.command_line import answer, refusal, study
from tests.kills import writes

METHODS = ("faig", "faig-no-contrast", "absolute-change", "random")


@pytest.fixture(scope="module")
def masked(folder, tmp_path_factory):
    """Mask two shares of the filters: the folder of it, and what it printed."""
    out = tmp_path_factory.mktemp("masked")
    words = ("--images", folder, "--crop", 12, "--steps", 2, "--pct", 1, "--pct", 5, "--out", out)
    return out, answer(study, "mask", *words)


def test_there_is_a_finite_row_for_each_method_share_function_and_input(masked):
    rows = masked[1]["rows"]
    keys = [(row["method"], row["pct"], row["mask"], row["input"]) for row in rows]
    assert sorted(keys) == sorted(
        product(METHODS, (1.0, 5.0), ("blur", "noise"), ("blur", "noise", "clean"))
    )
    for row in rows:
        assert 0 <= row["difference_x1000"] < math.inf
        assert 0 <= row["difference_blue_x1000"] < math.inf


def test_what_is_printed_is_written_and_judges_the_masks_and_the_path(masked):
    out, result = masked
    text = (out / "result.json").read_text()
    assert json.loads(text) == result
    assert "NaN" not in text
    for model in ("baseline", "target"):
        assert set(result["psnr"][model]) == {"blur", "noise", "clean"}
    assert {"lost_share", "damage", "selective", "reason"} <= result["ratios"][0].keys()
    assert set(result["barriers"]) == {"blur", "noise"}
    assert max(result["barriers"].values()) < 1  # of the bundled pair


def test_scores_selections_and_pictures_are_written(masked):
    out = masked[0]
    scores = Scores.load(out / "scores" / "faig_blur.safetensors")
    selection = Selection.load(out / "selections" / "faig_blur_5pct.safetensors")
    assert len(scores) == 151_936
    assert len(selection) == 7_597
    assert selection == scores.top(fraction=0.05)
    assert not (out / "running").exists()
    assert {path.stem for path in (out / "images").iterdir()} == {
        f"photograph{n}_{condition}_{model}"
        for n in range(2)
        for condition in ("blur", "noise")
        for model in ("input", "target", "blur_masked", "noise_masked")
    }
    assert read_image(out / "figure.png").shape[0] == 3


def test_the_table_a_person_sees(folder):
    words = ("--images", folder, "--crop", 12, "--steps", 2, "--methods", "absolute-change,random")
    code, out, _ = study("mask", *words)
    assert code == 0
    for expected in ("PSNR in dB", "Deblurring filters masked", "Denoising filters masked", "1%"):
        assert expected in out
    assert max(map(len, out.splitlines())) <= 80  # nothing is cut in a narrow terminal
    assert "…" not in out


def test_rows_come_from_substituting_and_measuring(pair, folder):
    photographs = load_photographs(folder, crop=12)
    rankings = find_filters(pair, photographs, METHODS, n_steps=2, random_seeds=2)
    target = restore(pair.target, photographs)
    rows = mask_filters(pair, photographs, rankings, [3], target)
    by_key = {(r["method"], r["mask"], r["input"]): r for r in rows}
    table = {key: row["difference_x1000"] for key, row in by_key.items()}

    def expected(rankings, plane):
        found = []
        for scores in rankings:
            edited = substitute(pair.target, pair.baseline, scores.top(fraction=0.03))
            for low in photographs.low["noise"]:
                with torch.no_grad():
                    images = edited(low), pair.target(low)
                found.append(1000 * output_difference(*images, plane).item())
        return sum(found) / len(found)

    for method in METHODS:
        for name, plane in PLANES.items():
            assert by_key[method, "blur", "noise"][f"difference{name}_x1000"] == pytest.approx(
                expected(rankings[method]["blur"], plane), rel=1e-6
            )
    blur, noise = (rankings["faig-no-contrast"][c][0] for c in ("blur", "noise"))
    assert torch.equal(rankings["faig"]["noise"][0].values, contrast(noise, blur).values)
    assert table["random", "blur", "clean"] == table["random", "noise", "clean"]
    assert table["faig", "blur", "blur"] != table["faig-no-contrast", "blur", "blur"]


def test_an_interrupted_search_goes_on_where_it_stopped(pair, folder, tmp_path):
    photographs = load_photographs(folder, crop=8)
    whole = find_filters(pair, photographs, ["faig"], n_steps=1)

    options = {"n_steps": 1, "checkpoints": tmp_path}
    with writes("*/faig_*", killed_at=3), pytest.raises(KeyboardInterrupt):
        find_filters(pair, photographs, ["faig"], **options)
    with writes("*/faig_*") as kept:
        resumed = find_filters(pair, photographs, ["faig"], **options)
    assert len(kept) == 1 + 3  # a photograph; two more, and before them an empty file
    for function in ("blur", "noise"):
        assert torch.equal(resumed["faig"][function][0].values, whole["faig"][function][0].values)


def test_the_lost_share_is_that_of_the_squared_errors(pair):
    photographs = load_photographs(crop=10)
    rankings = find_filters(pair, photographs, ("absolute-change",))
    target, baseline = (restore(m, photographs) for m in (pair.target, pair.baseline))
    drawn = experiment.mask_curves(pair, photographs, rankings, (100.0,), target)
    truth = truth_of(photographs, baseline, target, drawn)
    [scores] = rankings["absolute-change"]["blur"]
    edited = restore(
        substitute(pair.target, pair.baseline, scores.top(fraction=1, warn=False)), photographs
    )
    rows = experiment.verdicts(ratios(experiment.mask_rows(drawn, photographs, (100.0,))), truth)
    for row in rows:
        errors = [
            squared_errors(outputs[row["mask"]], photographs).sum()
            for outputs in (target, baseline, edited)
        ]
        expected = (errors[2] - errors[0]) / (errors[1] - errors[0])
        assert row["lost_share"] == pytest.approx(float(expected), rel=1e-4)


def test_ratios_are_over_random_and_over_the_other_degradation():
    rows = [
        {"method": m, "pct": 1, "mask": function, "input": condition, "difference_x1000": value}
        for m, function, condition, value in (
            ("faig", "blur", "blur", 8.0),
            ("faig", "blur", "noise", 2.0),
            ("random", "blur", "blur", 0.5),
            ("random", "blur", "noise", 0.1),
        )
    ]
    assert ratios(rows) == [
        {"method": "faig", "pct": 1, "mask": "blur", "over_random": 16.0, "over_other": 4.0}
    ]


def test_noise_depends_on_the_seed_and_the_photograph(folder):
    low = [load_photographs(folder, crop=12, seed=seed).low["noise"] for seed in (0, 0, 1)]
    assert torch.equal(low[0][0], low[1][0])
    assert not torch.equal(low[0][0], low[2][0])


def test_whole_photographs_are_taken_with_a_crop_of_0(folder):
    photographs = load_photographs(folder, crop=0)
    assert photographs.low["clean"][0].shape == (1, 3, 22, 20)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pct", "0"], "pct is 0"),
        (["--pct", "101"], "pct is 101"),
        (["--pct", "nan"], "pct is nan"),
        (["--pct", "some"], "--pct"),
        (["--methods", "magic"], "'magic'"),
        (["--steps", "0"], "n_steps=0"),
        (["--quadrature", "monte_carlo"], "'monte_carlo'"),
        (["--network", "vgg"], "--network"),
        (["--network", "two-branch"], "--network"),
        (["--weights", "/no/such/folder"], "/no/such/folder"),
        (["--images", "/no/such/folder"], "/no/such/folder is not there"),
        (["--crop", "500"], "is too small"),
        (["--crop", "3"], "6x6"),
        (["--device", "toaster"], "device 'toaster'"),
        (["--dtype", "int8"], "--dtype"),
        (["--out", "/proc/none"], "/proc/none"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(words, expected, folder, no_work):
    given = [] if "--images" in words else ["--images", folder]
    assert expected in refusal(study, "mask", *given, *words)


def test_a_broken_image_ends_in_one_line_and_code_2(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "broken.png cannot be read" in refusal(study, "mask", "--images", tmp_path)


def test_weights_of_another_network_are_refused(folder, tmp_path):
    for stage in ("baseline", "target"):
        state = {"conv.weight": torch.zeros(1)}
        torch.save({"params_ema": state}, tmp_path / f"srresnet_{stage}.pth")
    words = ("mask", "--images", folder, "--weights", tmp_path)
    said = "srresnet_baseline.pth do not fit the network srresnet"
    assert said in refusal(study, *words)


def test_train_refuses_a_target_without_a_baseline(folder, tmp_path):
    words = ("train", "--images", folder, "--out", tmp_path, "--stage", "target")
    assert "srresnet_baseline.safetensors is not there" in refusal(study, *words)


def test_the_installed_command_joins_the_study():
    command = Path(sys.executable).with_name("paramattr")
    ran = subprocess.run([command, "blindsr", "--help"], capture_output=True, text=True, check=True)
    assert "mask" in ran.stdout
    assert "train" in ran.stdout
