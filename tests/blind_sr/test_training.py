from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from blind_sr.data.degradations import degrade, jpeg
from blind_sr.data.images import read_image, write_image
from blind_sr.data.patches import Patches, hold_out, load_photographs
from blind_sr.models import networks
from blind_sr.training import trainer as training
from blind_sr.training.curves import draw_curves
from blind_sr.training.experiment import TrainConfig
from blind_sr.training.experiment import run as run_training
from blind_sr.training.recipe import Recipe
from blind_sr.training.trainer import train_stage
from paramattr import load_state_dict, random_scores
from paramattr.errors import CheckpointError, DataError, ParamattrError
from tests.kills import calls, writes

from .made_up import SMALL, check_same_training, rows_of

RECIPE = Recipe("srresnet", "target", iterations=7, learning_rate=1e-3, batch_size=2, patch=16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "srresnet", SMALL["srresnet"])
    monkeypatch.setattr(training, "VALIDATE_EVERY", 3)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Take figures down instead of drawing them, which would be most of the time here."""
    found = []
    monkeypatch.setattr(training, "draw_curves", lambda path, rows, title: found.append(len(rows)))
    return found


@pytest.fixture
def photographs():
    draw = torch.Generator().manual_seed(0)
    smooth = nn.functional.interpolate(
        torch.rand(4, 3, 6, 6, generator=draw), size=(40, 48), mode="bicubic"
    )
    return list((smooth * 255).clamp(0, 255).to(torch.uint8))


@pytest.fixture
def held_out(photographs):
    return torch.stack(photographs[:2])[..., :32, :32] / 255


def test_patches_are_pieces_of_the_degraded_photograph(photographs):
    """Blurring a patch with its border is blurring the photograph, then cutting the patch."""
    image = photographs[0]
    whole = {c: degrade(image[None] / 255, c)[0] for c in ("clean", "blur")}
    low, high = Patches([image], side=16, batch_size=24, seed=0, degradation="mixed").batch(0)
    seen = set()
    for one in low:
        for condition, source in whole.items():
            for flip in (source, source.flip(2)):
                for turns in range(4):
                    pieces = flip.rot90(turns, (1, 2)).unfold(1, 8, 1).unfold(2, 8, 1)
                    gap = (pieces - one[:, None, None]).abs().amax((0, 3, 4)).min()
                    if gap <= 1.01 / 255:
                        seen.add(condition)
    assert seen == {"clean", "blur"}
    assert low.shape == (24, 3, 8, 8)
    assert high.shape == (24, 3, 16, 16)


def sources_of(photographs, degradation):
    """Find the degraded photograph nearest to each patch of a batch, and whether it is far off."""
    image = photographs[0]
    whole = {c: degrade(image[None] / 255, c)[0] for c in ("clean", "blur")}
    patches = Patches([image], side=16, batch_size=12, seed=0, degradation=degradation)
    found = []
    for one in patches.batch(3)[0]:
        gaps = {
            condition: min(
                float((pieces - one[:, None, None]).abs().mean((0, 3, 4)).min())
                for flip in (source, source.flip(2))
                for turns in range(4)
                for pieces in [flip.rot90(turns, (1, 2)).unfold(1, 8, 1).unfold(2, 8, 1)]
            )
            for condition, source in whole.items()
        }
        nearest = min(gaps, key=gaps.__getitem__)
        found.append((nearest, gaps[nearest] > 0.02))
    return set(found)


def test_each_degradation_does_what_it_says_to_every_patch(photographs):
    assert sources_of(photographs, "clean") == {("clean", False)}
    assert sources_of(photographs, "blur") == {("blur", False)}
    assert {noisy for _, noisy in sources_of(photographs, "noise")} == {True}
    assert sources_of(photographs, "mixed") >= {("clean", False), ("blur", False)}
    with pytest.raises(ParamattrError, match="'rain' is not known"):
        Patches(photographs, side=16, batch_size=2, seed=0, degradation="rain")


def test_three_degradations_add_jpeg_to_some_patches():
    draw = torch.Generator().manual_seed(0)
    photographs = [torch.randint(256, (3, 64, 64), generator=draw, dtype=torch.uint8)]
    settings = {"side": 32, "batch_size": 60, "seed": 0}
    patches = Patches(photographs, **settings, degradation="three")
    low, high = patches.batch(0)
    clean = Patches(photographs, **settings, degradation="clean")
    assert torch.equal(high, clean.batch(0)[1])
    patches.chances = (0.4, 0.4, 0.0)
    without = patches.batch(0)[0]  # the same draws of blur and noise
    packed = (low != without).flatten(1).any(1)
    assert 0.2 < packed.float().mean() < 0.6
    assert torch.equal(low[packed], jpeg(without[packed]))


def test_noise_is_of_the_sigma_and_blurs_nothing():
    draw = torch.Generator().manual_seed(0)
    photographs = [torch.randint(256, (3, 40, 48), generator=draw, dtype=torch.uint8)]
    settings = {"side": 16, "batch_size": 200, "seed": 0}
    low, high = Patches(photographs, **settings, degradation="noise").batch(0)
    clean, same = Patches(photographs, **settings, degradation="clean").batch(0)
    assert torch.equal(high, same)
    inside = (clean > 0.3) & (clean < 0.7)  # where nearly nothing is clipped
    gap = (low - clean)[inside]
    assert abs(gap.std() - 0.1) < 0.005
    assert abs(gap.mean()) < 0.005


def test_a_batch_depends_on_seed_and_iteration_alone(photographs):
    settings = {"side": 16, "batch_size": 2, "seed": 0, "degradation": "mixed"}
    patches, again = (Patches(photographs, **settings) for _ in range(2))
    patches.batch(0)
    for one, other in zip(patches.batch(5), again.batch(5), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(patches.batch(5)[0], patches.batch(6)[0])


def check_resumes(train, folder, killed):
    """Run whole; end another run and start it again: the weights and rows of both are the same."""
    whole = train(folder / "whole")
    with killed, pytest.raises(KeyboardInterrupt):
        train(folder / "broken")
    broken = train(folder / "broken", resume=True, force=True)
    check_same_training(whole, broken)
    assert [row["iteration"] for row in rows_of(whole)] == ["0", "3", "6", "7"]
    return whole


@pytest.mark.parametrize("iteration", [1, 3, 4, 6])
def test_a_killed_run_resumes_to_the_same_bits(iteration, photographs, held_out, tmp_path):
    killed = calls(Patches, "batch", killed_at=iteration + 1)
    check_resumes(partial(train_stage, RECIPE, photographs, held_out), tmp_path, killed)


def test_a_state_from_before_a_field_was_there_goes_on(photographs, held_out, tmp_path):
    train_stage(RECIPE, photographs, held_out, tmp_path)
    file = tmp_path / "srresnet_target.ckpt"
    state = torch.load(file, weights_only=True)
    for field in ("name", "selection"):
        del state["recipe"][field]
    torch.save(state, file)
    train_stage(RECIPE, photographs, held_out, tmp_path, resume=True)
    other = Recipe(**{**vars(RECIPE), "selection": "another", "name": "srresnet_target"})
    with pytest.raises(CheckpointError, match="selection differs: '' there"):
        train_stage(other, photographs, held_out, tmp_path, resume=True)


@pytest.fixture
def selection():
    torch.manual_seed(0)
    return random_scores(SMALL["srresnet"]()).top(fraction=0.1)


@pytest.fixture(params=["blur", "noise"])
def retrain(request, photographs, selection):
    """Train a selection for a degradation, from weights of its own."""
    torch.manual_seed(0)
    start = SMALL["srresnet"]().state_dict()
    recipe = Recipe("srresnet", request.param, 7, 1e-2, batch_size=2, patch=16, name="own")
    return partial(train_stage, recipe, photographs, None, initial=start, selection=selection)


@pytest.mark.parametrize("iteration", [1, 4, 6, "end"])
def test_retraining_resumes_to_the_same_bits(iteration, retrain, tmp_path):
    killed = (
        writes("*/own.safetensors", killed_at=1)
        if iteration == "end"
        else calls(Patches, "batch", killed_at=iteration + 1)
    )
    whole = check_resumes(retrain, tmp_path, killed)
    assert "psnr_blur" not in rows_of(whole)[0]


def test_retraining_touches_nothing_else(retrain, selection, tmp_path):
    start, found = retrain.keywords["initial"], load_state_dict(retrain(tmp_path))
    assert set(found) == set(start)
    moved = 0
    for name, value in found.items():
        changed = value != start[name]
        known = name in selection.index.labels
        assert not changed[~(selection.mask(name) if known else torch.zeros_like(changed))].any()
        moved += int(changed.sum())
    assert moved > 0.9 * 9 * len(selection)


def test_without_held_out_photographs_the_last_average_is_kept(photographs, tmp_path):
    recipe = Recipe("srresnet", "noise", 3, 1e-3, batch_size=2, patch=16)
    weights = train_stage(recipe, photographs, None, tmp_path)
    state = torch.load(tmp_path / "srresnet_noise.ckpt", weights_only=True)
    for name, value in load_state_dict(weights).items():
        assert torch.equal(value, state["average"][f"module.{name}"])
    assert any(
        not torch.equal(value, state["model"][name])
        for name, value in load_state_dict(weights).items()
    )


def test_curves_are_drawn_at_each_validation(photographs, held_out, tmp_path, drawn):
    train_stage(RECIPE, photographs, held_out, tmp_path)
    assert drawn == [1, 2, 3, 4]
    rows = [
        {"iteration": 0, "loss": None, "psnr_clean": 20.0, "psnr_blur": 18.0},
        {"iteration": 200, "loss": 0.05, "psnr_clean": 25.0, "psnr_blur": 21.0},
    ]
    for number in (1, 2):
        draw_curves(tmp_path / "curves.png", rows[:number], "srresnet target")
        assert read_image(tmp_path / "curves.png").float().std() > 10


def test_training_lowers_the_loss(photographs, held_out, tmp_path):
    recipe = Recipe("srresnet", "baseline", 40, 5e-3, batch_size=4, patch=16, ema=0.8)
    weights = train_stage(recipe, photographs, held_out, tmp_path)
    rows = rows_of(weights)
    assert float(rows[-1]["psnr_clean"]) > float(rows[0]["psnr_clean"])


def test_a_run_is_not_overwritten_unasked(photographs, held_out, tmp_path):
    train_stage(RECIPE, photographs, held_out, tmp_path)
    with pytest.raises(CheckpointError, match=r"already holds.*--resume.*--force"):
        train_stage(RECIPE, photographs, held_out, tmp_path)
    train_stage(RECIPE, photographs, held_out, tmp_path, force=True)
    other = Recipe("srresnet", "target", 9, 1e-3, batch_size=2, patch=16)
    with pytest.raises(CheckpointError, match="iterations differs: 7 there, 9 here"):
        train_stage(other, photographs, held_out, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"learning_rate": 0.0}, "learning rate is 0: expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"learning_rate": float("inf")}, "learning rate is inf"),
        ({"patch": 17}, "patch is 17: expected an even number"),
        ({"precision": "int4"}, "precision 'int4' is not known"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changed, expected):
    with pytest.raises(ParamattrError, match=expected):
        Recipe(**{**vars(RECIPE), **changed})


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path):
    write_image(torch.rand(3, 130, 130), tmp_path / "large.png")
    with pytest.raises(DataError, match=r"1 photographs of at least 128.*at least 2"):
        load_photographs(tmp_path, 64)
    write_image(torch.rand(3, 20, 130), tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png is too small"):
        load_photographs(tmp_path, 64)


@pytest.mark.parametrize("count", [2, 3, 6, 15, 16, 17, 40])
def test_photographs_are_held_out_from_training(count):
    photographs = {
        Path(f"{number}.png"): torch.full((3, 130, 130), number, dtype=torch.uint8)
        for number in range(count)
    }
    training, held_out = hold_out(photographs)
    trained, validated = ({int(i.flatten()[0]) for i in own} for own in (training, held_out * 255))
    assert len(held_out) == min(8, count // 2)
    assert trained | validated == set(range(count))
    assert not trained & validated


def test_a_target_for_three_degradations_is_trained_as_the_other_target_is(tmp_path):
    config = TrainConfig(tmp_path, stage="three", target_iterations=7, target_rate=1e-4)
    (recipe,) = config.recipes
    assert (recipe.stage, recipe.iterations, recipe.learning_rate) == ("three", 7, 1e-4)
    assert recipe.stem == "srresnet_three"
    with pytest.raises(ParamattrError, match="a target starts from a baseline"):
        run_training(config)
