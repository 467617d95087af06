"""Curves between two models: Bézier curves, and their training."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import CheckpointError, ModelError, ParamattrError
from paramattr.files.reading import load_kind, save_state_dict
from paramattr.integration.batches import Batch, drawn, no_batch
from paramattr.integration.gradients import ObjectiveOfParameters, check_finite_values
from paramattr.integration.integrand import path_between
from paramattr.integration.model import FunctionalModel
from paramattr.objectives import Objective, check_callable, squared_error
from paramattr.parameters import Baseline
from paramattr.paths import FittedPath, Parameters, PiecewiseLinear
from paramattr.runtime.compute import Compute, check_count
from paramattr.runtime.isolation import undisturbed
from paramattr.runtime.workers import progress_bar
from paramattr.wrappers import unwrapped_pair


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


def connect(
    target: nn.Module,
    baseline: Baseline,
    loader: Iterable[Any],
    objective: Objective = squared_error,
    *,
    steps: int = 200,
    learning_rate: float = 2e-4,
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    show_progress: bool = False,
) -> BezierPath:
    """Train the middle of a curve so that the objective is low all along it.

        min over middle of E_{α ~ U(0, 1), x} L(γ(α), x)

    It starts at the middle of the straight line and takes a step of Adam per batch, at a place of
    the curve that is drawn anew. Buffers that differ stay halfway and are not trained. The loader
    is read as often as needed; shuffle it, and let it hold every condition the curve is for.

    Args:
        target: the model at the start, in evaluation mode.
        baseline: the model at the end, or a mapping of names to tensors.
        loader: batches, as in `FAIG.score`; one that can be read several times.
        objective: `(output, targets)` to a tensor `(B,)`; its mean over a batch is lowered.
        steps: batches.
        learning_rate: of Adam.
        seed: of the places on the curve; the global random state is neither used nor changed.
        device: where to compute; where the target is by default.
        dtype: as in `FAIG`.
        show_progress: draw a bar on stderr.

    Returns:
        The curve: a path for `FAIG(target, baseline, path=...)`. `FAIG.path_profile` says how high
        it rises.

    Raises:
        ParamattrError: if the models do not fit, the loader is empty, or a number cannot be.

    Source: Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs",
    Eq. 2.
    """
    check_callable(objective)
    check_count("steps", steps)
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, Real) or learning_rate <= 0:
        raise ParamattrError(f"learning_rate is {learning_rate!r}: expected a number above 0")
    target, baseline = unwrapped_pair(target, baseline)
    compute = Compute(device, dtype)
    with undisturbed(target, device):
        line = path_between(target, baseline, None, compute)
        curve = BezierPath(line.evaluate(0.0), line.evaluate(0.5), line.evaluate(1.0))
        model = FunctionalModel(target, compute, moving=line.buffers)
        function = ObjectiveOfParameters(model, objective)
        _train(curve, line, function, loader, steps, learning_rate, seed, show=show_progress)
    return curve


def _train(
    curve: BezierPath,
    line: FittedPath,
    function: ObjectiveOfParameters,
    loader: Iterable[Any],
    steps: int,
    learning_rate: float,
    seed: int,
    *,
    show: bool,
) -> None:
    # Statistics of a norm are no weights: a step of Adam may make a variance negative.
    trained = [name for name in curve.middle if name not in line.buffers]
    optimiser = torch.optim.Adam([curve.middle[name] for name in trained], lr=learning_rate)
    # Python's own generator: torch's would be the user's, and the global state is not ours.
    draw = random.Random(seed)
    with progress_bar("connecting", steps, show=show) as advance:
        for _, batch in zip(range(steps), _repeatedly(loader, line, function), strict=False):
            alpha = draw.random()
            # The gradient at the curve's point is the middle's, but for a factor that depends on
            # alpha.
            values, gradients = function.gradient(curve.evaluate(alpha), batch, trained)
            check_finite_values([values], batch.first)
            for name in trained:  # dγ/d middle = 2 α (1 - α)
                slope = 2 * alpha * (1 - alpha) / len(batch)
                curve.middle[name].grad = gradients[name].to(curve.middle[name]) * slope
            optimiser.step()
            advance(1)
    # A path must not hold a second copy of the model in its gradients.
    for name in trained:
        curve.middle[name].grad = None


def _repeatedly(
    loader: Iterable[Any], line: FittedPath, function: ObjectiveOfParameters
) -> Iterator[Batch]:
    device, model = next(iter(line.start.values())).device, function.model.model
    while True:
        is_empty = True
        for item in drawn(loader):
            is_empty = False
            batch = Batch.from_loader(item, device=device, model=model)
            yield function.referenced(lambda: line.evaluate(0.0), batch, len(batch))
        if is_empty:
            raise no_batch(loader)
