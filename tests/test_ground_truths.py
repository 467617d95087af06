"""The benchmark's measures of a ranking against what is known, and one of its pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench_truth import auroc, precision
from benchmarks.ground_truths import planted_kernels
from paramattr import absolute_change

pytestmark = pytest.mark.usefixtures("one_thread")
UNITS = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=2, max_size=12
).filter(lambda units: len({truth for _, truth in units}) == 2)


@given(UNITS)
def test_auroc_is_the_share_of_pairs_in_the_right_order(units):
    values, truth = zip(*units, strict=True)
    pairs = [
        (one > other) + 0.5 * (one == other)
        for one, is_true in units
        for other, is_other in units
        if is_true and not is_other
    ]
    found = auroc(torch.tensor(values).double(), torch.tensor(truth))
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_precision_is_the_share_of_the_truth_among_as_many_top_units():
    values = torch.tensor([5.0, 4.0, 3.0, 2.0]).double()
    assert precision(values, torch.tensor([True, False, True, False])) == 0.5
    assert precision(values, torch.tensor([True, True, False, False])) == 1.0


def test_only_the_planted_kernels_are_trained_where_nothing_drifts():
    pair = planted_kernels(0, decoy=False, drift=0.0)
    change = absolute_change(pair.target, pair.baseline).values
    assert torch.equal(change > 0, pair.truth["task"].chosen)
    before, after = (
        float(pair.loss(m, "task").detach().mean()) for m in (pair.baseline, pair.target)
    )
    assert after < 0.4 * before
