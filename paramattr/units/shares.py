"""How many units a share of them is."""

from __future__ import annotations

from numbers import Integral, Real

from paramattr.errors import UnitError


def how_many(units: int, *, fraction: float | None = None, count: int | None = None) -> int:
    """Turn a share or a number of units into a number that there is.

    Args:
        units: how many there are.
        fraction: share of them, above 0 and up to 1, rounded to at least one unit.
        count: a number instead, from 0 to all.

    Raises:
        UnitError: unless exactly one of the two is given, within its range.

    >>> how_many(200, fraction=0.01), how_many(3, fraction=0.01), how_many(3, count=0)
    (2, 1, 0)
    """
    if (fraction is None) == (count is None):
        raise UnitError(
            "top takes either a fraction or a count: write top(fraction=0.01) or top(count=50)"
        )
    if fraction is not None:
        if not isinstance(fraction, Real) or not 0 < fraction <= 1:
            raise UnitError(
                f"fraction is {fraction!r}: expected a share above 0 and up to 1, such as 0.01 "
                "for 1%"
            )
        return max(1, round(fraction * units))
    if isinstance(count, bool) or not isinstance(count, Integral) or not 0 <= count <= units:
        raise UnitError(
            f"count is {count!r}: expected a whole number from 0 to {units}, the number of "
            "units; a share of them is written fraction=0.01"
        )
    return int(count)
