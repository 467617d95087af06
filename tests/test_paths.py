"""Paths: where they are, how fast they move, and what they refuse."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paramattr import PiecewiseLinear, StraightLine
from paramattr.errors import ModelError
from paramattr.paths import breakpoints
from paramattr.quadrature import gauss_legendre
from tests.models import ZOO, other_weights


def points(count: int, dtype=torch.float64) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(count)
    return [
        {
            "w": torch.randn(2, 3, generator=draw, dtype=dtype),
            "b": torch.randn((), generator=draw, dtype=dtype),
        }
        for _ in range(count)
    ]


def assert_same(found, expected, **near):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **near)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [2, 3, 4, 6, 7, 10, 11, 50])
def test_goes_through_its_points_to_the_bit(count, dtype):
    given_points = points(count, dtype)
    path = PiecewiseLinear(given_points)
    assert path.breakpoints == tuple(k / (count - 1) for k in range(count))
    for alpha, point in zip(path.breakpoints, given_points, strict=True):
        assert_same(path.evaluate(alpha), point, rtol=0, atol=0)


@given(count=st.integers(2, 6), alpha=st.floats(0, 1))
def test_lies_on_the_line_between_its_neighbours(count, alpha):
    given_points = points(count)
    path = PiecewiseLinear(given_points)
    piece = min(math.floor(alpha * (count - 1)), count - 2)
    within = alpha * (count - 1) - piece
    start, end = given_points[piece], given_points[piece + 1]
    expected = {name: (1 - within) * start[name] + within * end[name] for name in start}
    assert_same(path.evaluate(alpha), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_derivative_is_the_slope(count):
    path = PiecewiseLinear(points(count))
    step = 1e-4
    for alpha in (0.1, 0.3, 0.45, 0.6, 0.9):
        before, after = path.evaluate(alpha - step), path.evaluate(alpha + step)
        slope = {name: (after[name] - before[name]) / (2 * step) for name in after}
        assert_same(path.derivative(alpha), slope, rtol=1e-9, atol=1e-9)


def test_derivative_at_a_point_is_that_of_the_piece_that_begins_there():
    given_points = points(4)
    path = PiecewiseLinear(given_points)
    for number in range(3):
        expected = {
            name: 3 * (given_points[number + 1][name] - given_points[number][name])
            for name in given_points[0]
        }
        assert_same(path.derivative(number / 3), expected)
    assert_same(path.derivative(1.0), expected)  # the last piece holds its end


@pytest.mark.parametrize("count", [2, 3, 5])
def test_derivative_integrates_to_the_change(count):
    given_points = points(count)
    path = PiecewiseLinear(given_points)
    rule, pieces = gauss_legendre(2), count - 1
    for name in given_points[0]:
        moved = sum(
            weight / pieces * path.derivative((piece + node) / pieces)[name]
            for piece in range(pieces)
            for node, weight in zip(rule.nodes, rule.weights, strict=True)
        )
        torch.testing.assert_close(moved, given_points[-1][name] - given_points[0][name])


def test_straight_line_is_eq_6():
    target, baseline = points(2)
    line = StraightLine(target, baseline)
    assert_same(line.evaluate(0.0), target, rtol=0, atol=0)
    assert_same(line.evaluate(1.0), baseline, rtol=0, atol=0)
    for alpha in (0.0, 0.25, 0.7, 1.0):
        expected = {n: target[n] + alpha * (baseline[n] - target[n]) for n in target}
        assert_same(line.evaluate(alpha), expected)
        assert_same(line.derivative(alpha), {n: baseline[n] - target[n] for n in target})


def test_points_may_be_models():
    model = ZOO["tied"]()[0]
    other = other_weights(model)
    line = StraightLine(model, other)
    own = dict(model.named_parameters())
    assert list(line.evaluate(0.5)) == list(own)  # a tied parameter once
    for name, value in line.evaluate(0.5).items():
        expected = (own[name] + other.get_parameter(name)) / 2
        torch.testing.assert_close(value, expected.detach())
        assert not value.requires_grad


def test_points_may_be_models_and_mappings():
    model = nn.Linear(2, 2)
    other = other_weights(model)
    mixed = StraightLine(model, dict(other.named_parameters()))
    assert_same(mixed.evaluate(0.3), StraightLine(model, other).evaluate(0.3), rtol=0, atol=0)


def test_a_point_of_another_order_and_precision_is_brought_to_the_firsts():
    start, end = points(2)
    turned = {name: end[name].float() for name in reversed(end)}
    line = StraightLine(start, turned)
    assert list(line.evaluate(0.5)) == list(start)
    assert {value.dtype for value in line.evaluate(0.5).values()} == {torch.float64}
    assert_same(line.evaluate(1.0), {n: end[n].float().double() for n in end}, rtol=0, atol=0)


def test_evaluating_leaves_the_points_alone():
    given_points = points(3)
    before = copy.deepcopy(given_points)
    path = PiecewiseLinear(given_points)
    for alpha in (0.0, 0.5, 1.0):
        for value in [*path.evaluate(alpha).values(), *path.derivative(alpha).values()]:
            value.add_(1)
    for point, old in zip(given_points, before, strict=True):
        assert_same(point, old, rtol=0, atol=0)


def test_breakpoints_are_the_paths_own_or_its_ends():
    class Bare:
        pass

    class Kinked:
        breakpoints = (0, 0.25, 1)

    assert breakpoints(Bare()) == (0.0, 1.0)
    assert breakpoints(Kinked()) == (0.0, 0.25, 1.0)
    assert breakpoints(StraightLine(*points(2))) == (0.0, 1.0)
    assert breakpoints(PiecewiseLinear(points(3))) == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("count", [0, 1])
def test_a_path_needs_two_points(count):
    with pytest.raises(ModelError, match=f"found {count}"):
        PiecewiseLinear(points(count) if count else [])


def test_points_that_do_not_fit():
    start, end = points(2)
    with pytest.raises(ModelError, match=r"'b' .*is missing in point 1"):
        StraightLine(start, {"w": end["w"]})
    with pytest.raises(ModelError, match=r"'w' has shape \(2, 3\).*\(3, 2\) in point 2"):
        PiecewiseLinear([start, end, {**end, "w": end["w"].T}])
    with pytest.raises(ModelError, match="list"):
        StraightLine(start, [1])


@pytest.mark.parametrize("places", [(0.5,), (), (0.0, 0.5), (0.0, 0.7, 0.3, 1.0), (0.0, 1.0, 1.0)])
def test_breakpoints_that_do_not_rise_from_0_to_1_are_refused(places):
    path = StraightLine({"w": torch.zeros(1)}, {"w": torch.ones(1)})
    path.breakpoints = places
    with pytest.raises(ModelError, match=r"breakpoints are .*from 0 to 1"):
        breakpoints(path)


def test_a_path_without_parameters_is_empty_all_along():
    path = PiecewiseLinear([{}, {}])
    assert path.evaluate(0.3) == path.derivative(0.3) == {}
