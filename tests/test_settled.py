"""The estimated agreement with the population, and the samples that `until` draws."""

from functools import partial
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import FAIG, Adaptive, ParamattrError, Scores, Until, contrast
from paramattr.errors import CheckpointError, UnitError
from paramattr.scoring.until import FEWEST, GROUPS
from paramattr.units.agreement import overlap_of, overlap_of_halves, population_agreement
from tests.kills import check_resumes
from tests.models import batches
from tests.reference import settled as reference
from tests.tiny import seeded

pytestmark = pytest.mark.usefixtures("one_thread")


# The estimate


@settings(max_examples=20, deadline=None)
@given(st.floats(0.02, 0.98), st.floats(0.01, 0.5))
def test_the_overlap_of_two_normal_variables_equals_the_double_integral(correlation, share):
    expected = reference.overlap_of(correlation, share)
    assert overlap_of(correlation, share) == pytest.approx(expected, abs=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 4, 6]), st.integers(10, 30), st.integers(0, 2**16))
def test_halves_are_compared_in_every_way(groups, units, seed):
    means = torch.randn(groups, units, generator=torch.Generator().manual_seed(seed)).double()
    chosen = max(1, units // 5)
    expected = reference.halves_overlap(means.tolist(), chosen)
    assert overlap_of_halves(means, chosen) == pytest.approx(expected, abs=1e-12)


def noisy(groups, noise, units=400, seed=0):
    """Give the truth, and the means of groups that err by normal noise."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randn(units, generator=draw, dtype=torch.float64)
    return truth, truth + noise * torch.randn(groups, units, generator=draw, dtype=torch.float64)


def test_the_estimate_equals_the_reference():
    for noise in (0.3, 1.0, 3.0):
        _, means = noisy(4, noise)
        expected = reference.population_agreement(means, 20)
        assert population_agreement(means, fraction=0.05) == pytest.approx(expected, abs=1e-4)


def top_overlap(one, other, fraction):
    size = round(fraction * len(one))
    shared = len(set(one.topk(size).indices.tolist()) & set(other.topk(size).indices.tolist()))
    return (shared / size - fraction) / (1 - fraction)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0, 4.0])
def test_it_is_the_agreement_with_the_truth_that_no_sample_shows(noise):
    truth, means = noisy(8, noise, units=40_000)
    found = population_agreement(means, fraction=0.05)
    assert found == pytest.approx(top_overlap(means.mean(0), truth, 0.05), abs=0.02)
    # Two halves, as they are, agree far less: both err, and each has half of the samples.
    assert overlap_of_halves(means, 2000) < found - 0.08


def test_other_samples_that_err_too_agree_less():
    truth, means = noisy(8, 2.0, units=40_000)
    again = truth + 2.0 / 24**0.5 * torch.randn(40_000, generator=torch.Generator().manual_seed(1))
    found = population_agreement(means, fraction=0.05, others=3)
    assert found == pytest.approx(top_overlap(means.mean(0), again, 0.05), abs=0.02)
    assert found < population_agreement(means, fraction=0.05) - 0.02


def test_noise_alone_agrees_with_nothing_and_no_noise_with_all():
    draw = torch.Generator().manual_seed(0)
    assert population_agreement(torch.randn(8, 20_000, generator=draw)) < 0.12
    same = torch.randn(100, generator=draw).expand(8, 100)
    assert population_agreement(same) == 1
    assert population_agreement(torch.randn(8, 5, generator=draw), fraction=1.0) == 1


def test_groups_that_cannot_be_halved_are_refused():
    for groups in (0, 1, 3):
        with pytest.raises(UnitError, match="even number"):
            population_agreement(torch.zeros(groups, 10))
    with pytest.raises(UnitError, match="fraction"):
        population_agreement(torch.zeros(2, 10), fraction=0)


# Drawing until it is reached


@pytest.fixture
def faig():
    """Give a pair of perceptrons with 60 hidden neurons."""

    def build():
        return [
            nn.Sequential(nn.Linear(8, 60), nn.Tanh(), nn.Linear(60, 8)).double().eval()
            for _ in range(2)
        ]

    return FAIG(*seeded(build))


def data(size, seed=0, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(size, 8, generator=draw, dtype=torch.float64)
    return [(x, 0.1 * x)]


OPTIONS = {"reducer": "output_channel", "n_steps": 2, "fraction": 0.2}


def assert_equal(one: Scores, other: Scores):
    assert one.samples == other.samples
    for name in ("values", "signed", "standard_error"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_what_it_draws_is_the_first_samples_and_no_more(faig):
    found = faig.score(data(400), until=0.8, **OPTIONS)
    assert FEWEST <= found.samples < 400
    assert found.agreement >= 0.8
    first = [tuple(t[: found.samples] for t in data(400)[0])]
    assert_equal(found, faig.score(first, **OPTIONS))
    assert_equal(found, faig.score(data(400), max_samples=found.samples, **OPTIONS))
    whole = faig.score(data(400), **OPTIONS)
    assert whole.samples == 400
    assert whole.agreement != whole.agreement  # NaN: nobody asked


def test_a_higher_agreement_takes_more_samples(faig):
    taken = [faig.score(data(2000), until=goal, **OPTIONS).samples for goal in (0.6, 0.8, 0.93)]
    assert taken[0] < taken[1] < taken[2]


def test_several_conditions_and_reducers_settle_together(faig):
    loaders = {"one": data(900), "two": data(900, 1, 2.0)}
    reducers = ["output_channel", "input_channel"]
    found = faig.score(loaders, **{**OPTIONS, "reducer": reducers}, until=0.7)
    samples = {one.samples for own in found.values() for one in own.values()}
    assert len(samples) == 1
    assert all(one.agreement >= 0.7 for own in found.values() for one in own.values())
    # It is the contrast that settles, and its errors stay paired.
    alone = faig.score(loaders["one"], until=0.7, **OPTIONS)
    assert alone.samples < samples.pop()
    several = {name: own["output_channel"] for name, own in found.items()}
    difference = contrast(several["one"], several["two"])
    apart = torch.hypot(*(own.standard_error for own in several.values()))
    assert not torch.equal(difference.standard_error, apart)


def test_workers_and_samples_at_once_draw_as_many(faig):
    alone = faig.score(data(400), until=0.8, **OPTIONS)
    side = FAIG(faig.model, faig.baseline, workers=3).score(data(400), until=0.8, **OPTIONS)
    assert_equal(alone, side)
    at_once = faig.score(data(400), until=0.8, internal_batch_size=GROUPS, **OPTIONS)
    assert at_once.samples == alone.samples


def test_an_endless_loader_ends_at_max_samples(faig):
    endless = (data(3, seed)[0] for seed in count())
    assert faig.score(endless, max_samples=7, **OPTIONS).samples == 7
    loaders = {"a": (data(3, seed)[0] for seed in count()), "b": data(4)}
    found = faig.score(loaders, max_samples=7, **OPTIONS)
    assert [one.samples for one in found.values()] == [7, 4]


def test_samples_that_end_too_early_are_told(faig):
    with pytest.warns(UserWarning, match=r"ended after 24 .* below until=0.99"):
        found = faig.score(data(24), until=0.99, **OPTIONS)
    assert 0 < found.agreement < 0.99
    with pytest.warns(UserWarning, match="cannot be judged on 5 samples"):
        few = faig.score(data(5), until=0.5, **OPTIONS)
    assert few.agreement != few.agreement


def test_a_run_that_was_cut_draws_what_a_whole_one_does(faig, tmp_path):
    loader, file = batches(data(400)[0], *[4] * 100), tmp_path / "sums.safetensors"
    score = partial(faig.score, until=0.8, **OPTIONS)
    found = check_resumes(score, loader, 5, file)
    again = score(loader, checkpoint=file)  # nothing is left to do
    assert_equal(found, again)
    assert again.agreement == found.agreement == score(loader).agreement
    assert again.spent.gradients == 0
    with pytest.raises(CheckpointError, match="groups differs"):
        faig.score(loader, checkpoint=file, **OPTIONS)


@pytest.mark.parametrize(
    "options",
    [
        {"until": 0},
        {"until": 1},
        {"until": "0.9"},
        {"until": True},
        {"max_samples": 0},
        {"until": 0.5, "fraction": 2},
    ],
)
def test_what_cannot_be_is_refused_before_the_work(faig, options):
    def loader():
        raise AssertionError("the loader was read")
        yield

    with pytest.raises(ParamattrError):
        faig.score(loader(), **{**OPTIONS, **options})


def test_the_limit_may_be_one_object(faig):
    limit = Until(0.8, fraction=0.2, max_samples=100)
    options = {"reducer": "output_channel", "n_steps": 2}
    found = faig.score(data(400), until=limit, **options)
    assert_equal(found, faig.score(data(400), until=0.8, max_samples=100, **OPTIONS))
    for beside in ({"fraction": 0.2}, {"max_samples": 100}):
        with pytest.raises(ParamattrError, match="expected them in one place"):
            faig.score(data(400), until=limit, **options, **beside)


# What it took


def test_spent_counts_gradients_and_samples(faig):
    loaders = {"a": data(5), "b": data(3)}
    found = faig.score(loaders, reducer="layer", n_steps=4)
    assert found["a"].spent[:2] == (20, 5)
    assert found["b"].spent[:2] == (12, 3)
    assert found["a"].spent.seconds > 0
    adaptive = faig.score(data(3), reducer="layer", method=Adaptive(rtol=1e-6))
    assert adaptive.spent.gradients == sum(one.evaluations for one in faig.spent)
    assert adaptive.spent.each == faig.spent
    assert (found["a"] - found["b"]).spent is None


def test_the_plan_comes_with_the_answer(faig):
    found = faig.score(data(2), reducer="layer", n_steps=4)
    assert found.spent.plan == faig.plan
    assert found.spent.plan.points == 4
    held_whole = faig.score(data(2), reducer="layer", partitions=2)
    assert held_whole.spent.plan is None


def test_the_agreement_is_saved(faig, tmp_path):
    for name, options in {"with": {"until": 0.7}, "without": {}}.items():
        found = faig.score(data(100), **OPTIONS, **options)
        found.save(tmp_path / name)
        loaded = Scores.load(tmp_path / name)
        assert loaded.spent is None
        assert loaded.agreement == pytest.approx(found.agreement, nan_ok=True)
