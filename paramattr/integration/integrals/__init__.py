"""The one table of rules: a name, a rule or a method to what makes its integral."""

from __future__ import annotations

from collections.abc import Callable

from paramattr.integration.integral import Method
from paramattr.integration.integrals.adaptive import Adaptive
from paramattr.integration.integrals.fixed import Drawn, Fixed
from paramattr.quadrature import Rule, get_rule

OWN: dict[str, Callable[[int], Method]] = {
    "adaptive": lambda n_steps: Adaptive(),
    "drawn": Drawn,
}
"""Names of rules that differ from sample to sample; all others are those of `quadrature.RULES`."""


def method_of(method: str | Rule | Method, n_steps: int) -> Method:
    """Look up what makes the integral.

    Args:
        method: a name, a `Rule`, or anything with the members of `Method`.
        n_steps: number of nodes, where a name leaves it open.

    Raises:
        ParamattrError: for an unknown name, or a number of nodes that the rule does not support.
    """
    # The only place that knows rules by name or class: all else asks what a rule can do.
    if isinstance(method, str) and method in OWN:
        return OWN[method](n_steps)
    if isinstance(method, str | Rule):
        return Fixed(get_rule(method, n_steps))
    if not hasattr(method, "integral"):
        get_rule(str(method), n_steps)  # says what there is
    return method
