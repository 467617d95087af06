"""Several passes over the model, each with a part of the gradients: the same sums per unit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramattr import FAIG, Adaptive, ParamattrError
from paramattr.integration.integrals.fixed import groups
from tests.models import ZOO, other_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["convolution", "transformer_layer", "embedding"])
@pytest.mark.parametrize("partitions", [2, 3, 100])
@pytest.mark.parametrize("at_once", [None, 2])
def test_partitions_change_no_score(name, partitions, at_once):
    model, inputs, targets = ZOO[name]()
    faig = FAIG(model, other_weights(model, scale=0.1))
    options = {"reducer": ["layer", "scalar", "output_channel"], "n_steps": 3}
    whole = faig.score([(inputs, targets)], **options)
    parts = faig.score(
        [(inputs, targets)], partitions=partitions, internal_batch_size=at_once, **options
    )
    for units, scores in whole.items():
        found = parts[units]
        for kind in ("values", "signed", "standard_error"):
            torch.testing.assert_close(
                getattr(found, kind), getattr(scores, kind), rtol=1e-10, atol=1e-13
            )
        assert found.unassigned == pytest.approx(scores.unassigned, abs=1e-12)


def test_each_pass_differentiates_its_own_part_alone():
    asked = []

    def watch(module, inputs):
        if torch.is_grad_enabled():
            names = {name for name, value in module.named_parameters() if value.requires_grad}
            asked.append(names)

    model, inputs, targets = ZOO["convolution"]()
    baseline = other_weights(model)
    model.register_forward_pre_hook(watch)
    FAIG(model, baseline).score([(inputs, targets)], reducer="layer", n_steps=1, partitions=2)
    first, second, *_ = asked
    assert first
    assert second
    assert not first & second
    assert first | second == {name for name, _ in model.named_parameters()}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 8))
def test_groups_hold_every_name_once_in_order_and_are_even(sizes, parts):
    named = {str(place): size for place, size in enumerate(sizes)}
    found = groups(named, parts)
    assert [name for group in found for name in group] == list(named)
    assert len(found) <= parts
    largest = max(sum(named[name] for name in group) for group in found)
    assert largest <= sum(sizes) / parts + max(sizes)


def test_what_cannot_be_is_refused():
    model, inputs, targets = ZOO["linear"]()
    faig = FAIG(model, other_weights(model))
    with pytest.raises(ParamattrError, match="adaptive"):
        faig.score([(inputs, targets)], reducer="layer", method=Adaptive(), partitions=2)
    with pytest.raises(ParamattrError, match="partitions is 0"):
        faig.score([(inputs, targets)], reducer="layer", partitions=0)
