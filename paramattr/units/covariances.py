"""Covariances of several conditions' scores, over samples of the same number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import UnitError


class Covariances:
    """The covariances of several conditions' mean scores, unit by unit.

        cov_u(c, d) = Σ_x (m_u(x_c) - S_u,c) (m_u(x_d) - S_u,d) / (n (n - 1))

    where x_c and x_d are the samples of one number, such as one photograph in two conditions.

    Args:
        conditions: number of conditions.
        of_pairs: `(pairs, units)`, in the order of `combinations_with_replacement(range(c), 2)`.
        of_signed: the same of the signed sums in place of the magnitudes; None if not known.
    """

    def __init__(
        self,
        conditions: int,
        of_pairs: Float[Tensor, "pairs units"],
        of_signed: Float[Tensor, "pairs units"] | None = None,
    ) -> None:
        self.conditions, self.of_pairs, self.of_signed = conditions, of_pairs, of_signed

    def __eq__(self, other: object) -> bool:
        """Say whether two are of the same samples."""
        if not isinstance(other, Covariances):
            return NotImplemented
        # One pass makes both, so magnitudes alone tell samples apart: also in files without signs.
        return self is other or (
            self.conditions == other.conditions and torch.equal(self.of_pairs, other.of_pairs)
        )

    __hash__ = None  # type: ignore[assignment]

    def error(self, weights: Sequence[float], *, signed: bool = False) -> Float[Tensor, "units"]:
        """Give the standard error of Σ_c weight_c S_c.

        sqrt( Σ_c Σ_d weight_c weight_d cov(c, d) )

        Args:
            weights: weight of each condition.
            signed: whether it is that of the signed sums, in place of the magnitudes; NaN if they
                are not known.
        """
        of_pairs = self.of_signed if signed else self.of_pairs
        if of_pairs is None:
            return torch.full(self.of_pairs.shape[1:], torch.nan, dtype=torch.float64)
        variance = torch.zeros(of_pairs.shape[1], dtype=torch.float64)
        pairs = combinations_with_replacement(range(self.conditions), 2)
        for (one, other), covariance in zip(pairs, of_pairs, strict=True):
            twice = 1 if one == other else 2
            variance += twice * weights[one] * weights[other] * covariance
        return variance.clamp(min=0).sqrt()


class Paired:
    """A weighted sum of conditions' scores that were measured together.

    Args:
        covariances: covariances of the conditions.
        weights: weight of each condition in the sum.
    """

    def __init__(self, covariances: Covariances, weights: Sequence[float]) -> None:
        self.covariances, self.weights = covariances, tuple(weights)

    def error(self, *, signed: bool = False) -> Float[Tensor, "units"]:
        """Give the standard error of the sum: of magnitudes, or of signed attributions."""
        return self.covariances.error(self.weights, signed=signed)

    def to_tensors(self) -> dict[str, Tensor]:
        """Give tensors from which, with the weights, `from_tensors` restores the sum."""
        tensors = {"covariances": self.covariances.of_pairs}
        if self.covariances.of_signed is not None:
            tensors["signed_covariances"] = self.covariances.of_signed
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], weights: Sequence[float], units: int
    ) -> Paired:
        """Restore a sum over so many units from its weights and the result of `to_tensors`.

        Raises:
            UnitError: if they do not fit together.
        """
        pairs = len(weights) * (len(weights) + 1) // 2
        of_pairs, of_signed = tensors["covariances"], tensors.get("signed_covariances")
        for table in (of_pairs, of_signed):
            if table is not None and table.shape != (pairs, units):
                raise UnitError(
                    f"the covariances have shape {tuple(table.shape)}: expected ({pairs}, {units})"
                )
        return cls(Covariances(len(weights), of_pairs, of_signed), weights)

    def scaled(self, factor: float) -> Paired:
        """Multiply the sum by a number."""
        return Paired(self.covariances, [factor * weight for weight in self.weights])

    def plus(self, other: Paired | None, sign: float) -> Paired | None:
        """Add a sum of the same conditions, or subtract it; None if it is of others."""
        if other is None or self.covariances != other.covariances:
            return None
        pairs = zip(self.weights, other.weights, strict=True)
        return Paired(self.covariances, [one + sign * two for one, two in pairs])
