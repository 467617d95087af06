"""`Scores.by("sign")`: the mean attribution as a ranking, with an error of its own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramattr import FAIG, Scores, UnitIndex, absolute_change, contrast
from paramattr.errors import UnitError
from paramattr.files.reading import load_tensors, save_state_dict
from paramattr.objectives import squared_error
from paramattr.quadrature import get_rule
from tests.kills import cut
from tests.models import batches, other_weights, samples_of
from tests.reference.eq6 import attributions
from tests.reference.signed import signed_contrast, signed_sums
from tests.tiny import SMALL, seeded

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"reducer": "kernel", "n_steps": 2}
WHAT = ("values", "signed", "standard_error")


@pytest.fixture(scope="module")
def planted():
    """A pair, three conditions of five samples, and the reference's signed sums of each sample."""
    model, x, y = samples_of("convolution", 5)
    baseline = other_weights(model)
    data = {name: (x + shift, y) for name, shift in zip("abc", (0.0, 0.3, -0.2), strict=True)}
    index, (nodes, weights) = UnitIndex.of(model, "kernel"), _rule()
    sums = {
        name: signed_sums(attributions(model, baseline, squared_error, *own, nodes, weights), index)
        for name, own in data.items()
    }
    return model, baseline, data, sums


def _rule():
    rule = get_rule("gausslegendre", 2)
    return rule.nodes, rule.weights


def scored(planted, **options):
    model, baseline, data, _ = planted
    loaders = {name: batches(own, 2, 2, 1) for name, own in data.items()}
    return FAIG(model, baseline).score(loaders, **{**OPTIONS, **options})


def same(one, other, **tolerance):
    for what in WHAT:
        pair = getattr(one, what), getattr(other, what)
        torch.testing.assert_close(*pair, equal_nan=True, **tolerance)
    assert (one.samples, one.unassigned) == (other.samples, other.unassigned)
    assert one.residual == other.residual or math.isnan(one.residual + other.residual)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at_once", [1, 3])
def test_values_and_errors_are_the_references(planted, workers, at_once):
    model, baseline, data, sums = planted
    loaders = {name: batches(own, 3, 2) for name, own in data.items()}
    faig = FAIG(model, baseline, workers=workers)
    scores = faig.score(loaders, internal_batch_size=at_once, **OPTIONS)
    for name, own in scores.items():
        mean, error = signed_contrast([sums[name]], [1.0])
        found = own.by("sign")
        torch.testing.assert_close(found.values, mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.standard_error, error, rtol=1e-9, atol=1e-12)
        assert torch.equal(found.signed, own.signed)
        assert (found.samples, found.unassigned) == (5, own.unassigned)
        assert found.residual == own.residual
        assert not math.isnan(found.residual)
        assert not torch.allclose(found.standard_error, own.standard_error)


def test_the_magnitudes_are_the_papers_ranking_and_come_back(planted):
    scores = scored(planted)["a"]
    assert scores.by("magnitude") is scores
    assert scores.by("sign").by("magnitude") is scores
    assert scores.by("sign").by("sign").values.equal(scores.signed)


@pytest.mark.parametrize("weight", [1.0, 0.5, "share"])
def test_a_contrast_by_sign_is_the_contrast_of_signs_errors_included(planted, weight):
    scores, sums = scored(planted), planted[3]
    before = contrast(*(own.by("sign") for own in scores.values()), weight=weight)
    after = contrast(*scores.values(), weight=weight).by("sign")
    same(before, after, rtol=0, atol=0)
    weights = [1.0, *[-(weight if weight != "share" else 1.0) / 2] * 2]
    if weight == "share":  # of what was attributed: signed sums may be anything
        totals = [float(own.values.sum()) for own in scores.values()]
        weights = [w / total for w, total in zip(weights, totals, strict=True)]
    mean, error = signed_contrast(list(sums.values()), weights)
    torch.testing.assert_close(after.values, mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.standard_error, error, rtol=1e-9, atol=1e-12)
    unpaired = torch.hypot(scores["a"].by("sign").standard_error, after.standard_error * 0)
    assert not torch.allclose(after.standard_error, unpaired)


@given(st.floats(-3, 3).filter(lambda number: abs(number) > 1e-3))
def test_scaling_and_shifting_come_before_or_after(number):
    scores = full(1)
    for made in (
        lambda s: s * number,
        lambda s: s / number,
        lambda s: s + number,
        lambda s: number - s,
        lambda s: -s,
    ):
        same(made(scores.by("sign")), made(scores).by("sign"))


def full(seed: int, **more) -> Scores:
    draw = torch.Generator().manual_seed(seed)
    values, signed, error, other = torch.rand(4, 9, generator=draw, dtype=torch.float64)
    errors = {"standard_error": error, "signed_error": other}
    return Scores(SMALL, values, signed=signed - 0.5, **errors, **more)


def test_separate_measurements_add_their_squares():
    one, other = full(1), full(2)
    found = contrast(one.by("sign"), other.by("sign"))
    expected = torch.hypot(one.signed_error, other.signed_error)
    torch.testing.assert_close(found.standard_error, expected)


def test_it_ranks_selects_and_tests_by_the_sign(planted):
    scores, sums = scored(planted)["a"], planted[3]["a"]
    signed = scores.by("sign")
    mean, error = signed_contrast([sums], [1.0])
    assert signed.rank()[0] == mean.argmax()
    assert signed.top(count=1).chosen.nonzero().item() == mean.argmax()
    reach = (signed.intervals()[:, 1] - mean) / error
    torch.testing.assert_close(reach, torch.full_like(reach, 2.7764451), rtol=1e-6, atol=1e-6)


def test_what_cancels_over_samples_is_significant_by_magnitude_alone():
    ones, signed = torch.ones(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    signed[3] = 1
    scores = Scores(
        SMALL,
        ones,
        signed=signed,
        standard_error=ones / 100,
        signed_error=ones / 10,
        samples=10,
    )
    assert len(scores.significant()) == 9
    assert scores.by("sign").significant().chosen.nonzero().tolist() == [[3]]


def test_files_keep_sign_errors_and_pairs(planted, tmp_path):
    scores = scored(planted)
    for name, own in scores.items():
        own.save(tmp_path / name)
        own.by("sign").save(tmp_path / f"{name}.sign")
    loaded = [Scores.load(tmp_path / name) for name in scores]
    signed = [Scores.load(tmp_path / f"{name}.sign") for name in scores]
    expected = contrast(*scores.values()).by("sign")
    same(contrast(*loaded).by("sign"), expected, rtol=0, atol=0)
    same(contrast(*signed), expected, rtol=0, atol=0)
    same(signed[0].by("magnitude"), scores["a"], rtol=0, atol=0)


def test_a_file_of_before_loads_and_its_signed_error_is_not_known(planted, tmp_path):
    scores = scored(planted)["a"]
    scores.save(tmp_path / "new")
    tensors, metadata = load_tensors(tmp_path / "new")
    old = {n: t for n, t in tensors.items() if n not in ("signed_error", "signed_covariances")}
    assert len(old) == len(tensors) - 2
    save_state_dict(tmp_path / "old", old, metadata)
    loaded = Scores.load(tmp_path / "old")
    same(loaded, scores)
    assert torch.equal(loaded.by("sign").values, scores.signed)
    for found in (loaded.by("sign"), contrast(loaded, loaded * 0.5).by("sign")):
        assert found.standard_error.isnan().all()
        with pytest.raises(UnitError, match="standard errors of these scores are not known"):
            found.significant()


@pytest.mark.parametrize("after", [1, 2])
def test_a_resumed_run_keeps_signed_errors_and_pairs(planted, tmp_path, after):
    model, baseline, data, _ = planted
    loaders = {name: batches(own, 2, 2, 1) for name, own in data.items()}
    broken = {**loaders, "c": cut(loaders["c"], after)}
    with pytest.raises(KeyboardInterrupt):
        FAIG(model, baseline).score(broken, checkpoint=tmp_path / "sums", **OPTIONS)
    found = scored(planted, checkpoint=tmp_path / "sums")
    unbroken = scored(planted)
    same(contrast(*found.values()).by("sign"), contrast(*unbroken.values()).by("sign"))


def test_scores_without_a_sign_say_so():
    scores = Scores(SMALL, torch.ones(9))
    with pytest.raises(UnitError, match=r"9 of the 9 units have no sign.*FAIG\.score"):
        scores.by("sign")
    with pytest.raises(UnitError, match="rank is 'signed': expected 'magnitude' or 'sign'"):
        full(1).by("signed")
    model = seeded(lambda: torch.nn.Linear(2, 2))
    with pytest.raises(UnitError, match="have no sign"):
        absolute_change(model, other_weights(model), reducer="scalar").by("sign")


def test_a_sign_and_a_magnitude_are_not_subtracted():
    one, other = full(1), full(2)
    for mixed in (
        lambda: contrast(one.by("sign"), other),
        lambda: contrast(one, other.by("sign")),
        lambda: one + other.by("sign"),
    ):
        with pytest.raises(UnitError, match=r"one ranks by sign.*\.by\(\"sign\"\) of both"):
            mixed()
    share = one.by("sign") / one  # how much of the magnitude survives the mean
    torch.testing.assert_close(share.values, one.signed / one.values)
