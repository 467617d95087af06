"""Models of many kinds, as a user hands them in: are the answers complete?

For each pair: how far the attributions are from `L(baseline) - L(target)` of the two models as they
were handed in, over that change; how far the target's output is from the baseline's when everything
is substituted; and the sum over units and over what is in none, over the sum over single entries.
Where the objective is not smooth along the path (ReLU, or a router that chooses other experts) the
adaptive rule is taken, and a place where it could not settle is reported as a jump.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.benchmark import Row, say, start
from benchmarks.model_pairs import PAIRS, ModelPair
from paramattr import FAIG, Adaptive, Selection, UnitIndex, substitute
from paramattr.integration.batches import Batch
from paramattr.objectives import prediction
from paramattr.wrappers import unwrapped


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        steps: nodes of the Gauss-Legendre rule.
        enough: relative residual from which on the adaptive rule is taken.
        most: gradients per sample that the adaptive rule may take.
        seed: of the models and the data.
    """

    steps: int = 16
    enough: float = 0.01
    most: int = 2000
    seed: int = 0


def run(config: Config) -> dict[str, Any]:
    """Measure every pair."""
    return {"rows": [say(measure(name, config)) for name in PAIRS]}


def measure(name: str, config: Config) -> Row:
    """Measure one pair."""
    torch.manual_seed(config.seed)
    pair = PAIRS[name]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        faig = FAIG(pair.target, pair.baseline, objective=pair.objective, **pair.options)
        row = _residual(faig, pair, config)
        row["units"] = _in_units(faig, pair, config)
    row["substituted"] = _substituted(pair)
    return {
        "model": name,
        "unit": pair.unit,
        **row,
        "warnings": [str(w.message)[:80] for w in caught if w.category is UserWarning],
    }


def _residual(faig: FAIG, pair: ModelPair, config: Config) -> dict[str, Any]:
    """Compare with the change of the objective between the two models themselves."""
    ends = (pair.reference or pair.baseline, pair.target)
    change = float(torch.sub(*(_objective(model, pair) for model in ends)).sum())
    given = _given(pair.batch)
    found = {"rule": f"{config.steps} nodes", "jump": False, "change": change}
    total = _total(faig.attribute(*given, n_steps=config.steps))
    if abs(total - change) > config.enough * abs(change):
        rule = Adaptive(rtol=1e-3, max_evaluations=config.most)
        total = _total(faig.attribute(*given, method=rule, per_sample=True))
        found["rule"] = "adaptive"
        found["jump"] = any(spent.reason != "converged" for spent in faig.spent)
    return {**found, "residual": abs(total - change) / abs(change)}


def _in_units(faig: FAIG, pair: ModelPair, config: Config) -> float:
    found = faig.score([pair.batch], reducer=[pair.unit, "scalar"], n_steps=2)
    units, entries = found[pair.unit], found["scalar"]
    return float(units.values.sum() / (1 - units.unassigned) / entries.values.sum())


def _substituted(pair: ModelPair) -> float:
    """Give the largest difference from the baseline's output when all is substituted."""
    strict = pair.options.get("strict", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faig = FAIG(pair.target, pair.baseline, objective=pair.objective, strict=strict)
    index = UnitIndex.of(faig.model, "layer")
    everything = Selection(index, torch.ones(len(index), dtype=torch.bool))
    edited = substitute(faig.model, faig.baseline, everything, strict=strict)
    outputs = [_output(model, pair) for model in (edited, pair.reference or pair.baseline)]
    return float((outputs[0] - outputs[1]).abs().max())


def _given(batch: Any) -> tuple[Any, ...]:
    return (batch,) if isinstance(batch, Mapping) else batch


def _output(model: nn.Module, pair: ModelPair) -> Tensor:
    plain = unwrapped(model) if isinstance(model, nn.DataParallel) else model
    batch = Batch.from_loader(pair.batch, model=unwrapped(model))
    with torch.no_grad():
        return prediction(plain(*batch.arguments, **batch.keywords))


def _objective(model: nn.Module, pair: ModelPair) -> Tensor:
    """Evaluate the objective of a model itself; half precisions in float32."""
    if next(model.parameters()).dtype.itemsize < torch.float32.itemsize:
        model = copy.deepcopy(model).float()
    batch = Batch.from_loader(pair.batch, model=unwrapped(model))
    with torch.no_grad():
        return pair.objective(_output(model, pair), batch.targets).double()


def _total(attributions: Mapping[str, Tensor]) -> float:
    return float(sum(value.double().sum() for value in attributions.values()))


if __name__ == "__main__":
    start(Config, run)
