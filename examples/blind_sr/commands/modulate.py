"""Set how strongly blur or noise is removed, by the filters that do it."""

from __future__ import annotations

import json as json_format
import shutil
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from blind_sr.options import (
    CropOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    ImagesOption,
    JsonOption,
    Network,
    NetworkOption,
    QuadratureOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    check_device,
    progress,
)
from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from blind_sr.study import Photographs
    from paramattr import Selection


class Filters(str, Enum):
    """The functions that filters are found for."""

    blur = "blur"
    noise = "noise"


def modulate(
    filters: Annotated[
        Filters, typer.Option(help="blur: those that deblur; noise: those that denoise.")
    ] = Filters.blur,
    pct: Annotated[float, typer.Option(help="Share of the filters, in percent.")] = 1.0,
    selection: Annotated[
        Optional[Path],  # noqa: UP045 (Typer on Python 3.10)
        typer.Option(
            help="Filters found before, such as a file of 'mask --out'.",
            show_default="found on --images",
        ),
    ] = None,
    image: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Restore this low-resolution image alone.", show_default=False),
    ] = None,
    strength: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="For --image: 0 the baseline's filters, 1 the target's.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="For --image: file to write.", show_default="NAME_FILTERS_STRENGTH.png"),
    ] = None,
    network: NetworkOption = Network.srresnet,
    images: ImagesOption = None,
    weights: WeightsOption = None,
    steps: StepsOption = 8,
    quadrature: QuadratureOption = "gausslegendre",
    crop: CropOption = 64,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[
        Path, typer.Option(help="Folder for the figure, the rows as CSV and JSON, and the filters.")
    ] = Path("modulate-output"),
    json: JsonOption = False,
) -> None:
    """Restore more or less strongly, with no parameter more than the two networks have.

    The filters found become strength x target + (1 - strength) x baseline. Without --image, PSNR is
    measured on blurry and noisy inputs at 16 strengths from 0 to 1.5.
    """
    from blind_sr import modulating, study
    from blind_sr.images import read_image
    from blind_sr.predicting import find_units
    from paramattr.quadrature import get_rule

    study.check_percents([pct])
    get_rule(quadrature, steps)
    if image is None:
        for name, given in (("--strength", strength), ("--output", output)):
            if given is not None:
                raise ParamattrError(
                    f"{name} is given without an image: expected --image FILE with it; without "
                    "one, 16 strengths are compared on photographs"
                )
    else:
        strength = modulating.check_strength(strength)
        output = output or Path(f"{image.stem}_{filters.value}_{strength:g}.png")
        low = read_image(image)[None].float() / 255
        modulating.check_output(output, image)
    where: dict[str, Any] = {"device": check_device(device), "dtype": dtype.torch}
    pair = study.load_pair(network.value, weights, crop=crop, **where)
    running = out / "running"

    def found(photographs: Photographs, checkpoints: Path | None) -> Selection:
        with progress("finding filters", 2 * len(photographs.names)) as advance:
            return find_units(
                pair,
                photographs,
                pct,
                n_steps=steps,
                method=quadrature,
                checkpoints=checkpoints,
                advance=advance,
            )[filters.value]

    console = Console()
    chosen = None if selection is None else modulating.load_selection(selection, pair)
    if image is not None and strength is not None and output is not None:
        if chosen is None:
            chosen = found(study.load_photographs(images, crop=crop, seed=seed, **where), None)
        width, height = modulating.restore_file(pair, low, chosen, strength, output)
        written = {"output": str(output), "width": width, "height": height}
        if json:
            more = {"filters": filters.value, "strength": strength, "selected": len(chosen)}
            print(json_format.dumps({**written, **more}))
        else:
            console.print(f"{output}: {width}x{height} pixels", highlight=False, soft_wrap=True)
        return
    photographs = study.load_photographs(images, crop=crop, seed=seed, **where)
    running.mkdir(parents=True, exist_ok=True)
    if chosen is None:
        chosen = found(photographs, running)
    with progress("restoring", len(modulating.STRENGTHS)) as advance:
        outputs = modulating.sweep(pair, photographs, chosen, advance=advance)
    rows = modulating.psnr_rows(outputs, photographs, filters.value)
    result = {
        "network": network.value,
        "images": photographs.names,
        "filters": filters.value,
        "selected": len(chosen),
        "selection": None if selection is None else str(selection),
        "pct": round(100 * len(chosen) / len(chosen.index), 6),
        "crop": crop,
        "steps": steps,
        "quadrature": quadrature,
        "dtype": dtype.value,
        "seed": seed,
        "rows": rows,
    }
    if json:
        print(json_format.dumps(result), flush=True)
    else:
        console.print(modulating.modulate_table(rows))
    figure = modulating.save_sweep(out, outputs, photographs, chosen, result)
    shutil.rmtree(running, ignore_errors=True)
    if not json:
        console.print(f"figure: {figure}")
