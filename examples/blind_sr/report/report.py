"""The study's result as one HTML file."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from blind_sr.data.measures import output_difference, psnr
from blind_sr.labels import FUNCTIONS, INPUT_LABELS, LABELS, MASKS, PAIR_LABELS
from blind_sr.report.experiment import STRENGTHS, ReportResult
from paramattr.report import Change, Modulation, State, Wording, write_report

SHOWN = 2
"""Photographs that are shown of each function: those whose restoration moves most."""

WORDING = Wording(
    labels={**LABELS, **FUNCTIONS},
    measured={name: f"{label} input" for name, label in INPUT_LABELS.items()},
    verb="masked",
    measure="output difference ×1000",
    units="filters",
    objective="squared error",
)


def save(out: Path, result: ReportResult) -> Path:
    """Write the report.

    Raises:
        ParamattrError: if plotly or jinja2 is not installed, or the file cannot be written.
    """
    setting, names = result.config.setting, result.photographs.names
    side = f"the middle {setting.crop} × {setting.crop} pixels of" if setting.crop else "all of"
    return write_report(
        result.comparison,
        out,
        title=f"{PAIR_LABELS[setting.network]}: which filters deblur, which denoise?",
        profile={INPUT_LABELS[name] + " input": one for name, one in result.profiles.items()},
        changes=[change for function in MASKS for change in changes(result, function)],
        modulations=[modulation(result, function) for function in MASKS],
        wording=WORDING,
        fraction=result.config.pct / 100,
        notes=[
            f"Photographs: {', '.join(names)}; {side} the low-resolution input.",
            "The output difference is the mean squared difference between the gradient maps of the "
            "grey outputs with and without the mask, times 1000 (Xie et al. 2021, Sec. 5.2.1).",
            "The squared error along the path is summed over the image, on the first "
            f"{next(iter(result.profiles.values())).samples} photographs.",
            f"Before and after: the {SHOWN} photographs whose restoration moves most.",
        ],
    )


def changes(result: ReportResult, function: str) -> list[Change]:
    """Show the photographs that masking a function's filters moves most."""
    before, after = result.target[function], result.edited[function][function]
    moved = [1000 * float(output_difference(*pair)) for pair in zip(after, before, strict=True)]
    order = sorted(range(len(moved)), key=lambda number: -moved[number])[:SHOWN]
    return [
        Change(
            f"{result.photographs.names[number]}, {INPUT_LABELS[function]} input",
            State("target", png(before[number]), decibels(result, before, number)),
            State(
                f"{FUNCTIONS[function]} filters masked",
                png(after[number]),
                decibels(result, after, number),
            ),
            State("input", png(result.photographs.low[function][number])),
            f"The output difference ×1000 is {moved[number]:.1f}.",
        )
        for number in order
    ]


def modulation(result: ReportResult, function: str) -> Modulation:
    """Show the quality at each strength, and the photograph that moves most."""
    sweep = result.sweeps[function]
    ends = [sweep[STRENGTHS[0]][function], sweep[1.0][function]]
    moved = [float(output_difference(*pair)) for pair in zip(*ends, strict=True)]
    number = max(range(len(moved)), key=moved.__getitem__)
    name = result.photographs.names[number]
    return Modulation(
        f"{len(result.selections[function]):,} {FUNCTIONS[function]} filters",
        STRENGTHS,
        {
            f"{INPUT_LABELS[condition]} input": [
                float(torch.cat(list(map(psnr, own[condition], result.photographs.high))).mean())
                for own in sweep.values()
            ]
            for condition in MASKS
        },
        "mean PSNR, dB",
        {
            f"{name}, {INPUT_LABELS[condition]} input": [
                State(
                    f"strength {strength:g}",
                    png(own[condition][number]),
                    decibels(result, own[condition], number),
                )
                for strength, own in sweep.items()
            ]
            for condition in MASKS
        },
    )


def decibels(result: ReportResult, images: list[Tensor], number: int) -> str:
    """Write the PSNR of one restored photograph."""
    truth = result.photographs.high[number].float().cpu()
    return f"{float(psnr(images[number].float().cpu(), truth)):.2f} dB PSNR"


def png(image: Tensor) -> bytes:
    """Write an image `(1, 3, H, W)` in [0, 1] as the bytes of a PNG file."""
    pixels = image[0].float().cpu().mul(255).round().clamp(0, 255).to(torch.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(written, "png", optimize=True)
    return written.getvalue()
