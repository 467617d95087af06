"""What networks make of photographs, how good it is, and how far it is from the target's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.data.measures import PLANES, output_difference, psnr
from blind_sr.data.photographs import Photographs
from blind_sr.labels import INPUTS, MASKS
from paramattr import Curve, squared_error
from paramattr.faithfulness.masking import Ends, Measure, Truth

Outputs = dict[str, list[Tensor]]
"""Condition to images, each `(1, 3, H, W)`."""


def restore(
    model: nn.Module, photographs: Photographs, conditions: Sequence[str] = INPUTS
) -> Outputs:
    """Run a network over the photographs' inputs one by one, without gradients."""
    with torch.inference_mode():
        return {c: [model(image) for image in photographs.low[c]] for c in conditions}


def quality(outputs: Outputs, photographs: Photographs) -> dict[str, float]:
    """Give the mean PSNR in dB of a network's outputs in each condition."""
    return {
        condition: _mean(map(psnr, images, photographs.high))
        for condition, images in outputs.items()
    }


def output_measure(photographs: Photographs, condition: str, target: Outputs) -> Measure:
    """Make the paper's measure of a network, on every plane from one run of the network.

    Args:
        photographs: what is restored.
        condition: of the inputs.
        target: the target's outputs, of `restore`.

    Returns:
        A function of a network that gives the output difference from the target, times 1000, one
        number per plane and photograph, plane by plane; and after them the squared error to each
        photograph. `by_plane` and `of_truth` take them apart.
    """

    def measure(model: nn.Module) -> Float[Tensor, "numbers"]:
        outputs = restore(model, photographs, [condition])[condition]
        pairs = list(zip(outputs, target[condition], strict=True))
        differences = [
            output_difference(*pair, plane) for plane in PLANES.values() for pair in pairs
        ]
        errors = squared_errors(outputs, photographs)
        return torch.cat([1000 * torch.cat(differences).double(), errors])

    return measure


def squared_errors(
    outputs: Sequence[Tensor], photographs: Photographs
) -> Float[Tensor, "photographs"]:
    """Give the squared error of each output to its photograph, which the networks are judged by."""
    pairs = zip(outputs, photographs.high, strict=True)
    return torch.cat([squared_error(output, truth).double().cpu() for output, truth in pairs])


def of_truth(photographs: Photographs) -> slice:
    """Say which of the numbers of `output_measure` are squared errors."""
    count = len(photographs.names)
    return slice(len(PLANES) * count, (len(PLANES) + 1) * count)


def truth_of(
    photographs: Photographs,
    baseline: Outputs,
    target: Outputs,
    curves: Mapping[tuple[str, str, str], Curve],
    edit: str = "masking",
) -> Truth:
    """Put what `output_measure` said of the truth beside the two networks' own errors.

    Args:
        photographs: what was restored.
        baseline: the baseline's outputs, of `restore`.
        target: the target's outputs, of `restore`.
        curves: method, function whose filters were exchanged, and condition, to what was measured.
        edit: `"masking"` or `"insertion"`.
    """
    ends = {
        condition: Ends(
            squared_errors(target[condition], photographs),
            squared_errors(baseline[condition], photographs),
        )
        for condition in MASKS
    }
    own = {key: curve.on(of_truth(photographs)) for key, curve in curves.items() if key[2] in MASKS}
    return Truth(ends, own, edit)


def by_plane(photographs: Photographs) -> dict[str, slice]:
    """Say which of the numbers of `output_measure` are those of each of `measures.PLANES`."""
    count = len(photographs.names)
    return {plane: slice(place * count, (place + 1) * count) for place, plane in enumerate(PLANES)}


def _mean(values: Iterable[Tensor]) -> float:
    return float(torch.cat([value.double().cpu() for value in values]).mean())
