import csv

import pytest
import torch
from torch import nn

from blind_sr import training
from blind_sr.degradations import degrade
from blind_sr.images import write_image
from blind_sr.networks import SRResNet
from blind_sr.patches import Patches, load_photographs
from blind_sr.training import Recipe, train_stage
from paramattr import load_state_dict
from paramattr.errors import CheckpointError, DataError

RECIPE = Recipe("srresnet", "target", iterations=7, learning_rate=1e-3, batch_size=2, patch=16)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(training, "build", lambda network: SRResNet(features=4, blocks=1))
    monkeypatch.setattr(training, "VALIDATE_EVERY", 3)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)


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


def rows_of(weights):
    return list(csv.DictReader(weights.with_suffix(".csv").read_text().splitlines()))


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


def test_a_batch_depends_on_seed_and_iteration_alone(photographs):
    settings = {"side": 16, "batch_size": 2, "seed": 0, "degradation": "mixed"}
    patches, again = (Patches(photographs, **settings) for _ in range(2))
    patches.batch(0)
    for one, other in zip(patches.batch(5), again.batch(5), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(patches.batch(5)[0], patches.batch(6)[0])


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_a_killed_run_resumes_to_the_same_bits(
    killed_at, photographs, held_out, tmp_path, monkeypatch
):
    whole = train_stage(RECIPE, photographs, held_out, tmp_path / "whole")

    class Killed(Exception):
        pass

    real = Patches.batch

    def dying(self, iteration):
        if iteration == killed_at:
            raise Killed
        return real(self, iteration)

    monkeypatch.setattr(Patches, "batch", dying)
    with pytest.raises(Killed):
        train_stage(RECIPE, photographs, held_out, tmp_path / "broken")
    monkeypatch.setattr(Patches, "batch", real)
    broken = train_stage(
        RECIPE, photographs, held_out, tmp_path / "broken", resume=True, force=True
    )
    for name, value in load_state_dict(whole).items():
        assert torch.equal(value, load_state_dict(broken)[name])
    logs = [
        list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
        for path in (whole, broken)
    ]
    for row in (*logs[0], *logs[1]):
        row.pop("seconds")
    assert logs[0] == logs[1]
    assert [row["iteration"] for row in logs[0]] == ["0", "3", "6", "7"]


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
    with pytest.raises(CheckpointError, match="iterations was 7"):
        train_stage(other, photographs, held_out, tmp_path, resume=True)


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path):
    for number in range(3):
        write_image(torch.rand(3, 130, 130), tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=r"3 photographs of at least 128.*at least 16"):
        load_photographs(tmp_path, 64)
    write_image(torch.rand(3, 20, 130), tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png is too small"):
        load_photographs(tmp_path, 64)
