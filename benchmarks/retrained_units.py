"""Three trainings of the found units alone, which tell what these units can carry.

- `mend`: the units take the baseline's values, and are trained until the network does on clean
  photographs what the target does. What they cannot win back on JPEG was theirs.
- `unlearn`: the target's units are trained to do on JPEG what the baseline does, and on clean
  photographs what the target does.
- `learn`: the baseline's units are trained to do what the target does, on both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from paramattr import Selection, retrain_only, squared_error, substitute

Batch = tuple[Tensor, Tensor]
Goal = Callable[[nn.Module, nn.Module, Tensor], tuple[Tensor, Tensor]]
"""Target, baseline and inputs (one half JPEG, then one half clean) to inputs and outputs."""


def _mend(target: nn.Module, baseline: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    clean = inputs.chunk(2)[1]
    return clean, target(clean)


def _unlearn(target: nn.Module, baseline: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    jpeg, clean = inputs.chunk(2)
    return inputs, torch.cat([baseline(jpeg), target(clean)])


def _learn(target: nn.Module, baseline: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    return inputs, target(inputs)


GOALS: dict[str, Goal] = {"mend": _mend, "unlearn": _unlearn, "learn": _learn}
"""Names of trainings to what they aim at."""


def retrained(
    how: str,
    target: nn.Module,
    baseline: nn.Module,
    selection: Selection,
    batches: Iterator[Batch],
    rate: float,
) -> nn.Module:
    """Train some units of the target or of the baseline, and leave the others as they are.

    Args:
        how: a key of `GOALS`.
        target: the fine-tuned model.
        baseline: the model before it.
        selection: the units.
        batches: of inputs, one half JPEG and then one half clean, and truths, which are not used.
        rate: of Adam.
    """
    starts = {
        "mend": lambda: substitute(target, baseline, selection),
        "unlearn": lambda: target,
        "learn": lambda: baseline,
    }
    trained = retrain_only(starts[how](), selection)
    optimiser = torch.optim.Adam(trained.parameters(), lr=rate)
    for inputs, _ in batches:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                given, wanted = GOALS[how](target, baseline, inputs)
            output = trained(given)
        optimiser.zero_grad()
        squared_error(output.float(), wanted.float()).mean().backward()
        optimiser.step()
    network = copy.deepcopy(target)
    network.load_state_dict(trained.state_dict())
    return network
