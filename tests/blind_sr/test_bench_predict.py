"""The benchmark of predictions: kept scores, and the way that the fitted photographs choose."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.bench_predict import Trial
from benchmarks.input_rankings import InputRankings
from benchmarks.input_scores import InputScores
from benchmarks.prediction_variants import PAPER, SINGLE, Variant, combined
from blind_sr.labels import KINDS
from blind_sr.setting import Setting
from paramattr import FAIG
from paramattr.errors import CheckpointError
from tests.blind_sr.made_up import write_photographs

FIND, FIT, TEST = (Path(name) for name in ("find", "fit", "test"))
PLACES = {"blur": (0, 1), "noise": (2, 3), "clean": (4, 5), "both": (6, 7)}
"""Kind to the two filters, 1% of 200, that serve its inputs."""


class MadeUp:
    """Scores of four inputs of each kind; on `test` noisy ones need what clean ones do."""

    pair = SimpleNamespace(target=nn.Conv2d(10, 20, 3, bias=False))

    def table(self, reference, folder, kind, *, signed=False):
        draw = torch.Generator().manual_seed(KINDS.index(kind))
        table = torch.rand(4, 200, generator=draw)
        table[:, PLACES[kind]] += 9
        if (folder, kind) == (TEST, "noise") and not signed:
            table[:, PLACES["clean"]] += 20
        return table


@pytest.fixture
def trial():
    return Trial(InputRankings(MadeUp(), FIND), FIT, TEST, ("truth",))


def test_noisy_inputs_that_need_what_clean_ones_do_are_missed_by_magnitudes_alone(trial):
    paper, sums = trial.row(PAPER), trial.row(Variant("sums", score="sums"))
    assert paper["accuracy_fit"] == sums["accuracy_fit"] == {"blur": 1.0, "noise": 1.0}
    assert paper["gap"]["noise"] == pytest.approx(1.0)
    assert paper["accuracy"] == {"blur": 1.0, "noise": 8 / 12}
    assert paper["confusion"]["noise"] == {"blur": 0, "noise": 0, "both": 0, "none": 4}
    assert sums["accuracy"] == {"blur": 1.0, "noise": 1.0}
    assert paper["accuracy_own_thresholds"]["noise"] == 8 / 12  # none of its filters is left


def test_the_way_is_taken_by_the_photographs_that_thresholds_are_placed_on(trial):
    wide, narrow = replace(PAPER, name="wide"), Variant("narrow", own=5.0)
    for ways in ([wide, narrow], [narrow, wide]):
        both, blur, noise, *literal = trial.taken(ways)
        assert (both["name"], both["own"]) == ("wide", 1.0)
        assert blur["name"].endswith(", for blur alone")
        assert noise["name"].endswith(", for noise alone")
        assert [row["own"] for row in literal] == [1.0] * 3


def test_every_way_keeps_the_truth_and_the_share_that_is_found():
    ways = list(combined())
    assert len(set(ways)) == len(ways)
    assert {way.pct for way in ways} == {1.0}
    assert all(way.uses({"truth", "truth L1"}) for way in ways)
    assert sum(not one.uses({"truth"}) for one in SINGLE) == 5


def test_inputs_that_are_both_are_told_by_filters_of_their_own(trial):
    found = {(row["mixture"], row["own"]): row for row in trial.mixtures("truth")}
    row = found["each against the rest", 1.0]
    assert row["accuracy_fit"] == 1.0
    assert row["confusion"]["both"]["both"] == 4


def test_scores_are_made_once_and_not_read_for_other_settings(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    write_photographs(tmp_path / "images", 2, 24)
    setting = Setting("srcnn", crop=8, steps=1)
    scores = InputScores(setting, tmp_path / "cache")
    first = scores.table("truth L1", tmp_path / "images", "noise")
    summed = scores.table("truth L1", tmp_path / "images", "noise", signed=True)
    assert first.shape == (2, 156_224)
    assert (summed.abs() <= first * 1.001 + 1e-6).all()
    assert not torch.equal(summed, first)
    monkeypatch.setattr(FAIG, "score", None)  # nothing is scored again
    assert torch.equal(scores.table("truth L1", tmp_path / "images", "noise"), first)
    other = InputScores(Setting("srcnn", crop=8, steps=2), tmp_path / "cache")
    with pytest.raises(CheckpointError, match="steps differs"):
        other.table("truth L1", tmp_path / "images", "noise")


def test_errors_are_those_of_the_target_and_of_what_it_changes(tmp_path):
    (tmp_path / "images").mkdir()
    write_photographs(tmp_path / "images", 1, 24)
    scores = InputScores(Setting("srcnn", crop=8, steps=1), tmp_path / "cache")
    own = scores.photographs(tmp_path / "images")
    [low], [high] = own.low["noise"], own.high
    with torch.no_grad():
        target, baseline = scores.pair.target(low), scores.pair.baseline(low)
    errors = scores.errors(tmp_path / "images", "noise")
    assert errors["left"].item() == pytest.approx(float(((target - high) ** 2).sum()), rel=1e-5)
    assert errors["moved"].item() == pytest.approx(
        float(((target - baseline) ** 2).sum()), rel=1e-5
    )
