"""`paramattr blindsr reproduce`: its steps, its page, and all of it on small networks."""

import copy
import json
import re
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from blind_sr.data.images import read_image
from blind_sr.data.measures import PLANES
from blind_sr.labels import FUNCTIONS, MASKS
from blind_sr.options import Dtype
from blind_sr.reproduce import paper
from blind_sr.reproduce.page import BY_HAND, PICTURES, page, write
from blind_sr.reproduce.step import Step, digest
from blind_sr.reproduce.steps import EXPERIMENTS, steps
from blind_sr.reproduce.steps import QUICK as SIZE
from blind_sr.reproduce.summary import BEGINS
from blind_sr.reproduce.tables import METHODS
from paramattr.errors import CheckpointError, DataError
from tests.command_line import refusal
from tests.command_line import study as run
from tests.kills import writes

from .made_up import SMALL, write_pair, write_photographs
from .test_killed import COMMAND, finish, kill_when, start

pytestmark = pytest.mark.usefixtures("one_thread", "small")

NONE = dict.fromkeys(("images", "train", "fit", "test"))
QUICK = ("reproduce", "--quick", "--crop", 8, "--predict-crop", 8, "--points", 3)
QUICK += ("--retrain-iterations", 2, "--train-iterations", 2, "--batch-size", 2)
COMMANDS = ("mask", "compare", "retrain", "predict-self", "predict-truth")
COMMANDS += ("modulate-blur", "modulate-noise")
NAMES = [f"{network}-{command}" for network in ("srresnet", "srcnn") for command in COMMANDS]
NAMES.append("two-branch-train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of two small pairs, and photographs, in one folder."""
    folder = tmp_path_factory.mktemp("pairs")
    for network in ("srresnet", "srcnn"):
        write_pair(folder, network, SMALL[network])
    return write_photographs(folder, 3, (128, 132), coarse=16)


def folders_of(folder):
    names = ("images", "train", "fit", "test", "weights")
    return [word for name in names for word in (f"--{name}", folder)]


def test_the_whole_study_in_small(folder, tmp_path):
    words = (*QUICK, *folders_of(folder), "--out", tmp_path / "out")
    code, _, err = run(*words, "--page", tmp_path / "docs" / "page.md")
    assert code == 0, err
    text = (tmp_path / "docs" / "page.md").read_text()
    for heading in ("Table 1", "SRResNet", "SRCNN-style", "Table 2", "Table 3", "departs"):
        assert heading in text
    pictures = re.findall(r"\]\((.+?\.png)\)", text)
    assert len(pictures) == len(set(pictures)) == 2 * len(PICTURES)
    for picture in pictures:
        assert read_image(tmp_path / "docs" / picture).float().std() > 10, picture
    for network in ("srresnet", "srcnn"):
        result = json.loads((tmp_path / "out" / f"{network}-mask" / "result.json").read_text())
        [row] = [
            r
            for r in result["rows"]
            if (r["method"], r["mask"], r["input"]) == ("faig-no-contrast", "noise", "blur")
        ]
        assert f"{row['difference_x1000']:.2f}" in text
    psnr = json.loads((tmp_path / "out" / "two-branch-train" / "branches.json").read_text())
    assert f"{psnr['networks']['one-branch']['psnr']['both']:.2f}" in text

    # A second run computes nothing anew.
    made = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert run(*words, "--page", tmp_path / "docs" / "page.md")[0] == 0
    assert (tmp_path / "docs" / "page.md").read_text() == text
    again = {f for f, time in made.items() if f.stat().st_mtime_ns != time}
    assert again == {tmp_path / "out" / "results.json"}


@dataclass(frozen=True)
class Config:
    number: int
    out: Path = Path()


def test_a_step_is_run_once_and_goes_on_in_its_folder(tmp_path):
    calls = []

    def command(config):
        calls.append((config.number, sorted(path.name for path in config.out.iterdir())))
        (config.out / "half").touch()
        if len(calls) == 1:
            raise KeyboardInterrupt
        (config.out / "result.json").write_text(json.dumps({"number": config.number}))
        return {"number": config.number}

    step = Step("step", command, Config(3), "result.json")
    with pytest.raises(KeyboardInterrupt):
        step.run(tmp_path)
    assert step.run(tmp_path) == step.run(tmp_path) == {"number": 3}
    other = Step("step", command, Config(4), "result.json")
    with pytest.raises(CheckpointError, match="number differs: 3 there, 4 here"):
        other.run(tmp_path)
    exchanged = Step("step", command, Config(3), "result.json", contents={"images": "ab"})
    with pytest.raises(CheckpointError, match="contents of images differs"):
        exchanged.run(tmp_path)
    assert step.run(tmp_path) == {"number": 3}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "result.json").touch()
    for content in (None, "{", "[1]"):
        if content is not None:
            (tmp_path / "foreign" / "options.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"no run of the study.*give another folder"):
            Step("foreign", command, Config(3), "result.json").run(tmp_path)
    stamp = ["options.json"]
    assert calls == [(3, stamp), (3, ["half", *stamp])]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "expected one of --quick"),
        (("--quick", "--full"), "expected one of --quick"),
        (("--quick", "--methods", "faig,random"), "expected all of the paper's"),
        (("--quick", "--methods", "nonsense"), "nonsense"),
        (("--quick", "--test", "nowhere"), "nowhere"),
        (("--quick", "--train", "nowhere"), "nowhere"),
        (("--quick", "--weights", "nowhere"), "holds no pair of the study"),
        (("--quick", "--skip", "srcnn-nonsense"), "expected some of srresnet-mask"),
        (("--quick", "--skip", "srresnet-mask"), "uses the results of 'srresnet-mask'"),
        (("--quick", "--skip", ",".join(NAMES)), "expected one or more to run"),
        (("--quick", "--device", "nowhere"), "device 'nowhere' cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    words, expected, folder, tmp_path, no_work, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    weights = () if "--weights" in words else ("--weights", folder)
    assert expected in refusal(run, "reproduce", *words, *weights)
    assert not list(tmp_path.iterdir())


def as_in_the_paper():
    """Results that say what the paper says."""
    masked = [
        {
            "mask": f,
            "input": f,
            "pct": p,
            "method": m,
            **{f"difference{plane}_x1000": v for plane in PLANES},
            **{f"{end}{plane}": v for plane in PLANES for end in ("low", "high")},
        }
        for (f, p), values in paper.TABLE_2.items()
        for m, v in values.items()
    ]
    retrained = [
        {"input": i, "method": m, "filters": f, "psnr": value, "seed": 0}
        for i, values in paper.TABLE_3.items()
        for (m, f), value in values.items()
    ]
    shown = {"images": ["a"], "crop": 8, "steps": 4, "quadrature": "gausslegendre"}
    plain = [
        {"method": m, "mask": f, "input": i, "difference_x1000": 1.0, "difference_blue_x1000": 2.0}
        for m in ("faig", "faig-no-contrast")
        for f in FUNCTIONS
        for i in MASKS
    ]
    selective = [
        {"method": "faig", "mask": f, "fraction": 0.01, "value": 5.0, "value_blue": None}
        for f in FUNCTIONS
    ]
    predicted = {
        "accuracy": {"blur": 0.99, "noise": 0.99},
        "thresholds": {"blur": 0.2, "noise": 0.3},
        "confusion": {"blur": {"blur": 3, "none": 0}},
        "counts": {"find": 1, "fit": 1, "test": 1, "repeated": 0},
        "crop": 8,
        "steps": 4,
    }
    modulated = [{"input": f, "strength": s, "psnr": 20 + s} for f in FUNCTIONS for s in (0.0, 1.0)]
    psnr = {
        branch: {"parameters": 5, "psnr": dict.fromkeys(("clean", "blur", "noise", "both"), 20.0)}
        for branch in ("one-branch", "two-branch")
    }
    return {
        "srresnet-mask": {**shown, "rows": plain, "depth": {"blur": 0.8, "noise": 0.6}},
        "srresnet-compare": {**shown, "rows": masked, "selectivity": selective},
        "srresnet-retrain": {
            "rows": retrained,
            "baseline": {"blur": 24.0, "noise": 20.0},
            "iterations": 5,
            "seeds": 1,
            "recipe": {"batch-size": 4, "crop": 8, "steps": 4},
            "images": {"train": ["a"], "test": ["a"]},
        },
        "srresnet-predict-self": {**predicted, "mode": "self"},
        "srresnet-predict-truth": {**predicted, "mode": "truth"},
        **{f"srresnet-modulate-{f}": {**shown, "filters": f, "rows": modulated} for f in FUNCTIONS},
        "two-branch-train": {"iterations": 5, "networks": psnr},
    }


def departures(results):
    return page(results, {}, []).split("## Where this departs from the paper\n\n")[1].strip()


def test_the_papers_own_figures_depart_nowhere():
    assert departures(as_in_the_paper()) == "Nowhere in sign."


def swapped(key, results):
    rows = {r["method"]: r for r in results["srresnet-compare"]["rows"][:4]}
    rows["faig"][key] = rows["ig-no-contrast"][key] / 2


def ahead(results):
    for row in results["srresnet-retrain"]["rows"]:
        if (row["input"], row["method"], row["filters"]) == ("noise", "random", "blur"):
            row["psnr"] = 26.243


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        *(
            (
                partial(swapped, key),
                f"SRResNet: Table 2, blurry, 1%, {plane}: the order is modified IG, no contrast "
                "(the paper's), FAIG, |change|, random",
            )
            for key, plane in (("difference_x1000", "grey"), ("difference_blue_x1000", "blue"))
        ),
        (ahead, "random's deblurring filters gain most, 0.50 dB more than FAIG's denoising"),
        (
            lambda r: r["srresnet-mask"]["depth"].update(blur=0.5),
            "Figure 4: deblurring filters do not lie deeper",
        ),
        (
            lambda r: r["srresnet-predict-truth"].update(accuracy={"blur": 0.9, "noise": 0.99}),
            "Prediction with the ground truth: 90.0% for blurry inputs",
        ),
        (
            lambda r: r["two-branch-train"]["networks"]["one-branch"]["psnr"].update(both=19.5),
            "Table 1: one branch is behind two by 0.50 dB (blurry and noisy input)",
        ),
    ],
)
def test_each_departure_is_said(change, expected):
    results = copy.deepcopy(as_in_the_paper())
    change(results)
    said = departures(results).splitlines()
    assert len(said) == 1
    assert expected in said[0]


def test_the_gain_and_the_ratios_are_those_of_the_rows():
    text = page(as_in_the_paper(), {}, [])
    assert "+1.20 dB here, +1.20 dB in the paper" in text
    assert "+0.54 dB here, +0.54 dB in the paper" in text
    for plane in ("grey", "blue"):
        assert text.count(f"| here, {plane} | 1.5 | 37.1 | 95.4 |") == 1
    assert METHODS[0] == "faig"


def test_the_page_begins_with_what_holds_by_both_measures():
    results = as_in_the_paper()
    swapped("difference_x1000", results)
    results["srresnet-mask"]["rows"][1]["difference_blue_x1000"] = 7.125
    title, begins, lines = page(results, {}, ["facts"]).split("\n\nfacts")[0].split("\n\n")
    assert (title, begins) == ("# Reproduction", BEGINS)
    said = dict(line[2:].split(": ", 1) for line in lines.splitlines())
    assert len(said) == len(lines.splitlines()) == 10
    order = said["The paper's order of the four methods, Tab. 2"]
    assert order == "SRResNet in 3 of 4 cells in grey and in 4 of 4 cells in blue."
    lead = said["FAIG over modified IG, 1% masked"]
    assert lead.startswith("SRResNet deblurring 0.5 grey, 1.5 blue, paper 1.5 / denoising 1.6 grey")
    own = said["Own input over the other, FAIG's 1% masked"]
    assert own == "SRResNet deblurring 5.0 grey / denoising 5.0 grey."
    noisy = said["What FAIG's 1% of deblurring filters do to the noisy input, contrast"]
    assert noisy == "SRResNet 1.00 with it, 1.00 without (grey), 7.12 with it, 2.00 without (blue)."
    gain = said["Gain of FAIG's 1% retrained over random ones, Tab. 3"]
    assert (
        gain == "SRResNet blurry input +1.20 dB, most of all / noisy input +0.54 dB, most of all."
    )
    ahead(results)
    assert "noisy input -0.50 dB, not most of all" not in page(results, {}, [])
    assert "noisy input +0.54 dB, not most of all" in page(results, {}, [])


def test_only_what_is_there_is_laid_out():
    results = as_in_the_paper()
    del results["srresnet-retrain"]
    text = page(results, {}, [], left_out=["srresnet-retrain"])
    assert "Table 2" in text
    assert "Table 3" not in text
    assert "Left out here: `srresnet-retrain`." in text
    assert "Nowhere in sign, as far as it was run." in text
    one = {"two-branch-train": results["two-branch-train"]}
    assert "Not run yet: `srresnet-mask`." in page(one, {}, [], missing=["srresnet-mask"])


@pytest.fixture
def study(folder, tmp_path, monkeypatch):
    """Run the command with steps that are done at once, up to one that fails.

    Gives the names of the steps that began, the page, and what went to stderr.
    """
    results = as_in_the_paper()
    results |= {name.replace("srresnet", "srcnn"): own for name, own in results.items()}
    every = steps(["srcnn"], SIZE, NONE, folder, "cpu", tmp_path)
    files = {file for step in every for file in (step.result, *step.figures.values())}
    page = tmp_path / "page.md"

    def study(*words, fails=None, page=page):
        begun = []

        def at_once(config):
            out = config.out
            begun.append(out.name)
            if out.name == fails:
                raise DataError("it fails")
            for file in files:
                (out / file).write_text(json.dumps(results[out.name]))
            return results[out.name]

        for name in EXPERIMENTS:
            monkeypatch.setitem(EXPERIMENTS, name, at_once)
        words = ("reproduce", *words, "--weights", folder, "--out", tmp_path / "out")
        code, _, err = run(*words, *(() if page is None else ("--page", page)))
        assert code == (2 if err else 0)
        page = page or tmp_path / "out" / "reproduction.md"
        return begun, page.read_text() if page.exists() else "", err

    return study


def test_the_page_is_written_after_every_step_and_names_those_to_come(study, tmp_path):
    begun, text, err = study("--quick", fails="srresnet-retrain")
    assert "it fails" in err
    assert begun == NAMES[:3]
    assert "Not run yet: " + ", ".join(f"`{name}`" for name in NAMES[2:]) + "." in text
    assert "### Table 2" in text
    assert "### Table 3" not in text
    assert text.count(".png)") == 5
    (tmp_path / "page.md").write_text(f"{text}\n{BY_HAND}\n\nTried.\n")
    begun, text, _ = study("--quick")
    assert begun == NAMES[2:]
    assert "Not run yet" not in text
    assert "Left out here" not in text
    assert text.endswith(f"\n\n{BY_HAND}\n\nTried.\n")
    assert "### Table 3" in text
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())) == NAMES
    assert not list(tmp_path.glob("*.partial"))


def test_without_a_page_it_is_among_the_results_and_a_clone_is_left_alone(
    study, tmp_path, monkeypatch
):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "reproduction.md").write_text("committed\n")
    monkeypatch.chdir(tmp_path)
    text = study("--quick", page=None)[1]
    pictures = re.findall(r"\]\((.+?\.png)\)", text)
    assert len(pictures) == 2 * len(PICTURES)
    assert all((tmp_path / "out" / picture).is_file() for picture in pictures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "out"]
    assert [path.read_text() for path in (tmp_path / "docs").iterdir()] == ["committed\n"]


def test_what_is_skipped_is_not_run_and_said(study):
    skipped = [name for name in NAMES if "predict" in name]
    begun, text, _ = study("--quick", "--skip", ", ".join(skipped))
    assert begun == [name for name in NAMES if name not in skipped]
    assert "Left out here: " + ", ".join(f"`{name}`" for name in skipped) + "." in text
    assert f"--skip {','.join(skipped)}`" in text
    assert "Not run yet" not in text
    assert "Degradation prediction" not in text
    assert "thresholds fitted on" not in text
    assert "trained on" in text


def test_what_is_finished_comes_first_and_another_run_is_refused_before_the_work(study, tmp_path):
    before = ",".join(name for name in NAMES if not name.startswith("srcnn"))
    assert study("--quick", "--skip", before, fails="srcnn-retrain")[0] == NAMES[7:10]
    begun, text, _ = study("--quick", fails="srresnet-mask")
    assert begun == NAMES[:1]
    assert "## SRCNN-style\n" in text
    stamp = tmp_path / "out" / "srcnn-compare" / "options.json"
    made = json.loads(stamp.read_text())
    made["contents of weights"] = "others"
    stamp.write_text(json.dumps(made))
    begun, _, err = study("--quick")
    assert begun == []
    assert "contents of weights differs" in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--quick",), ["Table 1 after 10 iterations of", "Table 3 after 10 iterations of"]),
        (
            ("--quick", "--retrain-iterations", 1),
            ["Table 1 after 10", "Table 3 after 1 iteration of"],
        ),
        (("--quick", "--retrain-iterations", 100), ["Table 1 after"]),
        (("--quick", "--train-iterations", 100), ["Table 3 after"]),
        (("--quick", "--skip", "two-branch-train"), ["Table 3 after"]),
        (("--quick", "--skip", "srresnet-retrain,srcnn-retrain"), ["Table 1 after"]),
        (("--full",), []),
    ],
)
def test_trainings_that_are_too_short_are_named(words, said, study):
    facts = study(*words)[1].split("\n## ")[0]
    assert len(re.findall(r"Table \d after", facts)) == len(said)
    assert all(one in facts for one in said)
    assert ("A look, not a measurement" in facts) == bool(said)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cpu", "on a CPU:"),
        ("mps", "on mps:"),
        ("xpu:0", "on xpu:0:"),
        ("cuda", "on A (CUDA 9.1):"),
    ],
)
def test_the_device_is_named(device, said, study, monkeypatch):
    monkeypatch.setattr("blind_sr.reproduce.experiment.check_device", lambda device: device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A")
    monkeypatch.setattr(torch.version, "cuda", "9.1")
    text = study("--quick", "--device", device)[1]
    assert said in text
    assert (f"--device {device}" in text) == (device != "cpu")


@pytest.mark.parametrize("dtype", Dtype)
def test_the_precision_reaches_what_attributes_and_the_page(dtype, study):
    made = steps(["srresnet"], SIZE, NONE, None, "cpu", Path("out"), dtype.value)
    given = {step.name.removeprefix("srresnet-"): step.stamp.get("dtype") for step in made}
    taken = ("mask", "compare", "predict-self", "predict-truth", "modulate-blur", "modulate-noise")
    assert {name for name, own in given.items() if own == dtype.value} == set(taken)
    text = study("--quick", "--dtype", dtype.value)[1]
    assert (f"--dtype {dtype.value}" in text) == (dtype is not Dtype.float32)


def test_one_is_no_plural():
    results = as_in_the_paper()
    for result in results.values():
        for own in (result, result.get("recipe", {})):
            own.update({key: 1 for key in ("iterations", "steps", "seeds") if key in own})
    text = page(results, {}, [])
    assert "1 iteration each" in text
    assert "1 iteration of batch 4, 1 repetition;" in text
    assert not re.search(r"\b1 (\w+ )?(iteration|photograph|node|repetition)s", text)


def test_tables_say_what_they_were_measured_on():
    text = page(as_in_the_paper(), {}, [])
    where = "1 photograph, middle 8 x 8 low-resolution pixels, 4"
    assert f"Filters found and PSNR measured on {where} nodes; trained on 1 photograph." in text
    modulated = [line for line in text.splitlines() if line.startswith("Modulating")]
    assert len(modulated) == 2
    assert all(line.endswith(f" {where} gausslegendre nodes.") for line in modulated)


def test_a_step_that_is_killed_at_its_stamp_begins_anew(tmp_path):
    def command(config):
        (config.out / "result.json").write_text("{}")
        return {}

    step = Step("step", command, Config(3), "result.json")
    with writes("*", killed_at=1), pytest.raises(KeyboardInterrupt):
        step.run(tmp_path)
    assert step.run(tmp_path) == {}


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "page.md"
    write(file, "old\n")

    with writes("*", killed_at=1), pytest.raises(KeyboardInterrupt):
        write(file, "new\n")
    assert file.read_text() == "old\n"


def test_what_was_written_by_hand_stays(tmp_path):
    file = tmp_path / "page.md"
    write(file, "made\n")
    assert file.read_text() == "made\n"
    file.write_text(f"made\n\n{BY_HAND}\n\n## Tried\n")
    for _ in range(2):
        write(file, "anew\n")
        assert file.read_text() == f"anew\n\n{BY_HAND}\n\n## Tried\n"


def test_a_crop_of_0_is_whole_photographs():
    results = as_in_the_paper()
    for result in results.values():
        for own in (result, result.get("recipe", {})):
            if "crop" in own:
                own["crop"] = 0
    text = page(results, {}, [])
    assert "0 x 0" not in text
    measured = [line for line in text.splitlines() if " node" in line]
    assert len(measured) == 7
    assert all("whole photograph" in line for line in measured)
    assert text.count("1 whole photograph, ") == 5  # the others are predictions


def test_the_stamp_knows_the_content_of_files(folder):
    folders = dict.fromkeys(("images", "train", "fit", "test"), folder)

    def contents():
        every = steps(["srresnet"], SIZE, folders, folder, "cpu", folder / "out")
        return {step.name: dict(step.contents) for step in every}

    before = contents()
    assert set(before["srresnet-retrain"]) == {"images", "find", "weights"}
    assert set(before["two-branch-train"]) == {"images"}
    for name, keys in (
        ("photograph0.png", {"images"}),
        ("srresnet_target.safetensors", {"weights"}),
    ):
        file = folder / name
        content = file.read_bytes()
        file.write_bytes(content + b"0")
        try:
            after = contents()["srresnet-mask"]
        finally:
            file.write_bytes(content)
        assert {k for k, value in before["srresnet-mask"].items() if after[k] != value} == keys
    assert contents() == before


def test_a_folder_is_read_once_for_all_steps(folder, monkeypatch):
    read = []

    def counting(files):
        read.append(files)
        return digest(files)

    monkeypatch.setattr("blind_sr.reproduce.steps.digest", counting)
    folders = dict.fromkeys(("images", "train", "fit", "test"), folder)
    steps(["srresnet", "srcnn"], SIZE, folders, folder, "cpu", folder / "out")
    assert len(read) == len(set(read)) == 3  # the photographs and two pairs


def test_a_digest_knows_names_and_bytes(tmp_path):
    a, b, other = (tmp_path / name for name in ("a", "b", "other/a"))
    other.parent.mkdir()
    for file, content in ((a, b"1"), (b, b"1"), (other, b"2")):
        file.write_bytes(content)
    assert len({digest(files) for files in ([], [a], [b], [other], [a, b], [b, a])}) == 6
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png cannot be read"):
        digest([a, tmp_path / "folder.png"])


def test_a_missing_folder_of_photographs_is_named(folder):
    folders = {**dict.fromkeys(("images", "train", "test"), folder), "fit": Path("nowhere")}
    with pytest.raises(DataError, match="nowhere"):
        steps(["srresnet"], SIZE, folders, folder, "cpu", Path("out"))


@pytest.mark.slow
def test_the_study_goes_on_after_sigkill_to_the_same_results(folder, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code = COMMAND.replace(
        'networks.NETWORKS["srresnet"] = ',
        'networks.NETWORKS["two-branch"] = partial(networks.TwoBranch, features=4, blocks=1)\n'
        'networks.NETWORKS["srcnn"] = partial(networks.SRResNet, features=4, blocks=2)\n'
        'networks.NETWORKS["srresnet"] = ',
    )

    def begin(out):
        return start(*QUICK, *folders_of(folder), "--out", out, "--page", out / "p.md", code=code)

    first = begin(whole)
    for place in ("srresnet-compare/running", "srcnn-retrain/trainings", "two-branch-train"):
        killed = begin(broken)
        kill_when(lambda place=place: (broken / place).exists(), killed)
        assert killed.returncode == -signal.SIGKILL
        assert not (broken / "results.json").exists()
    finish(begin(broken))
    finish(first)
    results = [json.loads((out / "results.json").read_text()) for out in (whole, broken)]
    for result in results:
        for function in FUNCTIONS:
            for network in ("srresnet", "srcnn"):
                result[f"{network}-modulate-{function}"].pop("selection")  # a path
    assert results[0] == results[1]
