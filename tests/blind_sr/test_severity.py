"""The command `paramattr blindsr severity` and what it is made of, on tiny crops."""

import csv
import json

import pytest
import torch

from blind_sr.data.degradations import degrade
from blind_sr.data.images import read_image
from blind_sr.data.measures import psnr
from blind_sr.data.photographs import load_photographs
from blind_sr.models.pairs import load_pair
from blind_sr.severity.experiment import boundary
from blind_sr.severity.inputs import RANGES, Drawn
from blind_sr.severity.measuring import Measured
from blind_sr.severity.rival import predicted_by, train_on_labels
from paramattr import FAIG, OverlapRegressor, Scores, self_reference
from tests.command_line import refusal, study

from .made_up import write_uses

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ("--network", "srcnn", "--crop", 8, "--steps", 1, "--levels", 2, "--label-steps", 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_uses(tmp_path_factory, find=2, fit=3, test=2)


@pytest.fixture(scope="module")
def ran(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    given = [word for use, folder in folders.items() for word in (f"--{use}", folder)]
    assert study("severity", *given, *TINY, "--draws", 3, "--json", "--out", out)[0] == 0
    return out


@pytest.fixture(scope="module")
def result(ran):
    return json.loads((ran / "severity.json").read_text())


@pytest.fixture(scope="module")
def regressor(ran):
    return OverlapRegressor.load(ran / "srcnn_regressor.safetensors")


def test_the_files_are_written(ran, result, regressor):
    assert result["counts"] == {"find": 2, "fit": 3, "test": 2}
    assert list(regressor.found) == ["blur", "noise", "blur rising", "noise rising"]
    rising = Scores.load(ran / "slope_noise.safetensors")
    assert regressor.found["noise rising"] == rising.top(fraction=0.01)
    for name in ("predicted", "boundary", "responses"):
        assert read_image(ran / f"{name}.png").shape[0] == 3


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_errors_are_means_over_severities_of_the_whole_range(result, kind):
    own, errors = result["inputs"][kind], result["errors"][kind]
    low, high = RANGES[kind].low, RANGES[kind].high
    assert (errors["from"], errors["to"]) == (low, high)
    assert len(own["severity"]) == len(set(own["severity"])) == 2 * 3
    assert all(low <= severity <= high for severity in own["severity"])
    for name in ("overlap", "trained", "mean", "labels"):
        predicted = zip(own[f"predicted_{name}"], own["severity"], strict=True)
        off = [abs(guess - severity) for guess, severity in predicted]
        assert errors[name]["value"] == pytest.approx(sum(off) / 6, abs=1e-4)


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_inputs_and_overlaps_are_those_of_the_equations(folders, result, regressor, kind):
    pair, tested = load_pair("srcnn"), load_photographs(folders["test"], crop=8)
    own, drawn = result["inputs"][kind], Drawn.of(tested, kind, 1, draws=3)
    number = 4  # photographs are drawn in turn: the first one's third input
    assert drawn.photographs.names[number] == tested.names[0]
    severity = float(drawn.severities[number])
    assert severity == pytest.approx(own["severity"][number], abs=1e-5)
    image, truth = drawn.photographs.low[kind][number], tested.high[0]
    noise = torch.Generator().manual_seed(1_000_003 + number)
    assert torch.equal(image, degrade(truth, RANGES[kind].degradation(severity), noise))
    with torch.inference_mode():
        quality = float(psnr(pair.target(image), truth))
    assert own["psnr_target"][number] == pytest.approx(quality, abs=1e-3)
    faig = FAIG(pair.target, pair.baseline, objective=self_reference)
    top = faig.score([image], reducer="kernel", n_steps=1).top(fraction=0.01)
    for name, units in regressor.found.items():
        assert own[f"overlap_{name}"][number] == pytest.approx(top.overlap(units), abs=1e-5)


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_each_filters_slope_lies_in_its_interval(ran, regressor, kind):
    with (ran / f"filters_{kind}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(regressor.found[kind])
    assert all(float(row["low"]) <= float(row["slope"]) <= float(row["high"]) for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kinds", "blur"), "at least two of blur, noise, jpeg"),
        (("--kinds", "blur,fog"), "degradations are blur, fog"),
        (("--levels", 1), "at least 2 levels"),
        (("--pct", 0), "pct is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(words, said, tmp_path):
    assert said in refusal(study, "severity", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_jpeg_severities_are_whole_and_inside_their_range(folders):
    photographs = load_photographs(folders["test"], crop=8)
    severities = Drawn.of(photographs, "jpeg", 0, draws=20).severities
    assert torch.equal(severities, severities.round())
    assert severities.min() >= 5
    assert severities.max() <= 95
    assert RANGES["jpeg"].levels(3) == [5, 50, 95]


def test_the_boundary_sorts_the_inputs_by_their_severity():
    severities = torch.tensor([0.0, 0.05, 0.06, 0.3], dtype=torch.float64)
    target = torch.tensor([30.0, 28.0, 20.0, 10.0], dtype=torch.float64)
    overlaps = {"noise": torch.tensor([0.1, 0.3, 0.6, 0.2], dtype=torch.float64)}
    own = Measured("noise", list("abcd"), severities, overlaps, target - 1, target)
    first, second, last = boundary(own)
    assert (first["inputs"], second["inputs"], last["inputs"]) == (2, 1, 1)
    assert first["target"] == 29
    assert first["overlap"]["noise"] == pytest.approx(0.2)
    assert last["to"] == pytest.approx(0.3)
    assert last["gain"]["value"] == pytest.approx(1)


def test_the_rival_learns_the_noise_level_from_labels(folders):
    photographs = load_photographs(folders["fit"], crop=8)
    drawn = Drawn.of(photographs, "noise", 5, draws=10)
    inputs, own = drawn.photographs.low["noise"], drawn.severities

    def off(steps):
        model = train_on_labels(photographs.high, "noise", steps, seed=0)
        return float((predicted_by(model, "noise", inputs) - own).abs().mean())

    assert off(150) < 0.7 * off(1)
    assert off(150) < 0.7 * float((own - own.mean()).abs().mean())
