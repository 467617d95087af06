"""The command `paramattr blindsr modulate` and what it is made of, on tiny crops."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from blind_sr.data.images import read_image, write_image
from blind_sr.data.measures import psnr
from blind_sr.data.photographs import load_photographs
from blind_sr.models.networks import build
from blind_sr.modulate.experiment import STRENGTHS
from blind_sr.modulate.report import _most_changed
from blind_sr.restore import experiment as restoring
from blind_sr.restore.tiles import restore_whole
from paramattr import FAIG, Scores, Selection, UnitIndex, contrast, modulate, substitute
from tests.command_line import answer, refusal, study
from tests.kills import writes

from .made_up import write_photographs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 2, (20, 30), coarse=10)


@pytest.fixture(scope="module")
def some(pair):
    """Select one filter in twenty."""
    index = UnitIndex.of(pair.target, "kernel")
    return Selection(index, torch.arange(len(index)) % 20 == 0)


@pytest.fixture(scope="module")
def selection(some, tmp_path_factory):
    file = tmp_path_factory.mktemp("selection") / "some.safetensors"
    some.save(file)
    return file


@pytest.fixture(scope="module")
def modulated(folder, selection, tmp_path_factory):
    """Modulate the selection: the folder of it, and what it printed."""
    out = tmp_path_factory.mktemp("modulated")
    words = ("--images", folder, "--crop", 8, "--selection", selection, "--filters", "noise")
    return out, answer(study, "modulate", *words, "--out", out)


def test_what_is_printed_is_written_as_json_csv_filters_and_figure(modulated, some):
    out, result = modulated
    assert json.loads((out / "modulate.json").read_text()) == result
    assert result["selected"] == len(some)
    assert result["pct"] == pytest.approx(5, abs=1e-3)
    with (out / "psnr.csv").open() as file:
        read = [float(row["psnr"]) for row in csv.DictReader(file)]
    assert read == [row["psnr"] for row in result["rows"]]
    assert Selection.load(out / "noise_filters.safetensors") == some
    assert read_image(out / "modulate.png").shape[0] == 3
    assert not (out / "running").exists()


def test_psnr_is_that_of_the_modulated_models(modulated, folder, some, pair):
    rows, photographs = modulated[1]["rows"], load_photographs(folder, crop=8)
    assert [row["strength"] for row in rows] == [*STRENGTHS, *STRENGTHS]
    assert list(STRENGTHS) == pytest.approx([k * 1.5 / 15 for k in range(16)])
    assert {row["filters"] for row in rows} == {"noise"}
    found = {(row["strength"], row["input"]): row["psnr"] for row in rows}
    for strength in (0.0, 0.4, 1.0, 1.5):
        model = modulate(pair.target, pair.baseline, some, strength)
        for condition in ("blur", "noise"):
            with torch.no_grad():
                values = [
                    psnr(model(low), high).item() for low, high in photographs.pairs(condition)
                ]
            assert found[strength, condition] == pytest.approx(sum(values) / 2, abs=1e-4)
    assert len({round(value, 3) for value in found.values()}) > 16


def test_filters_are_found_on_the_photographs(folder, pair, tmp_path):
    words = ("--images", folder, "--crop", 8, "--steps", 1, "--pct", 3, "--out", tmp_path)
    with writes("*/running/*", killed_at=6):
        assert study("modulate", *words)[0] == 130
    with writes("*/running/*") as kept:
        code, out, err = study("modulate", *words)
    assert (code, err, len(kept)) == (0, "", 1)  # it goes on with the fourth, its last
    assert "Strength of the deblurring filters" in out
    assert "PSNR" in out
    assert max(map(len, out.splitlines())) <= 80
    photographs = load_photographs(folder, crop=8)
    blur, noise = (
        FAIG(pair.target, pair.baseline).score(
            photographs.pairs(condition), reducer="kernel", n_steps=1
        )
        for condition in ("blur", "noise")
    )
    found = Selection.load(tmp_path / "blur_filters.safetensors")
    assert found == contrast(blur, noise).top(fraction=0.03)


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "low.png"
    write_image(torch.rand(3, 13, 7, generator=torch.Generator().manual_seed(0)), file)
    return file


def test_an_image_is_restored_whole(image, selection, some, pair, tmp_path):
    file = tmp_path / "made" / "restored.png"
    words = (image, "--selection", selection, "--strength", 1.2, "--out", file)
    assert answer(study, "restore", *words) == {
        "output": str(file),
        "width": 14,
        "height": 26,
        "filters": "blur",
        "strength": 1.2,
        "selected": len(some),
    }
    with torch.no_grad():
        expected = modulate(pair.target, pair.baseline, some, 1.2)(read_image(image)[None] / 255)
    difference = read_image(file).float() - expected[0].mul(255).clamp(0, 255)
    assert difference.abs().max() < 0.51


def test_without_a_name_the_image_is_called_after_filters_and_strength(image, selection, tmp_path):
    words = ("restore", image, "--selection", selection, "--strength", 1.2, "--filters", "noise")
    code, out, _ = study(*words, folder=tmp_path)
    assert code == 0
    assert "low_noise_1.2.png: 14x26 pixels" in out
    assert {path.name for path in tmp_path.iterdir()} == {"low.png", "low_noise_1.2.png"}


def test_the_old_options_for_an_image_still_work_and_one_says_what_it_became(
    image, selection, tmp_path
):
    words = (image, "--selection", selection, "--strength", 1.2)
    ran = partial(study, folder=tmp_path)
    assert ran("restore", *words, "--out", "new.png")[0] == 0
    assert ran("restore", *words, "--output", "old_name.png")[0] == 0
    code, out, err = ran("modulate", "--image", *words, "--output", "old.png")
    assert (code, out, err.count("\n")) == (0, "old.png: 14x26 pixels\n", 1)
    assert "'paramattr blindsr restore FILE'" in err
    new, *old = ((tmp_path / f"{name}.png").read_bytes() for name in ("new", "old_name", "old"))
    assert old == [new, new]


def test_strengths_0_and_1_are_the_masked_and_the_plain_target(some, pair, tmp_path):
    low = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for strength, model in (
        (0.0, substitute(pair.target, pair.baseline, some)),
        (1.0, pair.target),
    ):
        restoring.restore_file(pair, low, some, strength, tmp_path / "restored.png")
        write_image(restore_whole(model, low)[0], tmp_path / "expected.png")
        restored, expected = (tmp_path / f"{n}.png" for n in ("restored", "expected"))
        assert torch.equal(read_image(restored), read_image(expected))


@pytest.mark.parametrize("name", ["srresnet", "srcnn", "two-branch"])
def test_tiles_give_what_the_whole_image_gives(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {} if name == "srcnn" else {"features": 4, "blocks": 2}
        small = {"widths": (4, 4)} if name == "srcnn" else small
        model = type(build(name))(**small).eval().double()
        low = torch.rand(1, 3, 29, 41, dtype=torch.float64)
    for parameter in model.parameters():
        parameter.requires_grad_(False).mul_(1.5)
    whole = model(low)
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape))
    for tile in (5, 13, 64):
        seen.clear()
        torch.testing.assert_close(restore_whole(model, low, tile=tile), whole)
        tiles = -(-29 // tile) * -(-41 // tile)
        assert len(seen) == (1 if name == "two-branch" else tiles)
    sizes = [max(shape[-2:]) for shape in seen]
    assert max(sizes) <= 64


def test_memory_does_not_grow_with_the_image():
    model = build("srresnet").eval()
    largest = []

    def small(given):
        largest.append(given.shape[-2] * given.shape[-1])
        return given.repeat_interleave(2, -1).repeat_interleave(2, -2)

    model.forward = small
    low = torch.rand(1, 3, 700, 900)
    found = restore_whole(model, low)
    assert torch.equal(found, low.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert max(largest) < (256 + 2 * 40) ** 2
    assert len(largest) == 12


def test_the_photograph_that_changes_most_is_shown():
    still, moving = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    outputs = {
        0.0: {"blur": [still, still], "noise": [moving, still]},
        1.5: {"blur": [still, moving], "noise": [still, still]},
    }
    assert _most_changed(outputs, "blur") == 1
    assert _most_changed(outputs, "noise") == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--filters", "rain"], "--filters"),
        (["--pct", "0"], "pct is 0"),
        (["--steps", "0"], "n_steps=0"),
        (["--quadrature", "monte_carlo"], "'monte_carlo'"),
        (["--network", "vgg"], "--network"),
        (["--weights", "/no/such/folder"], "/no/such/folder"),
        (["--images", "/no/such/folder"], "/no/such/folder is not there"),
        (["--selection", "/no/such/file"], "/no/such/file is not there"),
        (["--selection", "SCORES"], "holds scores: expected a selection"),
        (["--selection", "OTHER"], "the selection is of another model"),
        (["--selection", "EMPTY"], "is empty: expected at least one filter"),
        (["--crop", "500"], "is too small"),
        (["--device", "toaster"], "device 'toaster'"),
        (["--out", "/proc/none"], "/proc/none"),
        (["--strength", "1"], "--strength is given without an image"),
        (["--output", "a.png"], "--output is given without an image"),
        (["--image", "IMAGE"], "strength is None"),
        (["--image", "IMAGE", "--strength", "nan"], "strength is nan"),
        (["--image", "none.png", "--strength", "1"], "image none.png is not there"),
        (["--image", "IMAGE", "--strength", "1", "--output", "a.txt"], "does not end as an image"),
        (["--image", "IMAGE", "--strength", "1", "--output", "IMAGE"], "is the input itself"),
        (["--image", "IMAGE", "--strength", "1", "--output", "FOLDER.png"], "is a folder"),
        (["--image", "IMAGE", "--strength", "1", "--output", "/proc/x/a.png"], "/proc/x"),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(
    words, expected, folder, pair, tmp_path, no_work, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("FOLDER.png").mkdir()
    index = UnitIndex.of(pair.target, "kernel")
    Scores(index, torch.zeros(len(index))).save("SCORES")
    Selection(index, torch.zeros(len(index), dtype=torch.bool)).save("EMPTY")
    other = UnitIndex.of(build("srcnn"), "kernel")
    Selection(other, torch.ones(len(other), dtype=torch.bool)).save("OTHER")
    image = str(folder / "photograph0.png")
    words = [image if word == "IMAGE" else word for word in words]
    own = [] if "--images" in words else ["--images", folder]
    own += [] if "--crop" in words else ["--crop", 8]
    assert expected in refusal(study, "modulate", *own, *words)
