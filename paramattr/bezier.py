"""A curved path between two models, bent by a third: the way round a barrier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath

from torch import Tensor, nn

from paramattr.errors import CheckpointError, ModelError
from paramattr.files.reading import load_kind, save_state_dict
from paramattr.paths import Parameters, PiecewiseLinear


class BezierPath:
    """The quadratic Bézier curve from the target to the baseline, bent by a middle.

        γ(α) = (1 - α)² target + 2 α (1 - α) middle + α² baseline

    It leaves the target towards the middle, and need not pass through it. With a middle halfway
    between the ends it is the straight line. `paramattr.connect` trains a middle for which the
    objective stays low.

    Args:
        target: the model at `alpha = 0`, or a mapping of names to tensors.
        middle: what bends the curve, likewise.
        baseline: the model at `alpha = 1`, likewise.

    Raises:
        ModelError: if the three do not hold the same parameters.

    Source: Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs",
    Sec. 3.2.

    >>> import torch
    >>> path = BezierPath(*({"w": torch.tensor(value)} for value in (0.0, 2.0, 1.0)))
    >>> path.evaluate(0.5)["w"], path.derivative(0.5)["w"]
    (tensor(1.2500), tensor(1.))
    """

    def __init__(
        self,
        target: nn.Module | Mapping[str, Tensor],
        middle: nn.Module | Mapping[str, Tensor],
        baseline: nn.Module | Mapping[str, Tensor],
    ) -> None:
        self.target, self.middle, self.baseline = PiecewiseLinear([target, middle, baseline]).points

    def evaluate(self, alpha: float) -> Parameters:
        """Give the parameters at `alpha` in [0, 1]; at the ends, the models' bit for bit."""
        if alpha in (0.0, 1.0):
            return dict(self.target if alpha == 0 else self.baseline)
        weights = ((1 - alpha) ** 2, 2 * alpha * (1 - alpha), alpha**2)
        points = (self.target, self.middle, self.baseline)
        return {
            name: sum(w * point[name] for w, point in zip(weights, points, strict=True))  # type: ignore[misc]
            for name in self.target
        }

    def derivative(self, alpha: float) -> Parameters:
        """Give the derivative of the parameters with respect to `alpha`."""
        return {
            name: 2 * (1 - alpha) * (self.middle[name] - self.target[name])
            + 2 * alpha * (self.baseline[name] - self.middle[name])
            for name in self.target
        }

    def save(self, path: str | FilePath) -> None:
        """Write the curve to a safetensors file.

        Raises:
            CheckpointError: if it cannot be written.
        """
        points = {"target": self.target, "middle": self.middle, "baseline": self.baseline}
        tensors = {
            f"{place}.{name}": value
            for place, point in points.items()
            for name, value in point.items()
        }
        save_state_dict(path, tensors, {"kind": "Bézier path"})

    @classmethod
    def load(cls, path: str | FilePath) -> BezierPath:
        """Read a curve that `save` wrote.

        Raises:
            CheckpointError: if the file is missing, broken, or holds no such curve.
        """
        tensors, _ = load_kind(path, "Bézier path", "a curve, written by BezierPath.save")
        points: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            place, _, name = key.partition(".")
            points.setdefault(place, {})[name] = value
        try:
            return cls(points["target"], points["middle"], points["baseline"])
        except (KeyError, ModelError) as error:
            raise CheckpointError(f"file {path} lacks a part of the curve ({error})") from None
