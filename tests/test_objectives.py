"""Objectives against sums written out, one number a sample."""

import math

import pytest
import torch

from paramattr import absolute_error, cross_entropy, squared_error
from paramattr.errors import ObjectiveError

SHAPES = [(3,), (1,), (3, 1), (2, 4), (2, 3, 4), (2, 1, 3, 2)]


def drawn(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(function, output, targets) -> list[float]:
    return [
        math.fsum(
            function(o - t)
            for o, t in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)
        )
        for one, other in zip(output, targets, strict=True)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("objective", "function"), [(squared_error, lambda d: d * d), (absolute_error, abs)]
)
def test_errors_are_summed_within_each_sample(shape, objective, function):
    output, targets = drawn(*shape), drawn(*shape, seed=1)
    found = objective(output, targets)
    assert found.shape == shape[:1]
    expected = by_hand(function, output, targets)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("objective", [squared_error, absolute_error, cross_entropy])
def test_samples_do_not_see_each_other(objective):
    output, targets = drawn(4, 3), drawn(4, 3, seed=1).softmax(1)
    whole = objective(output, targets)
    for sample in range(4):
        part = slice(sample, sample + 1)
        torch.testing.assert_close(objective(output[part], targets[part]), whole[part])
    jacobian = torch.func.jacrev(lambda o: objective(o, targets))(output)
    for sample in range(4):
        for other in range(4):
            assert bool(jacobian[sample, other].any()) == (sample == other)


def log_softmax(logits: list[float]) -> list[float]:
    norm = math.log(math.fsum(math.exp(logit) for logit in logits))
    return [logit - norm for logit in logits]


def test_cross_entropy_of_class_numbers():
    output, targets = drawn(4, 3), torch.tensor([0, 2, 1, 2])
    expected = [
        -log_softmax(row)[target]
        for row, target in zip(output.tolist(), targets.tolist(), strict=True)
    ]
    found = cross_entropy(output, targets)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_cross_entropy_of_probabilities():
    output, targets = drawn(4, 3), drawn(4, 3, seed=1).softmax(1)
    expected = [
        -math.fsum(p * log for p, log in zip(wanted, log_softmax(row), strict=True))
        for row, wanted in zip(output.tolist(), targets.tolist(), strict=True)
    ]
    found = cross_entropy(output, targets)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("places", [(5,), (2, 3)])
def test_cross_entropy_is_summed_over_positions(places):
    output = drawn(2, 3, *places)
    targets = torch.randint(0, 3, (2, *places), generator=torch.Generator().manual_seed(1))
    expected = []
    for logits, wanted in zip(output, targets, strict=True):
        rows = logits.flatten(1).T.tolist()
        one = zip(rows, wanted.flatten().tolist(), strict=True)
        expected.append(-math.fsum(log_softmax(row)[target] for row, target in one))
    found = cross_entropy(output, targets)
    assert found.shape == (2,)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    whole = drawn(2, 3, *places, seed=2).softmax(1)
    assert cross_entropy(output, whole).shape == (2,)


@pytest.mark.parametrize("objective", [squared_error, absolute_error])
@pytest.mark.parametrize("other", [(2, 1), (3,), (1, 3), (2, 3, 1), (3, 2)])
def test_targets_are_never_broadcast(objective, other):
    with pytest.raises(ObjectiveError, match=r"\(2, 3\)"):
        objective(drawn(2, 3), drawn(*other))


@pytest.mark.parametrize("objective", [squared_error, absolute_error, cross_entropy])
@pytest.mark.parametrize("targets", [None, 3, [1.0]])
def test_targets_are_needed(objective, targets):
    with pytest.raises(ObjectiveError, match=f"{objective.__name__} needs targets"):
        objective(drawn(2, 3), targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", [squared_error, absolute_error, cross_entropy])
def test_precision_is_the_outputs(objective, dtype):
    output, targets = drawn(2, 3, dtype=dtype), drawn(2, 3, seed=1, dtype=dtype).softmax(1)
    assert objective(output, targets).dtype == dtype


def test_gradients_are_the_textbooks():
    output, targets = drawn(2, 3).requires_grad_(), drawn(2, 3, seed=1)
    (found,) = torch.autograd.grad(squared_error(output, targets).sum(), output)
    torch.testing.assert_close(found, (2 * (output - targets)).detach())
    (found,) = torch.autograd.grad(absolute_error(output, targets).sum(), output)
    torch.testing.assert_close(found, (output - targets).sign().detach())
    numbers = torch.tensor([1, 0])
    (found,) = torch.autograd.grad(cross_entropy(output, numbers).sum(), output)
    expected = output.softmax(1) - torch.eye(3, dtype=torch.float64)[numbers]
    torch.testing.assert_close(found, expected.detach())
