"""How far rankings agree: against scipy and sets, and when a ranking has settled."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from paramattr import FAIG, Scores, UnitIndex, agreement, stability, subset_means
from paramattr.errors import UnitError
from paramattr.units.agreement import Stability
from tests.models import ZOO, other_weights
from tests.tiny import seeded

pytestmark = pytest.mark.usefixtures("one_thread")


def units(n: int) -> UnitIndex:
    """Index n units."""
    return UnitIndex.of(seeded(lambda: nn.Linear(n, 1, bias=False)), "scalar")


INDEXES = {n: units(n) for n in range(1, 41)}


def scores(values) -> Scores:
    return Scores(INDEXES[len(values)], torch.tensor(values, dtype=torch.float64))


def by_sets(one: Scores, other: Scores, k: int) -> float:
    """Cohen's kappa of "is in the top k": (p_o - p_e) / (1 - p_e), over all units."""
    n = len(one)
    order = [sorted(range(n), key=lambda u, s=s: (-s.values[u].item(), u)) for s in (one, other)]
    a, b = (set(o[:k]) for o in order)
    observed = sum((u in a) == (u in b) for u in range(n)) / n
    expected = (k / n) ** 2 + (1 - k / n) ** 2
    return (observed - expected) / (1 - expected)


@st.composite
def pairs(draw, numbers):
    n = draw(st.integers(2, 40))
    return [scores(draw(st.lists(numbers, min_size=n, max_size=n))) for _ in range(2)]


TIED = st.integers(-2, 2).map(float)
NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@settings(max_examples=80)
@given(st.one_of(pairs(TIED), pairs(NUMBERS)))
def test_rank_correlation_is_scipys_with_ties(pair):
    one, other = pair
    assume(all(len(set(s.values.tolist())) > 1 for s in pair))
    expected = spearmanr(one.values.numpy(), other.values.numpy()).statistic
    found = agreement(one, other, fraction=0.5).spearman
    assert found == pytest.approx(expected, abs=1e-11)
    assert -1 <= found <= 1
    assert agreement(other, one, fraction=0.5).spearman == found


def test_rank_correlation_at_its_ends():
    up, down, flat = scores([1.0, 2.0, 5.0, 5.0]), scores([9.0, 3.0, 1.0, 1.0]), scores([2.0] * 4)
    assert agreement(up, up * 3 + 1, fraction=0.5).spearman == 1
    assert agreement(up, down, fraction=0.5).spearman == -1
    # A ranking that ranks nothing agrees with none; scipy has no number for it.
    assert agreement(up, flat, fraction=0.5).spearman == 0
    assert agreement(flat, flat, fraction=0.5).spearman == 0


@settings(max_examples=60)
@given(st.one_of(pairs(TIED), pairs(NUMBERS)), st.floats(0.01, 0.99))
def test_overlap_is_the_kappa_of_the_two_top_sets(pair, fraction):
    one, other = pair
    n = len(one)
    k = max(1, round(fraction * n))
    assume(k < n)
    found = agreement(one, other, fraction=fraction)
    assert found.overlap == pytest.approx(by_sets(one, other, k), abs=1e-12)
    assert agreement(one, one, fraction=fraction).overlap == 1


@pytest.mark.parametrize(("n", "k"), [(10, 1), (10, 3), (10, 5), (40, 4)])
def test_disjoint_top_sets_are_below_chance(n, k):
    """No unit is shared: (0 - k/n) / (1 - k/n) = -k / (n - k)."""
    one = scores([float(u < k) for u in range(n)])
    other = scores([float(u >= n - k) for u in range(n)])
    found = agreement(one, other, fraction=k / n).overlap
    assert found == pytest.approx(-k / (n - k), abs=1e-12)


def test_all_units_overlap_wholly_whatever_the_ranking():
    one, other = scores([1.0, 2.0, 3.0]), scores([3.0, 2.0, 1.0])
    assert agreement(one, other, fraction=1.0) == (-1.0, 1.0)
    assert agreement(scores([1.0]), scores([2.0])) == (0.0, 1.0)


def test_random_rankings_overlap_by_nothing_on_average():
    n, k, draws = 40, 8, 600
    draw = torch.Generator().manual_seed(0)
    index = INDEXES[n]

    def random() -> Scores:
        return Scores(index, torch.rand(n, generator=draw, dtype=torch.float64))

    found = [agreement(random(), random(), fraction=k / n).overlap for _ in range(draws)]
    # The number shared is hypergeometric: its variance is k (k/n) (1 - k/n) (n - k) / (n - 1).
    share = k / n
    spread = math.sqrt(k * share * (1 - share) * (n - k) / (n - 1)) / k / (1 - share)
    assert abs(sum(found) / draws) < 4 * spread / math.sqrt(draws)
    # The share of units in common, left as it is, would lie far above nothing.
    assert share > 20 * spread / math.sqrt(draws)


def test_the_fraction_counts_at_1_percent_by_default():
    values = torch.arange(200.0)
    index = units(200)
    other = values.clone()
    other[[0, 199]] = other[[199, 0]]  # the second best is the best now, the best the last
    found = agreement(Scores(index, values), Scores(index, other))
    assert found.overlap == pytest.approx((1 / 2 - 0.01) / 0.99)


def test_other_units_are_refused():
    with pytest.raises(UnitError, match="agreement needs the same units"):
        agreement(scores([1.0, 2.0]), scores([1.0, 2.0, 3.0]))
    for fraction in (0, -0.1, 1.1, math.nan):
        with pytest.raises(UnitError, match="fraction is"):
            agreement(scores([1.0, 2.0]), scores([1.0, 2.0]), fraction=fraction)


# Stability


def swapped(count: int) -> Scores:
    """Rank 20 units so that `count` of the top ten are not the reference's."""
    values = torch.arange(20.0).flip(0)
    low, high = list(range(10 - count, 10)), list(range(10, 10 + count))
    values[low + high] = values[high + low]
    return Scores(INDEXES[20], values)


def overlap_of(count: int) -> float:
    """(s/k - k/n) / (1 - k/n) with k = 10 of n = 20 and s = 10 - count."""
    return 1 - count / 5


def test_stability_gives_the_overlap_of_each_ranking_with_the_last():
    found = stability(
        {2: [swapped(3), swapped(4)], 4: swapped(1), 8: swapped(0)}, fraction=0.5, tolerance=0.1
    )
    assert list(found.overlaps) == [2, 4]
    for setting, counts in ((2, (3, 4)), (4, (1,))):
        assert found.overlaps[setting] == pytest.approx([overlap_of(c) for c in counts])
    assert found.enough is None
    assert found.tolerance == 0.1


@pytest.mark.parametrize(
    ("counts", "enough"),
    [
        ([0, 0, 0], "0"),
        ([1, 0, 0], "1"),
        ([0, 1, 0], "2"),  # to have been stable once is not enough
        ([0, 0, 1], None),
        ([(0, 1), 0, 0], "1"),  # each of a setting's rankings counts
        ([(0, 0), (1, 0), (0, 0)], "2"),
        ([1, 1, 1], None),
        ([1, 0, 1], None),
    ],
)
def test_enough_is_the_first_setting_from_which_on_all_are_stable(counts, enough):
    rankings = {
        str(place): [swapped(c) for c in count] if isinstance(count, tuple) else swapped(count)
        for place, count in enumerate(counts)
    }
    found = stability(rankings, reference=swapped(0), fraction=0.5)
    assert found.enough == enough
    assert list(found.overlaps) == list(rankings)


def test_the_tolerance_is_part_of_what_is_stable():
    assert Stability({1: (0.9,), 2: (0.95,), 3: (1.0,)}, 0.05).enough == 2
    assert Stability({1: (0.9,), 2: (0.95,), 3: (1.0,)}, 0.1).enough == 1
    assert Stability({1: (0.9,), 2: (0.949,), 3: (1.0,)}, 0.05).enough == 3
    rankings = {1: swapped(2), 2: swapped(1), 3: swapped(0)}
    for tolerance, enough in ((0.05, None), (0.3, 2), (0.5, 1)):
        assert stability(rankings, fraction=0.5, tolerance=tolerance).enough == enough


@pytest.mark.parametrize(
    ("rankings", "more", "message"),
    [
        ({}, {}, "converged ranking"),
        ({1: swapped(0)}, {}, "at least one other setting"),
        ({1: swapped(0), 2: [swapped(0), swapped(1)]}, {}, "end the settings with one Scores"),
        ({1: swapped(0), 2: []}, {}, "end the settings with one Scores"),
        ({}, {"reference": swapped(0)}, "at least one Scores"),
        ({1: []}, {"reference": swapped(0)}, "at least one Scores"),
        ({1: swapped(0)}, {"reference": swapped(0), "tolerance": 0}, "tolerance is 0"),
        ({1: swapped(0)}, {"reference": swapped(0), "tolerance": 1.0}, "tolerance is 1.0"),
        ({1: swapped(0)}, {"reference": scores([1.0, 2.0])}, "the same units"),
        ({1: swapped(0)}, {"reference": swapped(0), "fraction": 0.0}, "fraction is 0.0"),
    ],
)
def test_stability_says_what_is_missing(rankings, more, message):
    with pytest.raises(UnitError, match=message):
        stability(rankings, **more)


def test_stability_leaves_the_rankings_as_they_were():
    rankings = {1: swapped(1), 2: swapped(0)}
    stability(rankings, fraction=0.5)
    assert list(rankings) == [1, 2]


# Subsets of the samples


@pytest.fixture(scope="module")
def by_sample():
    """Give FAIG of a tiny model, its batches of one sample, and the scores of each."""
    model, inputs, targets = ZOO["convolution"]()
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, *inputs.shape[1:], generator=draw, dtype=torch.float64)
    targets = torch.randn(4, *targets.shape[1:], generator=draw, dtype=torch.float64)
    faig = FAIG(model, other_weights(model))
    batches = list(zip(inputs.split(1), targets.split(1), strict=True))
    return faig, batches, [score(faig, [batch]) for batch in batches]


def score(faig, batches) -> Scores:
    return faig.score(batches, reducer="kernel", n_steps=2)


def test_the_mean_of_a_subset_is_the_score_over_it(by_sample):
    faig, batches, apart = by_sample
    for size in (1, 2, 3):
        subsets = [list(s) for s in itertools.combinations(range(4), size)]
        expected = [score(faig, [batches[k] for k in subset]).values for subset in subsets]
        found = subset_means(apart, [size], repeats=25)[size]
        assert len(found) == 25
        met = set()
        for one in found:
            matches = [p for p, e in enumerate(expected) if torch.allclose(one.values, e, 1e-9)]
            assert len(matches) == 1  # a subset: no sample is taken twice
            met.add(matches[0])
        assert met == set(range(len(subsets)))


def test_all_samples_are_one_subset(by_sample):
    faig, batches, apart = by_sample
    found = subset_means(apart, [2, 4])
    assert list(found) == [2, 4]
    assert [len(several) for several in found.values()] == [5, 1]
    torch.testing.assert_close(found[4][0].values, score(faig, batches).values)
    settled = stability(found, fraction=0.3)
    assert list(settled.overlaps) == [2]
    assert len(settled.overlaps[2]) == 5


def test_subsets_come_from_their_own_seed(by_sample):
    *_, apart = by_sample

    def values(seed):
        return torch.stack([s.values for s in subset_means(apart, [2], seed=seed)[2]])

    torch.manual_seed(4)
    before = torch.get_rng_state().clone()
    assert torch.equal(values(0), values(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert any(not torch.equal(values(0), values(seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize("size", [0, -1, 5])
def test_a_subset_that_cannot_be_drawn_is_refused(by_sample, size):
    with pytest.raises(UnitError, match=f"subset of {size} samples cannot be drawn: expected 1 to"):
        subset_means(by_sample[2], [2, size])


def test_subsets_of_other_units_are_refused(by_sample):
    with pytest.raises(UnitError, match="same units"):
        subset_means([by_sample[2][0], scores([1.0, 2.0])], [2])
