"""The study's methods: each contrasted, each with a twin that is not, on small networks."""

import pytest
import torch

from blind_sr.data.photographs import load_photographs
from blind_sr.labels import LABELS, MASKS, METHODS, RULES
from blind_sr.models.pairs import load_pair
from blind_sr.rankings.methods import RANKED_BY, named
from blind_sr.rankings.search import attributed, find_filters
from paramattr import FAIG, contrast, gradient_times_change, quadrature, random_within_layers
from paramattr.methods.captum import CAPTUM_METHODS

TWINS = [name for name in LABELS if name.endswith("-no-contrast")]
NAMES = [name.removesuffix("-no-contrast") for name in TWINS]


@pytest.fixture(scope="module")
def data(folder, small):
    """A small pair and two photographs."""
    return load_pair("srresnet", folder), load_photographs(folder, crop=8)


def search(data, methods, **options):
    return find_filters(*data, methods, units="output_channel", n_steps=2, **options)


@pytest.fixture(scope="module")
def rankings(data):
    return search(data, list(LABELS))


def test_every_method_that_looks_at_data_has_a_twin():
    taylor = {f"taylor-{place}" for place in ("target", "middle", "baseline")}
    assert set(NAMES) == {"faig", "ig", "fisher", *taylor, *CAPTUM_METHODS}
    assert set(LABELS) - {*NAMES, *TWINS} == {
        "absolute-change",
        "weight-magnitude",
        "random-within-layers",
        "random",
    }
    assert len(set(LABELS.values())) == len(LABELS)
    assert set(RANKED_BY) == set(LABELS)


def test_the_rules_are_those_of_the_library():
    assert tuple(quadrature.RULES) == RULES


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_the_contrast_of_its_twin(name, rankings):
    plain = {f: rankings[f"{name}-no-contrast"][f][0] for f in MASKS}
    for function, other in (MASKS, MASKS[::-1]):
        assert (plain[function].values >= 0).all()
        [scores] = rankings[name][function]
        assert torch.equal(scores.values, contrast(plain[function], plain[other]).values)
        assert torch.equal(scores.values, -rankings[name][other][0].values)
        assert (scores.values != 0).any()


def test_what_is_attributed_is_what_the_library_gives(data, rankings):
    pair, photographs = data
    for function in MASKS:
        batches = photographs.pairs(function)
        models = pair.target, pair.baseline
        faig = FAIG(*models).score(batches, reducer="output_channel", n_steps=2)
        assert torch.equal(rankings["faig-no-contrast"][function][0].values, faig.values)
        for place in ("target", "middle", "baseline"):
            taylor = gradient_times_change(*models, batches, at=place, reducer="output_channel")
            found = rankings[f"taylor-{place}-no-contrast"][function][0]
            assert torch.equal(found.values, taylor.values)


def test_random_within_layers_is_matched_to_contrasted_faig(rankings):
    for function in MASKS:
        matched = random_within_layers(rankings["faig"][function][0], seed=0)
        assert torch.equal(rankings["random-within-layers"][function][0].values, matched.values)


def test_a_method_and_its_twin_attribute_once(data):
    both = ["ig-no-contrast", "random-within-layers", "faig", "random", "ig", "faig-no-contrast"]
    counted = []
    found = search(data, both, advance=counted.append)
    assert list(found) == both
    assert sum(counted) == attributed(both, data[1]) == 2 * 2 * 2  # attributions, functions, photos
    for method, advances in (("ig-no-contrast", 4), ("random", 0)):
        counted.clear()
        one = search(data, [method], advance=counted.append)
        assert sum(counted) == attributed([method], data[1]) == advances
        for function in MASKS:
            assert torch.equal(one[method][function][0].values, found[method][function][0].values)


def test_all_are_those_that_the_units_have():
    assert named("all") == list(METHODS)
    channels = named("all", "output_channel")
    assert channels[: len(METHODS)] == list(METHODS)
    slow = {"layer-feature-ablation", "layer-feature-ablation-no-contrast"}
    assert set(LABELS) - set(channels) == slow
