"""The bundled pair shows the effect: the found filters carry their function and little else."""

import pytest
import torch

from blind_sr.data.degradations import CONDITIONS
from blind_sr.data.photographs import load_photographs, with_conditions
from blind_sr.labels import MASKS
from blind_sr.mask.experiment import mask_filters, ratios
from blind_sr.models.outputs import quality, restore
from blind_sr.models.pairs import BUNDLED_WEIGHTS, load_pair, with_target
from blind_sr.rankings.search import find_filters
from paramattr import FAIG, agreement


def test_the_target_removes_what_the_baseline_does_not(pair):
    photographs = load_photographs(crop=32)
    found = {
        name: quality(restore(model, photographs), photographs)
        for name, model in (("baseline", pair.baseline), ("target", pair.target))
    }
    assert found["target"]["blur"] > found["baseline"]["blur"] + 3
    assert found["target"]["noise"] > found["baseline"]["noise"] + 5
    assert found["target"]["clean"] > found["baseline"]["clean"] - 1


def test_the_shipped_weights_are_small_and_the_card_gives_their_sum():
    size = sum(file.stat().st_size for file in BUNDLED_WEIGHTS.glob("*.safetensors"))
    assert size < 25e6
    assert f"they are {size / 1e6:.1f} MB." in (BUNDLED_WEIGHTS / "MODEL_CARD.md").read_text()


def check_effect(pair, photographs):
    rankings = find_filters(pair, photographs, ["faig", "random"])
    target = restore(pair.target, photographs)
    rows = mask_filters(pair, photographs, rankings, [1], target)
    for ratio in ratios(rows):
        assert ratio["over_random"] > 20
        assert ratio["over_other"] > 3


def test_one_percent_carries_a_function(pair):
    check_effect(pair, load_photographs(crop=24))


@pytest.mark.slow
def test_one_percent_carries_a_function_on_larger_crops(pair):
    check_effect(pair, load_photographs(crop=100))


def test_half_precision_finds_nearly_the_same(pair):
    photographs = load_photographs(crop=16)
    half = load_pair("srresnet", dtype=torch.bfloat16)
    assert {p.dtype for p in half.target.parameters()} == {torch.float32}
    wide, narrow = (find_filters(one, photographs, ["faig"])["faig"] for one in (pair, half))
    for function in MASKS:
        found, exact = narrow[function][0], wide[function][0]
        assert not torch.equal(found.values, exact.values)
        assert agreement(found, exact, fraction=0.01).overlap > 0.95


def check_completeness(pair, crop, bound):
    photographs = load_photographs(crop=crop)
    faig = FAIG(pair.target, pair.baseline)
    for condition in MASKS:
        deltas, changes = [], []
        for low, high in photographs.pairs(condition)[:4]:
            attributions, delta = faig.attribute(
                low, high, n_steps=8, return_convergence_delta=True
            )
            deltas.append(float(delta))
            changes.append(float(sum(a.double().sum() for a in attributions.values()) - delta))
        assert abs(sum(deltas) / sum(changes)) < bound


def test_eight_nodes_are_nearly_complete(pair):
    check_completeness(pair, crop=16, bound=0.01)


@pytest.mark.slow
def test_eight_nodes_are_more_nearly_complete_on_larger_crops(pair):
    check_completeness(pair, crop=64, bound=0.004)


def test_the_other_targets_remove_what_they_were_trained_for(pair):
    photographs = load_photographs(crop=24)
    three = with_target(pair, BUNDLED_WEIGHTS / "srresnet_three.safetensors")
    with_jpeg = with_conditions(photographs, {"jpeg": CONDITIONS["jpeg"]})
    before, after = (
        quality(restore(model, with_jpeg, ("blur", "noise", "jpeg")), with_jpeg)
        for model in (three.baseline, three.target)
    )
    assert after["blur"] > before["blur"] + 2
    assert after["noise"] > before["noise"] + 4
    assert after["jpeg"] > before["jpeg"] + 0.3
    swin = load_pair("swin")
    before, after = (
        quality(restore(model, photographs), photographs) for model in (swin.baseline, swin.target)
    )
    assert after["blur"] > before["blur"] + 1
    assert after["noise"] > before["noise"] + 3
