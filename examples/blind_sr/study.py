"""The analysis: find the filters of each function, mask them, measure what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.degradations import BLUR_RADIUS, degrade
from blind_sr.images import bundled_files, centre_crop, check_size, find_images, read_image
from blind_sr.measures import PLANES, output_difference, psnr
from blind_sr.networks import SCALE, load
from paramattr import Scores, Selection, substitute
from paramattr.errors import CheckpointError, ParamattrError
from paramattr.faithfulness.comparison import distinct_scores
from paramattr.faithfulness.masking import Measure, curves

BUNDLED_WEIGHTS = Path(__file__).parent / "weights"
CHANNELS_LAST_BELOW = 56
"""Side of a low-resolution input from which on the usual layout is as fast on a CPU, or faster:
at 64 by 2% to 30%, by network and threads; below, channels-last gains up to a quarter. In bfloat16
it gains a quarter to two thirds at every size."""
MASKS = ("blur", "noise")
"""The functions whose filters are sought: removing blur, removing noise."""
INPUTS = ("blur", "noise", "clean")

Rankings = dict[str, dict[str, list[Scores]]]
"""Method, then function, to one ranking or, for random, one a seed."""
Outputs = dict[str, list[Tensor]]
"""Condition to images, each `(1, 3, H, W)`."""
Advance = Callable[[float], None]


@dataclass(frozen=True)
class Pair:
    """A baseline (restores clean input only) and the target fine-tuned from it.

    Attributes:
        network: what both are.
        baseline: from before the fine-tuning.
        target: from after it.
        mixed: half precision that attribution computes in (`FAIG(dtype=...)`); None for the
            networks' own.
    """

    network: str
    baseline: nn.Module
    target: nn.Module
    mixed: torch.dtype | None = None


@dataclass(frozen=True)
class Photographs:
    """High-resolution photographs and their low-resolution inputs in each condition.

    Attributes:
        names: file names, without their endings where that tells them apart.
        high: each `(1, 3, 2H, 2W)` in [0, 1].
        low: condition to inputs, each `(1, 3, H, W)`.
    """

    names: list[str]
    high: list[Float[Tensor, "1 3 h w"]]
    low: dict[str, list[Float[Tensor, "1 3 h2 w2"]]]

    def pairs(self, condition: str) -> list[tuple[Tensor, Tensor]]:
        """Give the batches of one image that attribution streams: input and truth."""
        return list(zip(self.low[condition], self.high, strict=True))

    def only(self, number: int) -> Photographs:
        """Give one of them."""
        low = {condition: [inputs[number]] for condition, inputs in self.low.items()}
        return Photographs([self.names[number]], [self.high[number]], low)


def load_pair(
    network: str,
    weights: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    crop: int = 64,
) -> Pair:
    """Load `NETWORK_baseline` and `NETWORK_target` from a folder, or those that are bundled.

    Args:
        network: `"srresnet"` or `"srcnn"`.
        weights: folder that holds the two files, as safetensors or as the authors' `.pth`.
        device: where to.
        dtype: precision to compute in. Half precisions are for gradients alone: the networks then
            are float32, and so is what they restore.
        crop: side of the low-resolution inputs that are to come, 0 for whole photographs: how the
            weights lie in memory is chosen by it, which changes the time and the last bits alone.

    Raises:
        CheckpointError: if a file is missing or does not fit the network.
    """
    half = dtype.itemsize < torch.float32.itemsize
    wide = torch.device(device).type == "cpu" and not 0 < crop < CHANNELS_LAST_BELOW
    layout = torch.contiguous_format if wide and not half else torch.channels_last
    models = []
    for stage in ("baseline", "target"):
        found = weights_file(network, stage, weights)
        if found is None:
            folder = BUNDLED_WEIGHTS if weights is None else weights
            raise CheckpointError(
                f"weights {network}_{stage} are not in {folder}: expected {network}_baseline and "
                f"{network}_target in that folder; train them with 'paramattr blindsr train "
                f"--network {network}', or give their folder (--weights)"
            )
        model = load(network, found)
        model = model.to(device, _full(dtype)).eval().requires_grad_(False)
        models.append(model.to(memory_format=layout))  # type: ignore[call-overload]
    baseline, target = models
    return Pair(network, baseline, target, dtype if half else None)


def weights_file(network: str, stage: str, weights: str | Path | None) -> Path | None:
    """Find one file of a pair, as `load_pair` does; None if it is not there."""
    folder = BUNDLED_WEIGHTS if weights is None else Path(weights)
    files = (folder / f"{network}_{stage}{suffix}" for suffix in (".safetensors", ".pth"))
    return next((file for file in files if file.is_file()), None)


def load_photographs(
    images: str | Path | None = None,
    *,
    crop: int = 64,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Photographs:
    """Read photographs and degrade them in the three conditions of the analysis.

    Args:
        images: a folder; by default the colour photographs that scikit-image brings along.
        crop: side in pixels of the middle of the low-resolution image that is used; 0 for all.
        seed: of the noise, which depends on it and the photograph's place in the folder.
        device: where to.
        dtype: precision to compute in; float32 for the half ones, as in `load_pair`.

    Raises:
        DataError: for a missing or empty folder, or an unreadable or too small photograph.
    """
    files = bundled_files() if images is None else find_images(images)
    dtype = _full(dtype)
    high, low = [], {condition: [] for condition in INPUTS}  # type: ignore[var-annotated]
    for number, file in enumerate(files):
        image = read_image(file)
        if crop:
            image = centre_crop(image, SCALE * crop, name=file)
        else:
            check_size(image, BLUR_RADIUS + SCALE, file)
            image = image[:, : image.shape[1] // SCALE * SCALE, : image.shape[2] // SCALE * SCALE]
        truth = image[None].float() / 255
        high.append(truth.to(device, dtype))
        for condition in INPUTS:
            noise = torch.Generator().manual_seed(1_000_003 * seed + number)
            low[condition].append(degrade(truth, condition, noise).to(device, dtype))
    stems = [file.stem for file in files]
    alike = len(set(stems)) < len(stems)
    return Photographs([file.name for file in files] if alike else stems, high, low)


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


def mask(
    pair: Pair,
    photographs: Photographs,
    rankings: Rankings,
    percents: Sequence[float],
    target: Outputs,
    *,
    advance: Advance = lambda amount: None,
) -> list[dict[str, Any]]:
    """Mask the top filters of each ranking and measure how far the output moves (Sec. 5.2.1).

    Args:
        pair: baseline and target.
        photographs: on which the outputs are compared.
        rankings: of `rankings.find_filters`.
        percents: shares of the filters that are masked, in percent, above 0 and up to 100.
        target: the target's outputs, of `restore`.
        advance: called with the number of models measured since it was last called.

    Returns:
        One row per method, percentage, masked function and input: `method`, `pct`, `mask`,
        `input`, and `difference_x1000`, the mean over photographs (and seeds) of the squared
        difference of the gradient maps, times 1000; `difference_blue_x1000` is that of the blue
        channel.
    """
    check_percents(percents)
    distinct = distinct_scores(rankings)
    drawn = curves(
        pair.target,
        pair.baseline,
        distinct,
        [output_measure(photographs, condition, target) for condition in INPUTS],
        fractions=[pct / 100 for pct in percents],
        advance=advance,
    )
    found = {id(scores): own for scores, own in zip(distinct, drawn, strict=True)}
    measured = by_plane(photographs)
    return [
        {
            "method": method,
            "pct": pct,
            "mask": function,
            "input": condition,
            **{
                f"difference{plane}_x1000": fmean(
                    found[id(scores)][place].on(part).at(pct / 100).value for scores in several
                )
                for plane, part in measured.items()
            },
        }
        for method, functions in rankings.items()
        for pct in percents
        for function, several in functions.items()
        for place, condition in enumerate(INPUTS)
    ]


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


def masked(pair: Pair, selection: Selection) -> nn.Module:
    """Give the target with the selected filters of the baseline."""
    return substitute(pair.target, pair.baseline, selection)


def check_percents(percents: Sequence[float]) -> None:
    """Refuse shares that are not above 0 and up to 100 percent.

    Raises:
        ParamattrError: naming the first such share.
    """
    for pct in percents:
        if not 0 < pct <= 100:
            raise ParamattrError(
                f"pct is {pct:g}: expected a share of the filters above 0 and up to 100 percent"
            )


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare what masking FAIG's own filters does with two other differences.

    Args:
        rows: of `mask`.

    Returns:
        One row a method but random, percentage and function: `over_random`, the own difference
        over random masking's on the same input (None without random rows), and `over_other`, over
        the difference that the same filters make on the other degradation's input.
    """
    table = {(r["method"], r["pct"], r["mask"], r["input"]): r["difference_x1000"] for r in rows}
    found = []
    for method, pct, function, condition in table:
        if method == "random" or function != condition:
            continue
        own = table[method, pct, function, function]
        other = table[method, pct, function, MASKS[1 - MASKS.index(function)]]
        chance = table.get(("random", pct, function, function))
        found.append(
            {
                "method": method,
                "pct": pct,
                "mask": function,
                "over_random": own / chance if chance else None,
                "over_other": own / other if other else None,
            }
        )
    return found


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _mean(values: Iterator[Tensor]) -> float:
    return float(torch.cat([value.double().cpu() for value in values]).mean())
