"""What networks make of photographs, how good it is, and how far it is from the target's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.data.measures import PLANES, output_difference, psnr
from blind_sr.data.photographs import Photographs
from blind_sr.labels import INPUTS
from paramattr.faithfulness.masking import Measure

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
        A function of a network that gives the output difference from the target, times 1000: one
        number per plane and photograph, plane by plane. `by_plane` takes them apart.
    """

    def measure(model: nn.Module) -> Float[Tensor, "numbers"]:
        outputs = restore(model, photographs, [condition])[condition]
        pairs = list(zip(outputs, target[condition], strict=True))
        differences = [
            output_difference(*pair, plane) for plane in PLANES.values() for pair in pairs
        ]
        return 1000 * torch.cat(differences).double()

    return measure


def by_plane(photographs: Photographs) -> dict[str, slice]:
    """Say which of the numbers of `output_measure` are those of each of `measures.PLANES`."""
    count = len(photographs.names)
    return {plane: slice(place * count, (place + 1) * count) for place, plane in enumerate(PLANES)}


def _mean(values: Iterable[Tensor]) -> float:
    return float(torch.cat([value.double().cpu() for value in values]).mean())
