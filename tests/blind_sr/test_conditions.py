"""The command `paramattr blindsr conditions`, with three degradations, on tiny crops."""

import json

import pytest
import torch

from blind_sr.data.degradations import CONDITIONS
from blind_sr.data.images import read_image
from blind_sr.data.measures import output_difference
from blind_sr.data.photographs import load_photographs, with_both, with_conditions
from blind_sr.models.networks import build
from blind_sr.models.outputs import squared_errors
from blind_sr.models.pairs import load_pair
from paramattr import FAIG, Scores, contrast, substitute
from tests.command_line import refusal, study

from .made_up import write_pair, write_photographs

pytestmark = pytest.mark.usefixtures("one_thread")
THREE = ("blur", "noise", "jpeg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 3, (40, 40), coarse=10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_pair(folder, "swin", lambda: build("swin"))
    return folder


@pytest.fixture(scope="module")
def ran(folder, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    words = ["--images", folder, "--fit", folder, "--test", folder, "--weights", weights]
    words += ["--network", "swin", "--units", "attention_head,kernel", "--pct", 25, "--pct", 10]
    words += ["--conditions", "blur,noise,jpeg", "--crop", 8, "--steps", 1, "--json"]
    assert study("conditions", *words, "--out", out)[0] == 0
    return out


@pytest.fixture(scope="module")
def measured(folder, weights):
    pair = load_pair("swin", weights)
    photographs = with_conditions(load_photographs(folder, crop=8), {"jpeg": CONDITIONS["jpeg"]})
    return pair, photographs


@pytest.fixture(scope="module")
def result(ran):
    return json.loads((ran / "conditions.json").read_text())


@pytest.mark.parametrize(
    ("unit", "fraction", "place", "count"),
    [("attention_head", 0.25, 0, 8), ("kernel", 0.1, 1, 941)],
    ids=["head", "kernel"],
)
def test_each_is_contrasted_with_the_mean_of_the_others_and_masked(
    ran, result, measured, unit, fraction, place, count
):
    (pair, photographs), own = measured, result["units"][unit]
    assert own["masked"][place]["units"] == count
    faig = FAIG(pair.target, pair.baseline)
    scores = {c: faig.score(photographs.pairs(c), reducer=unit, n_steps=1) for c in THREE}
    kept = Scores.load(ran / f"scores_{unit}_jpeg.safetensors")
    torch.testing.assert_close(kept.values, scores["jpeg"].values)
    top = contrast(scores["jpeg"], scores["blur"], scores["noise"]).top(fraction=fraction)
    edited = substitute(pair.target, pair.baseline, top)
    rows = {
        (r["method"], r["function"], r["measured"]): r
        for r in own["rows"]
        if r["fraction"] == fraction
    }
    assert len(rows) == 2 * 3 * 3
    for condition in THREE:
        row = rows["faig", "jpeg", condition]
        with torch.inference_mode():
            after, target, baseline = (
                [model(low) for low in photographs.low[condition]]
                for model in (edited, pair.target, pair.baseline)
            )
        moved = torch.cat([output_difference(a, b) for a, b in zip(after, target, strict=True)])
        assert row["value"] == pytest.approx(1000 * float(moved.mean()), rel=1e-4)
        before, left, most = (
            float(squared_errors(images, photographs).mean())
            for images in (target, after, baseline)
        )
        if row["lost_share"] is not None:
            lost = (left - before) / (most - before)
            assert row["lost_share"] == pytest.approx(lost, rel=1e-3)


def test_pairs_of_conditions_and_a_figure_are_written(ran, result):
    assert len(result["units"]["kernel"]["pairs"]) == 6
    assert read_image(ran / "conditions.png").shape[0] == 3


def test_the_confusion_counts_every_input_once(result):
    own = result["recognised"]
    assert list(own["confusion"]) == ["clean", *THREE]
    taken = ["blur", "noise", "jpeg", "none", "several"]
    assert all(list(row) == taken and sum(row.values()) == 3 for row in own["confusion"].values())
    right = own["confusion"]["clean"]["none"] + sum(own["confusion"][c][c] for c in THREE)
    assert own["accuracy"] == right / 12
    assert own["counts"] == {"fit": 3, "test": 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--conditions", "blur"), "there is one condition, blur"),
        (("--conditions", "blur,fog"), "conditions are blur, fog: expected some of blur, noise"),
        (("--units", "kernel,atom"), "units are kernel, atom"),
        (("--pct", 101), "pct is 101"),
        (("--fit", "."), "expected --fit and --test, or neither"),
        (("--target", "no-such-file"), "no-such-file"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(words, said, tmp_path):
    words = (*words, "--crop", 8, "--out", tmp_path / "out")
    assert said in refusal(study, "conditions", *words)
    assert not (tmp_path / "out").exists()


def test_other_conditions_have_the_noise_of_the_photographs_number(folder):
    photographs = load_photographs(folder, crop=8)
    again = with_conditions(photographs, {c: CONDITIONS[c] for c in ("noise", "both")})
    assert all(map(torch.equal, again.low["noise"], photographs.low["noise"]))
    both = with_both(photographs, limit=2)
    assert len(both.low["both"]) == len(both.high) == 2
    assert all(map(torch.equal, both.low["both"], again.low["both"]))
