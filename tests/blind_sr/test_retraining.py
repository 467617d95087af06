"""Tab. 3, `paramattr blindsr retrain`: on a small network and tiny photographs."""

import csv
import json
import statistics
import sys
from functools import partial

import pytest
import torch

from blind_sr.data.degradations import degrade
from blind_sr.data.images import read_image, write_image
from blind_sr.data.measures import psnr
from blind_sr.labels import METHODS
from blind_sr.models import networks
from blind_sr.models.networks import SRResNet
from blind_sr.retrain import experiment, trainings
from blind_sr.retrain.report import summary, tables
from blind_sr.training import trainer as training
from paramattr import Selection, load_state_dict, random_scores
from paramattr.checkpoints import load_tensors
from paramattr.cli import main
from paramattr.errors import ParamattrError

from .made_up import write_pair, write_photographs

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = partial(SRResNet, features=4, blocks=1)
WORDS = ("--pct", 10, "--iterations", 4, "--batch-size", 2, "--patch", 16, "--crop", 12)
ROW_KEYS = {"method", "filters", "input", "psnr", "seed"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "srresnet", SMALL)
    monkeypatch.setattr(training, "draw_curves", lambda *arguments: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a small pair, and photographs, in one folder."""
    folder = tmp_path_factory.mktemp("pair")
    write_pair(folder, "srresnet", SMALL)
    return write_photographs(folder, 2, (44, 40))


@pytest.fixture
def run(folder, monkeypatch, capsys):
    def run(*words, images=True):
        given = ["--images", folder, "--find", folder] if images else []
        words = ["retrain", "--weights", folder, *given, "--steps", 2, *words]
        monkeypatch.setattr(sys, "argv", ["paramattr", "blindsr", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def test_a_negative_zero_stays_one_in_a_longer_training(folder, run, tmp_path):
    # From the ninth iteration on the average keeps over half of itself, which rounds otherwise.
    words = [12 if word == 4 else word for word in WORDS]
    code, _, err = run(*words, "--methods", "random", "--out", tmp_path)
    assert code == 0, err
    state = load_state_dict(tmp_path / "trainings" / "random_blur_noise_on_blur_0.safetensors")
    assert state["conv_first.bias"][0] == 0
    assert torch.signbit(state["conv_first.bias"][0])


def no_work(*arguments, **options):
    raise AssertionError("the work began")


def test_rows_files_and_what_was_trained(folder, run, tmp_path):
    words = (*WORDS, "--methods", "faig,random", "--seeds", 2, "--out", tmp_path)
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    keys = [(r["method"], r["filters"], r["input"], r["seed"]) for r in result["rows"]]
    columns = [("all", "all"), *((m, f) for m in ("faig", "random") for f in ("blur", "noise"))]
    inputs = [(c, seed) for c in ("blur", "noise") for seed in (0, 1)]
    assert sorted(keys) == sorted((*column, *own) for column in columns for own in inputs)
    assert all(set(row) == ROW_KEYS for row in result["rows"])
    assert result["unchanged"] is True
    assert result["images"]["test"] == ["photograph0", "photograph1"]
    assert json.loads((tmp_path / "retrain.json").read_text()) == result
    with (tmp_path / "retrain.csv").open(newline="") as file:
        assert [float(r["psnr"]) for r in csv.DictReader(file)] == [
            r["psnr"] for r in result["rows"]
        ]
    assert read_image(tmp_path / "retrain.png").float().std() > 10

    # What one selection serves is trained once an input, and nothing is left running.
    files = {path.stem for path in (tmp_path / "trainings").glob("*.safetensors")}
    assert files == {
        f"{name}_on_{condition}_{seed}"
        for name in ("all", "faig_blur", "faig_noise", "random_blur_noise")
        for condition, seed in inputs
    }
    assert not list((tmp_path / "trainings").glob("*.ckpt"))
    assert not (tmp_path / "running").exists()

    # Each training moved its own filters from the baseline on, and no other weight.
    start = load_state_dict(folder / "srresnet_baseline.safetensors")
    for name in files - {f"all_on_{condition}_{seed}" for condition, seed in inputs}:
        method, function, *_, seed = name.split("_")
        number = seed if method == "random" else 0
        chosen = Selection.load(
            tmp_path / "selections" / f"{method}_{function}_{number}.safetensors"
        )
        assert len(chosen) == round(0.1 * len(chosen.index))
        state = load_state_dict(tmp_path / "trainings" / f"{name}.safetensors")
        for parameter, value in start.items():
            changed = state[parameter] != value
            if parameter in chosen.index.labels:
                assert not changed[~chosen.mask(parameter)].any()
            else:
                assert not changed.any()
        assert any((state[p] != v).any() for p, v in start.items())
    state = load_state_dict(tmp_path / "trainings" / "all_on_blur_0.safetensors")
    assert all((state[p] != v).any() for p, v in start.items())

    # Each is a training of its own, on its own input; the upper bound has a rate of its own.
    trained = {}
    for name in files:
        state, made = load_tensors(tmp_path / "trainings" / f"{name}.safetensors")
        assert made["stage"] == name.split("_")[-2]
        assert made["learning_rate"] == (5e-4 if name.startswith("all_") else 2e-3)
        trained[b"".join(state[p].numpy().tobytes() for p in sorted(state))] = name
    assert len(trained) == len(files)

    # PSNR is that of the kept weights on the input they were trained for.
    def measured(state, condition):
        model = SMALL()
        model.load_state_dict(state)
        found = []
        for number in range(2):
            truth = read_image(folder / f"photograph{number}.png")[None, :, 10:34, 8:32] / 255
            draw = torch.Generator().manual_seed(number)
            with torch.no_grad():
                found.append(psnr(model(degrade(truth, condition, draw)), truth).item())
        return statistics.fmean(found)

    for row in result["rows"]:
        kind = {"all": "all", "random": "random_blur_noise"}.get(
            row["method"], f"{row['method']}_{row['filters']}"
        )
        name = f"{kind}_on_{row['input']}_{row['seed']}"
        state = load_state_dict(tmp_path / "trainings" / f"{name}.safetensors")
        assert row["psnr"] == pytest.approx(measured(state, row["input"]), abs=1e-4)
    for condition in ("blur", "noise"):
        assert result["baseline"][condition] == pytest.approx(measured(start, condition), abs=1e-4)
        target = load_state_dict(folder / "srresnet_target.safetensors")
        assert result["target"][condition] == pytest.approx(measured(target, condition), abs=1e-4)


def test_a_repeated_run_trains_nothing_again(run, tmp_path, monkeypatch):
    words = (*WORDS, "--methods", "random", "--out", tmp_path, "--json")
    _, first, _ = run(*words)
    stepped = []
    step = training._Run.step
    monkeypatch.setattr(
        training._Run, "step", lambda self, *batch: (stepped.append(self), step(self, *batch))
    )
    code, again, err = run(*words)
    assert (code, again, err, stepped) == (0, first, "", [])

    code, more, _ = run(*words, "--methods", "absolute-change,random")
    assert len(stepped) == 2 * 4  # one more method, one ranking, two inputs
    assert [r for r in json.loads(more)["rows"] if r["method"] != "absolute-change"] == json.loads(
        first
    )["rows"]

    stepped.clear()
    code, _, err = run(*words, "--pct", 20, "--rate", 1e-3)
    assert (code, stepped) == (2, [])
    assert (
        "pct differs: 10.0 there, 20.0 here; rate differs: 0.002 there, 0.001 here): give the same"
        in err
    )
    assert run(*words, "--pct", 0, "--force")[0] == 2  # a bad option takes nothing away
    assert run(*words)[:2] == (0, first)
    code, _, _ = run(*words, "--pct", 20, "--force")
    assert (code, len(stepped)) == (0, 4 * 4)


def test_another_pair_or_other_photographs_are_another_recipe(folder, run, tmp_path):
    words = (*WORDS, "--methods", "random", "--out", tmp_path)
    run(*words)
    other = tmp_path / "other"
    other.mkdir()
    write_image(torch.rand(3, 44, 44), other / "photograph0.png")
    code, _, err = run(*words, "--images", other)
    assert code == 2
    assert "made with other settings (images differs:" in err
    assert "crop" not in err
    (tmp_path / "recipe.json").write_text("{")
    code, _, err = run(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "recipe.json cannot be read" in err


def test_a_run_killed_between_steps_ends_in_the_same_rows(run, tmp_path, monkeypatch):
    words = (*WORDS, "--methods", "faig", "--json", "--out")
    _, whole, _ = run(*words, tmp_path / "whole")

    class Killed(BaseException):
        pass

    step = training._Run.step
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    for last in ("all_on_noise_0", "faig_blur_on_blur_0", "faig_noise_on_noise_0"):

        def dying(self, *batch, last=last):
            if (self.recipe.name, self.iteration) == (last, 3):
                raise Killed
            step(self, *batch)

        monkeypatch.setattr(training._Run, "step", dying)
        with pytest.raises(Killed):
            run(*words, tmp_path / "broken")
        assert (tmp_path / "broken" / "trainings" / f"{last}.ckpt").exists()
        assert not (tmp_path / "broken" / "trainings" / f"{last}.safetensors").exists()
    stepped = []

    def counting(self, *batch):
        stepped.append((self.recipe.name, self.iteration))
        step(self, *batch)

    monkeypatch.setattr(training._Run, "step", counting)
    _, broken, _ = run(*words, tmp_path / "broken")
    assert broken == whole
    assert stepped == [("faig_noise_on_noise_0", 3)]  # all else was done before


def test_a_changed_bit_outside_the_selection_is_an_error(run, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = SMALL()
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

    # And it is looked at in every training.
    keep = training._Run.keep

    def shifted(self, weights, **metadata):
        self.average.module.state_dict()["conv_hr.bias"].add_(1e-3)
        keep(self, weights, **metadata)

    monkeypatch.setattr(training._Run, "keep", shifted)
    code, out, err = run(*WORDS, "--methods", "random", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert "random_blur_noise_on_blur_0 changed 'conv_hr.bias' outside the selection" in err


def test_what_both_functions_share_is_planned_once():
    torch.manual_seed(0)
    one, other, third = (random_scores(SMALL(), seed=s).top(count=3) for s in range(3))
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


def test_the_table_a_person_sees(run, tmp_path):
    code, out, _ = run(*WORDS, "--iterations", 1, "--out", tmp_path)
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
def test_bad_options_end_in_one_line_before_any_work(words, expected, run, tmp_path, monkeypatch):
    monkeypatch.setattr("blind_sr.rankings.search.find_filters", no_work)
    monkeypatch.setattr(experiment, "restore", no_work)
    out = () if "--out" in words else ("--out", tmp_path / "out")
    code, printed, err = run(*WORDS, *out, *words)
    assert (code, printed) == (2, "")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "out").exists()


def test_few_photographs_are_enough_and_the_bundled_ones_are_the_default(run, tmp_path):
    words = ("--methods", "absolute-change", "--iterations", 1, "--batch-size", 1, "--crop", 8)
    code, out, err = run(*words, "--patch", 16, "--out", tmp_path, images=False)
    assert (code, err) == (0, "")
    assert "a real run wants --images" in out
    found = json.loads((tmp_path / "retrain.json").read_text())["images"]
    assert found["test"] == found["find"]
    assert "astronaut" in found["test"]
    assert "astronaut.png" in found["train"]
