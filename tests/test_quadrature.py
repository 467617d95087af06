"""Quadrature rules: what each integrates exactly, and what it does not."""

import math

import numpy as np
import pytest
from captum.attr._utils.approximation_methods import approximation_parameters
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Legendre, Polynomial

from paramattr.errors import ParamattrError
from paramattr.quadrature import (
    RULES,
    Rule,
    gauss_kronrod,
    gauss_legendre,
    get_rule,
    riemann_left,
    riemann_middle,
    riemann_right,
    riemann_trapezoid,
    simpson,
)

MANY = {
    "riemann_left": range(1, 31),
    "riemann_right": range(1, 31),
    "riemann_middle": range(1, 31),
    "riemann_trapezoid": range(2, 31),
    "simpson": range(3, 31),
    "gausslegendre": range(1, 31),
    "gausskronrod": range(3, 62, 2),
}
EVERY = [pytest.param(name, n, id=f"{name}-{n}") for name, counts in MANY.items() for n in counts]

every_rule = pytest.mark.parametrize(("name", "n"), EVERY)


def shifted_legendre(degree: int) -> Legendre:
    """Give the Legendre polynomial on [0, 1]: its integral is 1 for degree 0 and 0 for others."""
    return Legendre.basis(degree, domain=[0, 1])


def test_every_rule_is_under_test():
    assert set(MANY) == set(RULES)


@every_rule
def test_weights_are_positive_and_sum_to_one(name, n):
    rule = get_rule(name, n)
    assert len(rule.nodes) == len(rule.weights) == n
    assert min(rule.weights) > 0
    assert math.fsum(rule.weights) == pytest.approx(1, abs=1e-14)


@every_rule
def test_nodes_increase_within_the_interval(name, n):
    nodes = get_rule(name, n).nodes
    assert nodes[0] >= 0
    assert nodes[-1] <= 1
    assert (np.diff(nodes) > 0).all()


@every_rule
def test_exact_up_to_its_degree_and_no_further(name, n):
    rule = get_rule(name, n)
    for degree in range(rule.degree + 1):
        expected = 1.0 if degree == 0 else 0.0
        assert rule.integrate(shifted_legendre(degree)) == pytest.approx(expected, abs=1e-13)
    assert abs(rule.integrate(shifted_legendre(rule.degree + 1))) > 1e-7


@pytest.mark.parametrize(
    ("name", "degree"),
    [
        ("riemann_left", lambda n: 0),
        ("riemann_right", lambda n: 0),
        ("riemann_middle", lambda n: 1),
        ("riemann_trapezoid", lambda n: 1),
        ("simpson", lambda n: 3),
        ("gausslegendre", lambda n: 2 * n - 1),
        # Kronrod's 3m + 1, and one more for odd m, where that is even and the rule symmetric.
        ("gausskronrod", lambda n: 3 * (n // 2) + 1 + n // 2 % 2),
    ],
)
def test_degree_is_the_textbooks(name, degree):
    for n in MANY[name]:
        assert get_rule(name, n).degree == degree(n)


@pytest.mark.parametrize("name", ["riemann_middle", "riemann_trapezoid", "gausslegendre"])
@pytest.mark.parametrize("n", [2, 5, 8])
def test_symmetric_rules_are_symmetric(name, n):
    rule = get_rule(name, n)
    np.testing.assert_allclose(rule.nodes, 1 - np.array(rule.nodes[::-1]), atol=1e-15)
    np.testing.assert_allclose(rule.weights, rule.weights[::-1], atol=1e-15)


@given(
    st.sampled_from(EVERY),
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=6),
)
def test_random_polynomials(case, coefficients):
    rule = get_rule(*case.values)
    polynomial = Polynomial(coefficients[: rule.degree + 1])
    expected = polynomial.integ()(1.0)
    assert rule.integrate(polynomial) == pytest.approx(expected, abs=1e-12)


def test_riemann_sums_by_hand():
    def square(x):
        return x * x

    assert riemann_left(2).integrate(square) == pytest.approx(1 / 8)
    assert riemann_right(2).integrate(square) == pytest.approx(5 / 8)
    assert riemann_middle(2).integrate(square) == pytest.approx(5 / 16)
    assert riemann_trapezoid(3).integrate(square) == pytest.approx(3 / 8)
    assert riemann_left(100).nodes == tuple(k / 100 for k in range(100))  # Eq. 6


@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_trapezoid_sums_to_one_where_captums_does_not(n):
    step_sizes, alphas = approximation_parameters("riemann_trapezoid")
    rule = riemann_trapezoid(n)
    assert sum(rule.weights) == pytest.approx(1, abs=1e-14)
    assert sum(step_sizes(n)) == pytest.approx((n - 1) / n, abs=1e-14)
    np.testing.assert_allclose(rule.nodes, alphas(n), atol=1e-7)  # Captum's are in float32


@pytest.mark.parametrize("method", ["riemann_left", "riemann_right", "riemann_middle"])
@pytest.mark.parametrize("n", [2, 7, 32])
def test_riemann_rules_are_captums(method, n):
    step_sizes, alphas = approximation_parameters(method)
    rule = get_rule(method, n)
    np.testing.assert_allclose(rule.weights, step_sizes(n), atol=1e-15)
    np.testing.assert_allclose(rule.nodes, alphas(n), atol=1e-7)  # Captum's are in float32


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_gauss_legendre_is_captums(n):
    step_sizes, alphas = approximation_parameters("gausslegendre")
    rule = gauss_legendre(n)
    np.testing.assert_allclose(rule.weights, step_sizes(n), atol=1e-15)
    np.testing.assert_allclose(rule.nodes, alphas(n), atol=1e-15)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (3, [1 / 6, 4 / 6, 1 / 6]),
        (4, [1 / 8, 3 / 8, 3 / 8, 1 / 8]),
        (5, [1 / 12, 4 / 12, 2 / 12, 4 / 12, 1 / 12]),
        # One 1/3 rule on two intervals of a fifth, then one 3/8 rule on three.
        (6, [1 / 15, 4 / 15, 1 / 15 + 3 / 40, 9 / 40, 9 / 40, 3 / 40]),
    ],
)
def test_simpson_by_hand(n, expected):
    np.testing.assert_allclose(simpson(n).weights, expected, rtol=1e-14)
    np.testing.assert_allclose(simpson(n).nodes, np.arange(n) / (n - 1), rtol=1e-14)


@pytest.mark.parametrize("start", [5, 6])
def test_simpson_converges_with_the_fourth_power(start):
    def error(n):
        return abs(simpson(n).integrate(math.exp) - (math.e - 1))

    order = math.log2(error(start) / error(4 * (start - 1) + 1)) / 2
    assert 3.6 < order < 4.6


# QUADPACK's qk15 (Piessens et al. 1983) on [-1, 1]: nodes from the outermost to the middle, their
# Kronrod weights, and the Gauss weights of every second node.
QK15_NODES = [
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144691693331,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
    0.000000000000000000000000000000000,
]
QK15_WEIGHTS = [
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
    0.209482141084727828012999174891714,
]
QK15_GAUSS = [
    0.129484966168869693270611432679082,
    0.279705391489276667901467771423780,
    0.381830050505118944950369775488975,
    0.417959183673469387755102040816327,
]


def mirrored(half, sign=1):
    return np.array([*(sign * value for value in half[:-1]), *half[::-1]])


def test_kronrod_of_15_nodes_is_quadpacks():
    rule = gauss_kronrod(15)
    np.testing.assert_allclose(rule.nodes, (1 + mirrored(QK15_NODES, -1)) / 2, atol=1e-15)
    np.testing.assert_allclose(rule.weights, mirrored(QK15_WEIGHTS) / 2, atol=1e-15)
    np.testing.assert_allclose(rule.embedded_weights[1::2], mirrored(QK15_GAUSS) / 2, atol=1e-15)
    assert not any(rule.embedded_weights[0::2])


@pytest.mark.parametrize("n", MANY["gausskronrod"])
def test_kronrod_holds_the_gauss_rule(n):
    rule, inner = gauss_kronrod(n), gauss_legendre((n - 1) // 2)
    np.testing.assert_allclose(rule.nodes[1::2], inner.nodes, atol=1e-13)
    np.testing.assert_allclose(rule.embedded_weights[1::2], inner.weights, atol=1e-14)


@pytest.mark.parametrize("n", [5, 9, 15, 21])
@pytest.mark.parametrize(
    ("function", "integral"),
    [
        (math.exp, math.e - 1),
        (math.sqrt, 2 / 3),
        (lambda x: 1 / (1 + 25 * (2 * x - 1) ** 2), math.atan(5) / 5),
        (lambda x: math.cos(5 * x), math.sin(5) / 5),
        (lambda x: x * math.sqrt(x), 2 / 5),
    ],
    ids=["exp", "sqrt", "runge", "cos", "power"],
)
def test_error_estimate_bounds_the_error(n, function, integral):
    rule = gauss_kronrod(n)
    error = abs(rule.integrate(function) - integral)
    assert error <= rule.error_estimate(function) + 1e-15


def test_error_estimate_shrinks_where_the_rule_converges():
    estimates = [gauss_kronrod(n).error_estimate(lambda x: math.cos(20 * x)) for n in (5, 15, 31)]
    assert estimates[0] > 10 * estimates[1] > 1e6 * estimates[2]


def test_error_estimate_needs_an_embedded_rule():
    with pytest.raises(ParamattrError, match="gauss_kronrod"):
        gauss_legendre(3).error_estimate(math.exp)


# Names and what is refused


def test_a_rule_object_is_taken_as_it_is():
    rule = Rule("midpoint", (0.5,), (1.0,), 1)
    assert get_rule(rule, 99) is rule


@pytest.mark.parametrize(
    ("name", "n"),
    [(name, counts[0] - 1) for name, counts in MANY.items()]
    + [("gausskronrod", 8), ("gausslegendre", 2.0), ("riemann_left", True), ("gausslegendre", -3)],
)
def test_numbers_of_nodes_that_a_rule_cannot_take(name, n):
    with pytest.raises(ParamattrError, match=name):
        get_rule(name, n)


@pytest.mark.parametrize("method", ["gauss", None, 3])
def test_unknown_names(method):
    with pytest.raises(ParamattrError, match="expected one of riemann_left"):
        get_rule(method, 8)


@pytest.mark.parametrize(
    ("nodes", "weights"), [((), ()), ((0.5,), (0.5, 0.5)), ((-0.1,), (1.0,)), ((1.1,), (1.0,))]
)
def test_rules_that_are_none(nodes, weights):
    with pytest.raises(ParamattrError, match="mine"):
        Rule("mine", nodes, weights, 0)
