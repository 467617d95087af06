"""The command `paramattr blindsr predict` and what it is made of, on tiny crops."""

import csv
import json
import shutil
from functools import partial

import pytest
import torch

from blind_sr.classify.ranking import ranker
from blind_sr.data.degradations import degrade
from blind_sr.data.images import read_image, write_image
from blind_sr.data.photographs import load_photographs, with_both
from blind_sr.labels import INPUTS, KINDS
from blind_sr.models.networks import load
from blind_sr.models.pairs import BUNDLED_WEIGHTS
from blind_sr.predict import experiment
from blind_sr.predict.overlaps import Measured, measure, repeated
from paramattr import FAIG, Scores, contrast, self_reference
from paramattr.errors import CheckpointError
from paramattr.files.resume import Unfinished
from paramattr.prediction import OverlapClassifier
from tests.command_line import answer, refusal, study
from tests.kills import writes
from tests.tiny import SMALL

from .made_up import write_uses

TINY = ("--crop", 8, "--steps", 1)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_uses(tmp_path_factory, find=1, fit=2, test=3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Copy the bundled pair without its classifier."""
    folder = tmp_path_factory.mktemp("weights")
    for stage in ("baseline", "target"):
        shutil.copy(BUNDLED_WEIGHTS / f"srresnet_{stage}.safetensors", folder)
    return folder


classify = partial(study, "classify")


def given(folders):
    return [word for use, folder in folders.items() for word in (f"--{use}", folder)]


@pytest.fixture(scope="module")
def ran(folders, tmp_path_factory):
    """Run once over three folders."""
    out = tmp_path_factory.mktemp("out")
    answer(study, "predict", *given(folders), *TINY, "--out", out)
    return out


@pytest.fixture(scope="module")
def result(ran):
    return json.loads((ran / "predict.json").read_text())


@pytest.fixture(scope="module")
def rows(ran):
    with (ran / "overlaps.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_result_says_what_it_was_measured_on(result):
    assert (result["mode"], result["crop"], result["steps"], result["pct"]) == ("self", 8, 1, 1.0)
    assert result["counts"] == {"find": 1, "fit": 2, "test": 3, "repeated": 0}
    for row in result["confusion"].values():
        assert set(row) == {"blur", "noise", "both", "none"}
        assert sum(row.values()) == 3


def test_accuracy_overlaps_and_confusion_follow_from_the_rows(result, rows):
    assert len(rows) == 2 * 3 + 3 * 4
    assert {row["input"] for row in rows if row["set"] == "fit"} == {"blur", "noise", "clean"}
    own = [row for row in rows if row["set"] == "test"]
    for condition in ("blur", "noise"):
        right = 0
        for row in own:
            said = float(row[f"overlap_{condition}"]) >= result["thresholds"][condition]
            assert said == (row["taken"] in (condition, "both"))
            right += row["input"] != "both" and said == (row["input"] == condition)
        assert result["accuracy"][condition] == right / 9
        for kind in KINDS:
            values = [float(r[f"overlap_{condition}"]) for r in own if r["input"] == kind]
            assert result["overlaps"][kind][condition] == pytest.approx(sum(values) / 3)
    for kind in KINDS:
        taken = [row["taken"] for row in own if row["input"] == kind]
        counts = result["confusion"][kind]
        assert counts == {name: taken.count(name) for name in counts}


def test_the_classifier_and_the_figure_are_written(ran, result):
    classifier = OverlapClassifier.load(ran / "srresnet_classifier.safetensors")
    assert classifier.thresholds == result["thresholds"]
    assert [len(units) for units in classifier.found.values()] == [1519, 1519]
    assert read_image(ran / "overlaps.png").shape[0] == 3
    assert not (ran / "running").exists()


def test_it_is_found_fitted_and_tested_by_the_papers_equations(ran, folders, pair):
    options = {"reducer": "kernel", "n_steps": 1}
    used = {use: load_photographs(folder, crop=8) for use, folder in folders.items()}
    blur, noise = (
        FAIG(pair.target, pair.baseline).score(used["find"].pairs(c), **options)
        for c in ("blur", "noise")
    )
    found = {
        "blur": contrast(blur, noise).top(fraction=0.01),
        "noise": contrast(noise, blur).top(fraction=0.01),
    }
    classifier = OverlapClassifier.load(ran / "srresnet_classifier.safetensors")
    assert classifier.found == found
    faig = FAIG(pair.target, pair.baseline, objective=self_reference)
    with (ran / "overlaps.csv").open() as file:
        rows = {(r["set"], r["photograph"], r["input"]): r for r in csv.DictReader(file)}
    both = degrade(used["test"].high[1], "both", torch.Generator().manual_seed(1))
    for key, low in (
        (("fit", "photograph0", "noise"), used["fit"].low["noise"][0]),
        (("test", "photograph2", "blur"), used["test"].low["blur"][2]),
        (("test", "photograph1", "both"), both),
    ):
        own = faig.score([low], **options).top(fraction=0.01)
        for condition in ("blur", "noise"):
            assert float(rows[key][f"overlap_{condition}"]) == own.overlap(found[condition])


def test_the_tables_a_person_sees(folders, tmp_path):
    words = ("--find", folders["find"], "--fit", folders["fit"], "--test", folders["fit"])
    words += ("--limit", 1, "--reference", "truth", "--out", tmp_path)
    code, out, err = study("predict", *words, *TINY)
    assert (code, err) == (0, "")
    for expected in ("Accuracy", "threshold", "neither", "blurry and noisy"):
        assert expected in out
    assert "1 of 1 test photographs also served to find the filters or fit" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert json.loads((tmp_path / "predict.json").read_text())["mode"] == "truth"


def test_a_run_goes_on_where_it_stopped(folders, ran, tmp_path):
    words = (*given(folders), *TINY, "--out", tmp_path)
    overlaps = "*/running/overlaps.safetensors"
    with writes(overlaps, killed_at=7):
        assert study("predict", *words)[0] == 130
    said = "other settings (pct differs: 1.0 there, 2.0 here; filters differs: "
    assert said in refusal(study, "predict", *words, "--pct", 2)
    with writes(overlaps) as kept:
        result = answer(study, "predict", *words)
    assert len(kept) == 2 * 3 + 3 * 4 - 5
    assert result == json.loads((ran / "predict.json").read_text())
    assert (tmp_path / "overlaps.csv").read_text() == (ran / "overlaps.csv").read_text()


def test_an_input_is_ranked_once(pair, folders):
    photographs = with_both(load_photographs(folders["fit"], crop=8), limit=1)
    ranked = []

    def rank(sample):
        ranked.append(sample)
        return Scores(index, torch.arange(len(index)))

    index = ranker(pair, "self", n_steps=1, method="riemann_middle")(
        (photographs.low["blur"][0], None)
    ).index
    found = Scores(index, torch.arange(len(index))).top(count=3)
    classifier = OverlapClassifier({"blur": found, "noise": ~found}, rank)
    kept, done = Unfinished(None, {}), []
    for kinds in (("blur", "noise"), ("clean", "blur")):
        measured = measure(classifier, photographs, kinds, kept, advance=done.append)
    assert (len(ranked), len(done)) == (3, 4)
    assert measured.kinds == ["clean", "blur"]
    assert measured.overlaps["blur"].tolist() == [1.0, 1.0]


def test_broken_files_of_a_run_are_refused(tmp_path):
    file = tmp_path / "overlaps.safetensors"
    for broken in ("no json\n", "[]\n", '{"ste'):
        file.write_text(broken)
        with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
            Unfinished(file, {"steps": 1})
    file.unlink()
    Unfinished(file, {"steps": 1}).save({}, {"a": {"blur": 0.5}})
    with pytest.raises(CheckpointError, match=r"other settings \(steps differs: 1 there, 2 here"):
        Unfinished(file, {"steps": 2})
    assert Unfinished(file, {"steps": 1}).notes == {"a": {"blur": 0.5}}


def test_outcomes_by_hand():
    kinds = ["blur", "noise", "clean", "both"] * 2
    overlaps = {
        "blur": torch.tensor([0.9, 0.1, 0.6, 0.7, 0.4, 0.1, 0.1, 0.2], dtype=torch.float64),
        "noise": torch.tensor([0.1, 0.9, 0.2, 0.8, 0.1, 0.8, 0.6, 0.3], dtype=torch.float64),
    }
    tested = Measured(["p"] * 4 + ["q"] * 4, kinds, overlaps)
    assert tested.labels()[:4] == [("blur",), ("noise",), (), ("blur", "noise")]
    units = Scores(SMALL, torch.arange(len(SMALL))).top(count=1)
    classifier = OverlapClassifier(
        {"blur": units, "noise": units}, thresholds={"blur": 0.5, "noise": 0.5}
    )
    found = experiment.outcome(classifier, tested)
    assert found["accuracy"] == {"blur": 4 / 6, "noise": 5 / 6}
    none = dict.fromkeys(("blur", "noise", "both", "none"), 0)
    assert found["confusion"] == {
        "blur": {**none, "blur": 1, "none": 1},
        "noise": {**none, "noise": 2},
        "clean": {**none, "blur": 1, "noise": 1},
        "both": {**none, "both": 1, "none": 1},
    }
    assert found["overlaps"]["clean"] == pytest.approx({"blur": 0.35, "noise": 0.4})


def test_noise_is_that_of_the_study(folders):
    four = with_both(load_photographs(folders["test"], crop=8, seed=3), seed=3)
    three = load_photographs(folders["test"], crop=8, seed=3)
    for condition in INPUTS:
        assert torch.equal(four.low[condition][2], three.low[condition][2])
    blurred = load_photographs(folders["test"], crop=8, seed=4)
    assert not torch.equal(four.low["both"][0], four.low["both"][1])
    assert torch.equal(four.low["blur"][0], blurred.low["blur"][0])
    limited = with_both(three, seed=3, limit=2)
    assert limited.names == four.names[:2]
    assert all(len(low) == 2 for low in limited.low.values())
    assert repeated(four, limited) == 2
    assert repeated(limited, with_both(load_photographs(folders["fit"], crop=8))) == 0


def test_one_image(ran, folders, tmp_path):
    file, image = ran / "srresnet_classifier.safetensors", tmp_path / "image.png"
    low = load_photographs(folders["test"], crop=8).low["noise"][0]
    framed = torch.zeros(3, 12, 18)
    framed[:, 2:10, 5:13] = low[0]  # its middle is an input of the test
    write_image(framed, image)
    result = answer(classify, image, "--classifier", file)
    with (ran / "overlaps.csv").open() as csv_file:
        [row] = [
            r
            for r in csv.DictReader(csv_file)
            if (r["set"], r["photograph"], r["input"]) == ("test", "photograph0", "noise")
        ]
    for condition in ("blur", "noise"):
        assert result["overlaps"][condition] == float(row[f"overlap_{condition}"])
    taken = {"both": ["blur", "noise"], "none": []}
    assert result["predicted"] == taken.get(row["taken"], [row["taken"]])
    code, out, _ = classify(image, "--classifier", file)
    assert code == 0
    assert "blurry: overlap" in out
    assert "image.png is" in out


def test_the_classifier_beside_the_weights_is_used(ran, weights, folders, tmp_path):
    for name in weights.iterdir():
        shutil.copy(name, tmp_path)
    words = (folders["test"] / "photograph0.png", "--weights", tmp_path)
    assert "srresnet_classifier.safetensors is not there: make one with" in refusal(
        classify, *words
    )
    shutil.copy(ran / "srresnet_classifier.safetensors", tmp_path)
    assert classify(*words)[0] == 0

    other = load(network="srresnet", path=tmp_path / "srresnet_target.safetensors")
    with torch.no_grad():
        other.conv_last.bias.add_(0.1)
    torch.save(other.state_dict(), tmp_path / "srresnet_baseline.pth")
    (tmp_path / "srresnet_baseline.safetensors").unlink()
    assert "was made for other weights" in refusal(classify, *words)


def test_a_classifier_of_the_ground_truth_is_refused(ran, folders, tmp_path):
    classifier = OverlapClassifier.load(ran / "srresnet_classifier.safetensors")
    classifier.notes["mode"] = "truth"
    classifier.save(tmp_path / "truth.safetensors")
    words = (folders["fit"] / "photograph0.png",)
    words += ("--classifier", tmp_path / "truth.safetensors")
    assert "fitted with the ground truth" in refusal(classify, *words)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_image_is_an_image(level, ran, tmp_path):
    write_image(torch.full((3, 9, 8), level), tmp_path / "flat.png")
    words = ("--classifier", ran / "srresnet_classifier.safetensors")
    result = answer(classify, *words, tmp_path / "flat.png")
    assert set(result["overlaps"]) == {"blur", "noise"}


def test_a_single_pixel_is_an_image(ran, tmp_path):
    write_image(torch.rand(3, 1, 1), tmp_path / "pixel.png")
    words = ("--classifier", ran / "srresnet_classifier.safetensors")
    said = "too small: 1x1 pixels, and 8x8 are needed"
    assert said in refusal(classify, *words, tmp_path / "pixel.png")
    assert classify(*words, tmp_path / "pixel.png", "--crop", 0)[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--reference", "oracle"], "reference 'oracle' is not known: expected self or truth"),
        (["--pct", "0"], "pct is 0"),
        (["--pct", "101"], "pct is 101"),
        (["--limit", "-1"], "--limit"),
        (["--steps", "0"], "n_steps=0"),
        (["--quadrature", "monte_carlo"], "'monte_carlo'"),
        (["--network", "vgg"], "--network"),
        (["--weights", "/no/such/folder"], "/no/such/folder"),
        (["--find", "/no/such/folder"], "/no/such/folder is not there"),
        (["--fit", "/no/such/folder"], "/no/such/folder is not there"),
        (["--test", "/no/such/folder"], "/no/such/folder is not there"),
        (["--crop", "500"], "is too small"),
        (["--device", "toaster"], "device 'toaster'"),
        (["--out", "/proc/none"], "/proc/none"),
        (["--classifier", "some.safetensors"], "is given without an image"),
        (["--image", "none.png", "--reference", "truth"], "no ground truth"),
        (["--image", "none.png", "--classifier", "none.safetensors"], "none.safetensors is not"),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(words, expected, folders, no_work):
    own = {use: folder for use, folder in folders.items() if f"--{use}" not in words}
    crop = [] if "--crop" in words else ["--crop", 8]
    assert expected in refusal(study, "predict", *given(own), *crop, *words)


def test_an_image_that_is_not_there(ran):
    words = ("--classifier", ran / "srresnet_classifier.safetensors", "none.png")
    assert "image none.png is not there" in refusal(classify, *words)


def test_the_old_option_for_one_image_still_works_and_says_so(ran, folders):
    words = ("--classifier", ran / "srresnet_classifier.safetensors", "--json")
    image = folders["test"] / "photograph0.png"
    code, out, err = study("predict", "--image", image, *words)
    assert (code, err.count("\n")) == (0, 1)
    assert "'paramattr blindsr classify FILE'" in err
    assert classify(image, *words) == (0, out, "")
