"""Tab. 3, `paramattr blindsr retrain`: on a small network and tiny photographs."""

import csv
import json
import statistics
from functools import partial

import pytest
import torch

from blind_sr.data.degradations import degrade
from blind_sr.data.images import read_image, write_image
from blind_sr.data.measures import psnr
from blind_sr.data.patches import Patches
from blind_sr.labels import METHODS
from blind_sr.retrain import trainings
from blind_sr.retrain.report import summary, tables
from blind_sr.training import trainer as training
from paramattr import Selection, load_state_dict, random_scores, save_state_dict
from paramattr.errors import ParamattrError
from paramattr.files.reading import load_tensors
from tests.command_line import answer, refusal, study
from tests.kills import calls, writes

from .made_up import SMALL

pytestmark = pytest.mark.usefixtures("one_thread", "small")

WORDS = ("--pct", 10, "--iterations", 4, "--batch-size", 2, "--patch", 16, "--crop", 12)
COLUMNS = [("all", "all"), *((m, f) for m in ("faig", "random") for f in ("blur", "noise"))]
INPUTS = [(condition, seed) for condition in ("blur", "noise") for seed in (0, 1)]


@pytest.fixture(scope="module")
def run(folder):
    return partial(study, "retrain", "--weights", folder, "--steps", 2)


@pytest.fixture(scope="module")
def run_on(folder, run):
    return partial(run, "--images", folder, "--find", folder)


@pytest.fixture(scope="module")
def trained(run_on, tmp_path_factory):
    """Run two methods with two seeds: the folder of it, and what it printed."""
    out = tmp_path_factory.mktemp("trained")
    words = (*WORDS, "--methods", "faig,random", "--seeds", 2, "--out", out)
    return out, answer(run_on, *words)


def test_a_negative_zero_stays_one_in_a_longer_training(run_on, tmp_path):
    # From the ninth iteration on the average keeps over half of itself, which rounds otherwise.
    words = [12 if word == 4 else word for word in WORDS]
    answer(run_on, *words, "--methods", "random", "--out", tmp_path)
    state = load_state_dict(tmp_path / "trainings" / "random_blur_noise_on_blur_0.safetensors")
    assert state["conv_first.bias"][0] == 0
    assert torch.signbit(state["conv_first.bias"][0])


def test_there_is_a_row_for_each_method_function_input_and_seed(trained):
    rows = trained[1]["rows"]
    keys = [(row["method"], row["filters"], row["input"], row["seed"]) for row in rows]
    assert sorted(keys) == sorted((*column, *own) for column in COLUMNS for own in INPUTS)
    assert all(set(row) == {"method", "filters", "input", "psnr", "seed"} for row in rows)


def test_what_is_printed_is_written_as_json_csv_and_figure(trained):
    out, result = trained
    assert result["unchanged"] is True
    assert result["images"]["test"] == ["photograph0", "photograph1"]
    assert json.loads((out / "retrain.json").read_text()) == result
    with (out / "retrain.csv").open(newline="") as file:
        found = [float(row["psnr"]) for row in csv.DictReader(file)]
    assert found == [row["psnr"] for row in result["rows"]]
    assert read_image(out / "retrain.png").float().std() > 10


def test_what_one_selection_serves_is_trained_once_an_input_and_nothing_is_left_running(trained):
    out = trained[0]
    assert {path.stem for path in (out / "trainings").glob("*.safetensors")} == {
        f"{name}_on_{condition}_{seed}"
        for name in ("all", "faig_blur", "faig_noise", "random_blur_noise")
        for condition, seed in INPUTS
    }
    assert not list((out / "trainings").glob("*.ckpt"))
    assert not (out / "running").exists()


def test_each_training_moves_its_own_filters_and_no_other_weight(folder, trained):
    out = trained[0]
    start = load_state_dict(folder / "srresnet_baseline.safetensors")
    for file in (out / "trainings").glob("*.safetensors"):
        method, function, *_, seed = file.stem.split("_")
        state = load_state_dict(file)
        changed = {name: state[name] != value for name, value in start.items()}
        if method == "all":
            assert all(own.any() for own in changed.values())
            continue
        number = seed if method == "random" else 0
        chosen = Selection.load(out / "selections" / f"{method}_{function}_{number}.safetensors")
        assert len(chosen) == round(0.1 * len(chosen.index))
        for name, own in changed.items():
            inside = chosen.mask(name) if name in chosen.index.labels else torch.zeros_like(own)
            assert not own[~inside].any()
        assert any(own.any() for own in changed.values())


def test_each_is_a_training_of_its_own_and_the_upper_bound_has_its_own_rate(trained):
    files = list((trained[0] / "trainings").glob("*.safetensors"))
    different = set()
    for file in files:
        state, made = load_tensors(file)
        assert made["stage"] == file.stem.split("_")[-2]
        assert made["learning_rate"] == (5e-4 if file.stem.startswith("all_") else 2e-3)
        different.add(b"".join(state[name].numpy().tobytes() for name in sorted(state)))
    assert len(different) == len(files)


def test_psnr_is_that_of_the_kept_weights_on_their_own_input(folder, trained):
    out, result = trained

    def measured(file, condition):
        model = SMALL["srresnet"]()
        model.load_state_dict(load_state_dict(file))
        found = []
        for number in range(2):
            truth = read_image(folder / f"photograph{number}.png")[None, :, 10:34, 8:32] / 255
            draw = torch.Generator().manual_seed(number)
            with torch.no_grad():
                found.append(psnr(model(degrade(truth, condition, draw)), truth).item())
        return pytest.approx(statistics.fmean(found), abs=1e-4)

    for row in result["rows"]:
        kind = {"all": "all", "random": "random_blur_noise"}.get(
            row["method"], f"{row['method']}_{row['filters']}"
        )
        file = out / "trainings" / f"{kind}_on_{row['input']}_{row['seed']}.safetensors"
        assert row["psnr"] == measured(file, row["input"])
    for stage in ("baseline", "target"):
        for condition in ("blur", "noise"):
            expected = measured(folder / f"srresnet_{stage}.safetensors", condition)
            assert result[stage][condition] == expected


@pytest.fixture(scope="module")
def repeated(run_on, tmp_path_factory):
    """Run a method: its folder, the words to repeat it, and what they give."""
    out = tmp_path_factory.mktemp("repeated")
    words = (*WORDS, "--methods", "random", "--out", out)
    return out, words, answer(run_on, *words)


def test_a_repeated_run_trains_nothing_again(run_on, repeated):
    _, words, first = repeated
    with writes("*.ckpt") as trained:
        assert answer(run_on, *words) == first
        assert not trained
        more = answer(run_on, *words, "--methods", "absolute-change,random")
        assert len(set(trained)) == 2  # one more method, one ranking, two inputs
    assert [row for row in more["rows"] if row["method"] != "absolute-change"] == first["rows"]


def test_other_settings_are_refused_unless_forced(run_on, repeated):
    _, words, first = repeated
    with writes("*.ckpt") as trained:
        said = "pct differs: 10.0 there, 20.0 here; rate differs: 0.002 there, 0.001 here): give"
        assert said in refusal(run_on, *words, "--pct", 20, "--rate", 1e-3)
        assert run_on(*words, "--pct", 0, "--force")[0] == 2  # a bad option takes nothing away
        assert answer(run_on, *words) == first
        assert not trained
        assert run_on(*words, "--pct", 20, "--force")[0] == 0
        assert len(set(trained)) == 4


def test_other_photographs_are_another_recipe(run_on, tmp_path):
    words = (*WORDS, "--methods", "random", "--out", tmp_path)
    run_on(*words)
    other = tmp_path / "other"
    other.mkdir()
    write_image(torch.rand(3, 44, 44), other / "photograph0.png")
    said = refusal(run_on, *words, "--images", other)
    assert "made with other settings (images differs:" in said
    assert "crop" not in said
    (tmp_path / "recipe.json").write_text("{")
    assert "recipe.json cannot be read" in refusal(run_on, *words)


def test_a_run_killed_between_steps_ends_in_the_same_rows(run_on, tmp_path, monkeypatch):
    words = (*WORDS, "--methods", "faig", "--out")
    whole = answer(run_on, *words, tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    broken = tmp_path / "broken"
    for last in ("all_on_noise_0", "faig_blur_on_blur_0", "faig_noise_on_noise_0"):
        with writes(f"*/{last}.ckpt", killed_at=6):
            assert run_on(*words, broken)[0] == 130
        assert (broken / "trainings" / f"{last}.ckpt").exists()
        assert not (broken / "trainings" / f"{last}.safetensors").exists()
    with calls(Patches, "batch") as drawn:
        assert answer(run_on, *words, broken) == whole
    assert [iteration for _, iteration in drawn] == [3]  # all else was done before


def test_a_changed_bit_outside_the_selection_is_an_error():
    torch.manual_seed(0)
    model = SMALL["srresnet"]()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = random_scores(model).top(fraction=0.1)
    place = (~chosen.mask("conv_hr.weight")).nonzero()[0].tolist()
    selected = chosen.mask("conv_hr.weight").nonzero()[0].tolist()

    def check(parameter, entry, value):
        state = {name: own.clone() for name, own in start.items()}
        state[parameter][tuple(entry)] = value
        trainings.check_unchanged(state, start, chosen, "own")

    check("conv_hr.weight", selected, 1.0)
    start["conv_hr.bias"][0] = 0.0
    for parameter, entry, value in (
        ("conv_hr.weight", place, float(start["conv_hr.weight"][tuple(place)]) + 1e-6),
        ("conv_hr.weight", place, float("nan")),
        ("conv_hr.bias", [0], -0.0),
    ):
        with pytest.raises(ParamattrError, match=f"own changed '{parameter}' outside"):
            check(parameter, entry, value)


def test_every_training_is_looked_at_for_changed_bits(run_on, tmp_path, monkeypatch):
    def shifted(file, tensors, *about):
        save_state_dict(file, {**tensors, "conv_hr.bias": tensors["conv_hr.bias"] + 1e-3}, *about)

    monkeypatch.setattr(training, "save_state_dict", shifted)
    said = "random_blur_noise_on_blur_0 changed 'conv_hr.bias' outside the selection"
    assert said in refusal(run_on, *WORDS, "--methods", "random", "--out", tmp_path)


def test_what_both_functions_share_is_planned_once():
    torch.manual_seed(0)
    one, other, third = (random_scores(SMALL["srresnet"](), seed=s).top(count=3) for s in range(3))
    selections = {
        "faig": {"blur": [one], "noise": [other]},
        "random": {"blur": [one, third], "noise": [one, third]},
    }
    planned = trainings.plan(selections, seeds=2)
    assert [t.name for t in planned if t.seed == 1] == [
        "all_on_blur_1",
        "all_on_noise_1",
        "faig_blur_on_blur_1",
        "faig_blur_on_noise_1",
        "faig_noise_on_blur_1",
        "faig_noise_on_noise_1",
        "random_blur_noise_on_blur_1",
        "random_blur_noise_on_noise_1",
    ]
    found = {t.name: t.selection for t in planned}
    assert found["faig_noise_on_blur_1"] == other
    assert found["random_blur_noise_on_blur_0"] == one
    assert found["random_blur_noise_on_blur_1"] == third
    assert found["all_on_blur_0"] is None


def test_the_table_a_person_sees(run_on, tmp_path):
    code, out, _ = run_on(*WORDS, "--iterations", 1, "--out", tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "every weight outside the selection is the baseline's, bit for bit" in out.lower()
    rows = json.loads((tmp_path / "retrain.json").read_text())["rows"]
    cells = {(r["method"], r["filters"], r["input"]): f"{r['psnr']:.2f}" for r in rows}
    methods = ("faig", "ig-no-contrast", "absolute-change", "random")
    columns = [("all", "all"), *((m, f) for f in ("blur", "noise") for m in methods)]
    for condition, label in (("blur", "blurry"), ("noise", "noisy")):
        expected = [label, *(cells[method, kind, condition] for method, kind in columns)]
        assert expected in [line.split() for line in lines]


def test_any_number_of_methods_and_seeds_fits_a_narrow_terminal():
    from rich.console import Console

    draw = torch.Generator().manual_seed(0)
    columns = [("all", "all"), *((m, f) for m in METHODS for f in ("blur", "noise"))]
    rows = [
        {"method": m, "filters": f, "input": c, "psnr": 25 + torch.rand(1, generator=draw).item()}
        for m, f in columns
        for c in ("blur", "noise")
        for _ in range(3)
    ]
    quality = {"blur": 25.0, "noise": 21.0}
    result = {
        "pct": 1.0,
        "methods": list(METHODS),
        "seeds": 3,
        "rows": rows,
        "baseline": quality,
        "target": quality,
    }
    console = Console(width=80)
    with console.capture() as captured:
        for table in tables(result):
            console.print(table)
    text = captured.get()
    assert "…" not in text
    found = summary(rows)
    for method in METHODS:
        own = [r["psnr"] for r in rows if (r["method"], r["filters"]) == (method, "blur")][:3]
        mean, deviation = found[method, "blur", "blur"]
        assert mean == pytest.approx(sum(own) / 3)
        assert deviation**2 == pytest.approx(sum((v - mean) ** 2 for v in own) / 2)
        assert f"{mean:.2f}" in text
        assert f"±{deviation:.2f}" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pct", "0"], "pct is 0"),
        (["--pct", "nan"], "pct is nan"),
        (["--methods", "magic"], "'magic'"),
        (["--methods", "layer-conductance"], "no single filters"),
        (["--iterations", "0"], "--iterations"),
        (["--seeds", "0"], "--seeds"),
        (["--rate", "-1"], "learning rate is -1"),
        (["--rate", "nan"], "learning rate is nan"),
        (["--all-rate", "0"], "learning rate is 0"),
        (["--patch", "17"], "patch is 17"),
        (["--patch", "64"], "is too small: 40x44 pixels, and 64x64"),
        (["--steps", "0"], "n_steps=0"),
        (["--precision", "int4"], "'int4'"),
        (["--device", "toaster"], "device 'toaster'"),
        (["--network", "srcnn"], "srcnn_baseline"),
        (["--images", "/no/such/folder"], "/no/such/folder is not there"),
        (["--find", "/no/such/folder"], "/no/such/folder is not there"),
        (["--test", "/no/such/folder"], "/no/such/folder is not there"),
        (["--crop", "500"], "is too small"),
        (["--out", "/proc/none"], "/proc/none"),
    ],
)
def test_bad_options_end_in_one_line_before_any_work(words, expected, run_on, no_work, tmp_path):
    out = () if "--out" in words else ("--out", tmp_path / "out")
    assert expected in refusal(run_on, *WORDS, *out, *words)
    assert not (tmp_path / "out").exists()


def test_few_photographs_are_enough_and_the_bundled_ones_are_the_default(run, tmp_path):
    words = ("--methods", "absolute-change", "--iterations", 1, "--batch-size", 1, "--crop", 8)
    code, out, err = run(*words, "--patch", 16, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "a real run wants --images" in out
    found = json.loads((tmp_path / "retrain.json").read_text())["images"]
    assert found["test"] == found["find"]
    assert "astronaut" in found["test"]
    assert "astronaut.png" in found["train"]
