"""Designs of conditions against every sample's own effect, and on units that are known."""

import math

import pytest
import torch
from hypothesis import given
from torch import nn

from paramattr import (
    FAIG,
    OverlapClassifier,
    Scores,
    UnitIndex,
    against_rest,
    all_pairs,
    contrast,
    factorial,
    summed_output,
)
from paramattr.errors import UnitError
from tests.reference.paired import paired_error
from tests.tiny import SMALL, scores_of

ANY = scores_of(SMALL)
DESIGN = {"neither": (), "blur": ("blur",), "noise": ("noise",), "both": ("blur", "noise")}
SAMPLES = 12


def inputs(*factors: str, seed: int = 0) -> torch.Tensor:
    """Blur turns on the first number, noise the second, and both together the third."""
    draw = torch.Generator().manual_seed(seed)
    blur, noise = float("blur" in factors), float("noise" in factors)
    centre = torch.tensor([blur, noise, blur * noise, 1.0]) + 2
    return centre + 0.2 * torch.randn(SAMPLES, 4, generator=draw, dtype=torch.float64)


def pair() -> tuple[nn.Module, nn.Module]:
    target, baseline = (nn.Linear(4, 1, bias=False, dtype=torch.float64) for _ in range(2))
    nn.init.ones_(target.weight), nn.init.zeros_(baseline.weight)
    return target.eval(), baseline.eval()


@pytest.fixture(scope="module")
def measured():
    given = {name: inputs(*own, seed=n) for n, (name, own) in enumerate(DESIGN.items())}
    faig = FAIG(*pair(), objective=summed_output)
    scores = faig.score({name: [own] for name, own in given.items()}, reducer="scalar", n_steps=2)
    return scores, given  # |A_i(x)| = |x_i|, since the weights go from 1 to 0


def test_effects_are_every_sample_s_own_with_their_paired_errors(measured):
    scores, given = measured
    effects = factorial(scores, DESIGN)
    signs = {"blur": (-1, 1, -1, 1), "noise": (-1, -1, 1, 1), "blur:noise": (1, -1, -1, 1)}
    assert list(effects) == list(signs)
    for name, own in signs.items():
        weights = [sign / 2 for sign in own]
        magnitudes = [x.abs() for x in given.values()]
        mean = sum(w * x.mean(0) for w, x in zip(weights, magnitudes, strict=True))
        torch.testing.assert_close(effects[name].values, mean)
        error = paired_error(magnitudes, weights)
        torch.testing.assert_close(effects[name].standard_error, error)
        low, high = effects[name].intervals().T
        torch.testing.assert_close((high - low) / 2, 2.200985 * error, rtol=1e-6, atol=0)


def test_a_design_goes_by_the_conditions_names_and_not_by_their_order(measured):
    scores, _ = measured
    effects, turned = factorial(scores, DESIGN), {name: DESIGN[name] for name in reversed(DESIGN)}
    for name, effect in factorial(scores, turned).items():
        torch.testing.assert_close(effect.values, effects[name].values)


def test_the_units_of_each_effect_are_known(measured):
    scores, _ = measured
    effects = factorial(scores, DESIGN)
    expected = {"blur": (1, 0, 0.5, 0), "noise": (0, 1, 0.5, 0), "blur:noise": (0, 0, 0.5, 0)}
    for name, own in expected.items():
        low, high = effects[name].intervals(0.999).T
        truth = torch.tensor(own, dtype=torch.float64)
        assert bool(((low < truth) & (truth < high)).all())
        found = effects[name].significant(0.01)
        assert [unit.position[1] for unit in found] == [n for n, t in enumerate(own) if t]


def test_three_conditions_do_without_interactions(measured):
    scores = {name: own for name, own in measured[0].items() if name != "neither"}
    design = {name: own for name, own in DESIGN.items() if name != "neither"}
    effects = factorial(scores, design, interactions=False)
    assert list(effects) == ["blur", "noise"]
    for name, other in (("blur", "noise"), ("noise", "blur")):
        expected = scores["both"] - scores[other]
        torch.testing.assert_close(effects[name].values, expected.values)
        torch.testing.assert_close(effects[name].standard_error, expected.standard_error)


@given(ANY, ANY, ANY, ANY)
def test_a_scale_of_the_scores_is_one_of_the_effects(a, b, c, d):
    scores = dict(zip(DESIGN, (a, b, c, d), strict=True))
    effects = factorial(scores, DESIGN)
    twice = factorial({name: own * 2 for name, own in scores.items()}, DESIGN)
    for name, own in effects.items():
        assert torch.allclose(twice[name].values, 2 * own.values, atol=1e-9)
    nothing = factorial(dict.fromkeys(DESIGN, a), DESIGN)
    assert all(
        torch.allclose(own.values, torch.zeros(9).double(), atol=1e-9) for own in nothing.values()
    )
    # A sum of the two factors' parts has no interaction.
    summed = {"neither": a, "blur": a + b, "noise": a + c, "both": a + b + c}
    found = factorial(summed, DESIGN)
    assert torch.allclose(found["blur:noise"].values, torch.zeros(9).double(), atol=1e-9)
    assert torch.allclose(found["blur"].values, b.values, atol=1e-9)


def test_three_factors_have_seven_effects():
    cells = {"".join(own) or "none": own for own in ((), "a", "b", "c", "ab", "ac", "bc", "abc")}
    scores = {
        name: Scores(SMALL, torch.full((9,), 1.0 + 4.0 * ({"a", "c"} <= set(own))))
        for name, own in cells.items()
    }
    effects = factorial(scores, cells)
    assert list(effects) == ["a", "b", "c", "a:b", "a:c", "b:c", "a:b:c"]
    values = {name: round(float(own.values[0]), 12) for name, own in effects.items()}
    assert values == {"a": 2, "b": 0, "c": 2, "a:b": 0, "a:c": 2, "b:c": 0, "a:b:c": 0}


@given(ANY, ANY, ANY, ANY)
def test_each_against_the_rest_and_all_pairs(a, b, c, d):
    scores = {"a": a, "b": b, "c": c, "d": d}
    rest = against_rest(scores)
    assert torch.equal(rest["b"].values, contrast(b, a, c, d).values)
    assert torch.allclose(
        sum(own.values for own in rest.values()), torch.zeros(9).double(), atol=1e-8
    )
    pairs = all_pairs(scores)
    assert list(pairs) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert torch.equal(pairs["b", "d"].values, contrast(b, d).values)


def test_pairs_of_one_call_are_paired(measured):
    scores, given = measured
    error = paired_error([given["blur"].abs(), given["both"].abs()], [1, -1])
    torch.testing.assert_close(all_pairs(scores)["blur", "both"].standard_error, error)


def test_a_classifier_of_four_conditions():
    faig = FAIG(*pair(), objective=summed_output)
    shifted = {
        name: [
            4 * nn.functional.one_hot(torch.tensor([n]), 4).double() + inputs("none", seed=s)[:1]
            for s in range(6)
        ]
        for n, name in enumerate(DESIGN)
    }
    scores = faig.score({n: own[:3] for n, own in shifted.items()}, reducer="scalar", n_steps=2)
    found = {name: own.top(count=1) for name, own in against_rest(scores).items()}
    assert [next(iter(own)).position[1] for own in found.values()] == [0, 1, 2, 3]
    classifier = OverlapClassifier(
        found, lambda sample: faig.score([sample], reducer="scalar", n_steps=2)
    )
    samples = [x for own in shifted.values() for x in own[:3]]
    classifier.fit(samples, [name for name in shifted for _ in range(3)])
    for name, own in shifted.items():
        assert classifier.predict(own[3:]) == [frozenset({name})] * 3


def test_mistakes_are_named():
    one = Scores(SMALL, torch.ones(9))
    scores = dict.fromkeys(DESIGN, one)
    with pytest.raises(
        UnitError, match=r"the design is of neither, blur, noise, both, and the sc.* blur: ex"
    ):
        factorial({"blur": one}, DESIGN)
    with pytest.raises(UnitError, match="no condition has a factor"):
        factorial(scores, dict.fromkeys(DESIGN, ()))
    three = {name: own for name, own in DESIGN.items() if name != "neither"}
    with pytest.raises(UnitError, match="3 conditions do not tell 3 effects and the mean apart"):
        factorial(dict.fromkeys(three, one), three)
    with pytest.raises(UnitError, match="do not tell 2 effects"):
        factorial(dict.fromkeys("ab", one), {"a": ("x",), "b": ("y",)}, interactions=False)
    with pytest.raises(UnitError, match="at least two conditions: found blur"):
        all_pairs({"blur": one})
    with pytest.raises(UnitError, match="at least one other condition"):
        against_rest({"blur": one})
    other = Scores(UnitIndex.of(nn.Linear(1, 1), "scalar"), torch.ones(2))
    with pytest.raises(UnitError, match="same units"):
        factorial({**scores, "both": other}, DESIGN)
    assert math.isnan(float(factorial(scores, DESIGN)["blur"].standard_error[0]))
