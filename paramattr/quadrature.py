"""Quadrature rules on [0, 1]: their nodes, weights and degrees of exactness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from paramattr.errors import ParamattrError


@dataclass(frozen=True)
class Rule:
    """A rule ∫_0^1 f(α) dα ≈ Σ_k w_k f(α_k).

    Attributes:
        name: the rule's name in messages.
        nodes: points in [0, 1], increasing.
        weights: one per node; they sum to 1.
        degree: the highest degree up to which every polynomial is integrated exactly.
        embedded_weights: weights of a coarser rule on the same nodes. Its difference from this
            rule estimates the error. None if there is no such rule.
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    degree: int
    embedded_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.nodes or len(self.nodes) != len(self.weights):
            raise ParamattrError(
                f"rule {self.name!r} has {len(self.nodes)} nodes and {len(self.weights)} weights: "
                "expected as many of each, at least one"
            )
        if not all(0 <= node <= 1 for node in self.nodes):
            raise ParamattrError(
                f"rule {self.name!r} has nodes outside [0, 1]: expected points between the target "
                f"(0) and the baseline (1), found {self.nodes}"
            )

    def settings(self) -> list[Any]:
        """Describe the rule, to tell runs apart."""
        return [self.name, list(self.nodes), list(self.weights)]

    def integrate(self, function: Callable[[float], float]) -> float:
        """Integrate a function of one number over [0, 1]."""
        return sum(w * function(x) for x, w in zip(self.nodes, self.weights, strict=True))

    def error_estimate(self, function: Callable[[float], float]) -> float:
        """Estimate the error on a function by the difference from the embedded rule.

        Raises:
            ParamattrError: if the rule has no embedded rule.
        """
        if self.embedded_weights is None:
            raise ParamattrError(
                f"rule {self.name!r} has no embedded rule to estimate its error by: use "
                "gauss_kronrod"
            )
        pairs = zip(self.nodes, self.weights, self.embedded_weights, strict=True)
        return abs(sum((w - e) * function(x) for x, w, e in pairs))


def riemann_left(n: int) -> Rule:
    """Place `n` equal weights at `k / n`; with 100 nodes this is the paper's estimator (Eq. 6).

    >>> riemann_left(4).nodes
    (0.0, 0.25, 0.5, 0.75)
    """
    _check("riemann_left", n, 1)
    return _rule("riemann_left", np.arange(n) / n, np.full(n, 1 / n), 0)


def riemann_right(n: int) -> Rule:
    """Place `n` equal weights at `(k + 1) / n`."""
    _check("riemann_right", n, 1)
    return _rule("riemann_right", np.arange(1, n + 1) / n, np.full(n, 1 / n), 0)


def riemann_middle(n: int) -> Rule:
    """Place `n` equal weights at the middles of `n` equal intervals."""
    _check("riemann_middle", n, 1)
    return _rule("riemann_middle", (np.arange(n) + 0.5) / n, np.full(n, 1 / n), 1)


def riemann_trapezoid(n: int) -> Rule:
    """Place `n` even nodes, both ends included at half weight; the weights sum to 1.

    The weights of Captum's rule of this name sum to `(n - 1) / n`.
    """
    _check("riemann_trapezoid", n, 2)
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return _rule("riemann_trapezoid", np.linspace(0, 1, n), weights, 1)


def simpson(n: int) -> Rule:
    """Compose Simpson's 1/3 rule over `n` even nodes; if `n` is even, a 3/8 rule comes last.

    Both are exact to degree 3.
    """
    _check("simpson", n, 3)
    weights = np.zeros(n)
    last = n if n % 2 else n - 3
    for start in range(0, last - 2, 2):
        weights[start : start + 3] += np.array([1, 4, 1]) / 3
    if last < n:
        weights[-4:] += np.array([1, 3, 3, 1]) * 3 / 8
    return _rule("simpson", np.linspace(0, 1, n), weights / (n - 1), 3)


def gauss_legendre(n: int) -> Rule:
    """Place the `n` nodes that integrate polynomials up to degree `2n - 1` exactly.

    >>> rule = gauss_legendre(3)
    >>> round(rule.integrate(lambda x: x**5), 12) == round(1 / 6, 12)
    True
    """
    _check("gausslegendre", n, 1)
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return _rule("gausslegendre", (nodes + 1) / 2, weights / 2, 2 * n - 1)


def gauss_kronrod(n: int) -> Rule:
    """Extend the Gauss-Legendre rule of `(n - 1) / 2` nodes, the embedded rule, to `n` nodes.

    It is exact to degree `(3n - 1) / 2`, and to one more if `(n - 1) / 2` is odd (Kronrod 1965).
    The nodes come from Laurie's algorithm (1997).

    Args:
        n: total number of nodes, odd, at least 3; 15 extends the 7-point Gauss rule.
    """
    _check("gausskronrod", n, 3)
    if n % 2 == 0:
        raise ParamattrError(
            f"gausskronrod takes an odd number of nodes, since it adds m + 1 nodes to a Gauss rule "
            f"of m: found n_steps={n}; use {n - 1} or {n + 1}"
        )
    m = (n - 1) // 2
    diagonal, off = _kronrod_jacobi(m)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    embedded = np.zeros(n)
    embedded[1::2] = np.polynomial.legendre.leggauss(m)[1] / 2
    degree = 3 * m + 1 + m % 2  # by symmetry, an odd degree comes for free
    return _rule("gausskronrod", (values + 1) / 2, vectors[0] ** 2, degree, embedded)


def drawn(n: int, place: int, shift: float = 0.5) -> Rule:
    """Place one node in each of `n` equal strata, all shifted alike, as one sample's rule.

        α_k = (k + u) / n,    u = shift + place / φ  (mod 1),    φ the golden ratio

    The samples' shifts fill the interval evenly, so the nodes of several samples together are many.
    Over a shift that is drawn evenly from [0, 1) the expected attribution is the integral. The
    expected magnitude is not: it is too large where the integrand varies, since the magnitude comes
    before the mean.

    Args:
        n: number of strata.
        place: the sample's number, from 0.
        shift: the first sample's, at least 0 and below 1; half of a stratum is its middle.

    Source: Cranley and Patterson 1976 (random shifts); Weyl 1916 (the golden ratio's multiples).

    >>> nodes = [drawn(1, place).nodes[0] for place in range(4)]
    >>> [round(node, 3) for node in nodes] == [0.5, 0.118, 0.736, 0.354]
    True
    """
    _check("drawn", n, 1)
    if not 0 <= shift < 1:
        raise ParamattrError(f"shift is {shift!r}: expected a number of at least 0 and below 1")
    moved = (shift + place * (math.sqrt(5) - 1) / 2) % 1
    return _rule("drawn", (np.arange(n) + moved) / n, np.full(n, 1 / n), 0)


RULES: dict[str, Callable[[int], Rule]] = {
    "riemann_left": riemann_left,
    "riemann_right": riemann_right,
    "riemann_middle": riemann_middle,
    "riemann_trapezoid": riemann_trapezoid,
    "simpson": simpson,
    "gausslegendre": gauss_legendre,
    "gausskronrod": gauss_kronrod,
}


def get_rule(method: str | Rule, n_steps: int) -> Rule:
    """Look up a rule by name and number of nodes; a rule object is returned unchanged.

    Raises:
        ParamattrError: for an unknown name, or a number of nodes that the rule does not support.
    """
    if isinstance(method, Rule):
        return method
    if not isinstance(method, str) or method not in RULES:
        raise ParamattrError(
            f"method {method!r} is not known: expected one of {', '.join(RULES)}, or a "
            "paramattr.quadrature.Rule; of FAIG also adaptive and drawn"
        )
    return RULES[method](n_steps)


def _check(name: str, n: int, least: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < least:
        raise ParamattrError(
            f"{name} takes at least {least} node{'s' if least > 1 else ''}: found n_steps={n!r}; "
            "8 or 16 are plenty for gausslegendre"
        )


def _rule(
    name: str,
    nodes: np.ndarray,
    weights: np.ndarray,
    degree: int,
    embedded: np.ndarray | None = None,
) -> Rule:
    return Rule(
        name,
        tuple(np.clip(nodes, 0, 1).tolist()),
        tuple(weights.tolist()),
        degree,
        None if embedded is None else tuple(embedded.tolist()),
    )


def _kronrod_jacobi(m: int) -> tuple[np.ndarray, np.ndarray]:
    # The Jacobi-Kronrod matrix of the Legendre weight on [-1, 1]: its diagonal is zero by
    # symmetry, and its squared off-diagonal comes from the mixed moments (Laurie 1997, Sec. 4).
    a = np.zeros(2 * m + 1)
    b = np.zeros(2 * m + 1)
    k = np.arange(1, (3 * m + 1) // 2 + 1)
    b[k] = k**2 / (4.0 * k**2 - 1)
    b[0] = 2.0
    s = np.zeros(m // 2 + 2)
    t = np.zeros(m // 2 + 2)
    t[1] = b[m + 1]
    for step in range(m - 1):
        u = 0.0
        for i in range((step + 1) // 2, -1, -1):
            j = step - i
            u += (a[i + m + 1] - a[j]) * t[i + 1] + b[i + m + 1] * s[i] - b[j] * s[i + 1]
            s[i + 1] = u
        s, t = t, s
    s[1:] = s[:-1].copy()
    for step in range(m - 1, 2 * m - 2):
        u = 0.0
        for i in range(step + 1 - m, (step - 1) // 2 + 1):
            j = step - i
            r = m - 1 - j
            u += -(a[i + m + 1] - a[j]) * t[r + 1] - b[i + m + 1] * s[r + 1] + b[j] * s[r + 2]
            s[r + 1] = u
        i = (step + 1) // 2
        if step % 2 == 0:
            a[i + m + 1] = a[i] + (s[r + 1] - b[i + m + 1] * s[r + 2]) / t[r + 2]
        else:
            b[i + m + 1] = s[r + 1] / s[r + 2]
        s, t = t, s
    a[2 * m] = a[m - 1] - b[2 * m] * s[1] / t[1]
    return a, np.sqrt(b[1:])
