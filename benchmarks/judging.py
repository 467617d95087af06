"""What an edit costs on JPEG and on clean photographs, beside what the fine-tuning gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.benchmark import Row
from paramattr import Bootstrap, Curve, PathProfile
from paramattr.faithfulness.masking import Ends, Truth

Batch = tuple[Tensor, Tensor]
OWN, OTHER = "jpeg", "clean"


class Judge:
    """Measures networks on photographs in both conditions.

    Args:
        target: the fine-tuned network.
        baseline: the network before it.
        batches: condition to inputs and truths.
    """

    def __init__(
        self, target: nn.Module, baseline: nn.Module, batches: Mapping[str, Sequence[Batch]]
    ) -> None:
        self._inputs = torch.cat([x for c in (OWN, OTHER) for x, _ in batches[c]])
        self._truths = torch.cat([y for c in (OWN, OTHER) for _, y in batches[c]])
        self.target, self.baseline = self.decibels(target), self.decibels(baseline)
        self._bootstrap = Bootstrap()

    def errors(self, network: nn.Module) -> Float[Tensor, "conditions photographs"]:
        """Give the mean squared error of each photograph."""
        with torch.no_grad():
            outputs = network(self._inputs).clamp(0, 1)
        errors = (outputs - self._truths).double().square().mean((1, 2, 3))
        return errors.reshape(2, -1)

    def decibels(self, network: nn.Module) -> Float[Tensor, "conditions photographs"]:
        """Give the PSNR of each photograph."""
        return -10 * self.errors(network).log10()

    def row(self, edited: Float[Tensor, "conditions photographs"]) -> Row:
        """Say what an edit costs.

        `lost` and `lost_clean` are what JPEG and clean photographs lose in dB, over what the
        fine-tuning gained on JPEG; `damage` is the tool's own verdict.
        """
        ends = {
            name: Ends(-self.target[place], -self.baseline[place])
            for place, name in enumerate((OWN, OTHER))
        }
        curves = {
            ("", OWN, name): Curve((1.0,), -edited[place][None])
            for place, name in enumerate((OWN, OTHER))
        }
        verdict = Truth(ends, curves).judged("", OWN, 1.0, self._bootstrap)
        row: Row = {
            "jpeg": float(edited[0].mean()),
            "clean": float(edited[1].mean()),
        }
        for place, name in enumerate(("lost", "lost_clean")):
            values = torch.stack([self.target[place], edited[place], *self._gain()])
            share = self._bootstrap.interval(
                [Curve((0.0, 1.0, 2.0, 3.0), values)],
                lambda mean: (mean[..., 0] - mean[..., 1]) / (mean[..., 2] - mean[..., 3]),
            )
            row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        return row | verdict.marks

    def profile(
        self, places: Sequence[float], errors: Float[Tensor, "places conditions photographs"]
    ) -> Row:
        """Give the mean squared error and PSNR along a path, and how high its barrier is."""
        row: Row = {"places": list(places)}
        for number, name in enumerate((OWN, OTHER)):
            own = errors[:, number]
            profile = PathProfile(torch.tensor(places).double(), own.mean(1), own.shape[1])
            row[name] = {
                "decibels": (-10 * own.log10()).mean(1).tolist(),
                "errors": own.mean(1).tolist(),
                "barrier": profile.barrier,
                "close_ends": profile.has_close_ends,
            }
        return row

    def _gain(self) -> tuple[Tensor, Tensor]:
        return self.target[0], self.baseline[0]


def how_far(one: nn.Module, other: nn.Module) -> Row:
    """Give the distance of two networks over the other's length, and the cosine between them."""
    squares = torch.zeros(3, dtype=torch.float64)
    for own, its in zip(one.parameters(), other.parameters(), strict=True):
        a, b = own.double(), its.double()
        squares += torch.stack([a.square().sum(), b.square().sum(), (a * b).sum()])
    a_a, b_b, a_b = squares.tolist()
    distance = (a_a + b_b - 2 * a_b) ** 0.5 / b_b**0.5
    return {"distance": distance, "cosine": a_b / (a_a * b_b) ** 0.5}
