"""`paramattr blindsr retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.labels import PAPER
from blind_sr.options import (
    BUNDLED,
    BatchOption,
    CropOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    MethodsOption,
    Network,
    NetworkOption,
    PatchOption,
    PctOption,
    PrecisionOption,
    StepsOption,
    WeightsOption,
    folder_option,
    given,
    out_option,
)

METHODS = ", ".join(PAPER)


def retrain(
    images: Annotated[
        Path | None,
        folder_option(
            "Folder of photographs to train on; a real run wants one, apart from the test's.",
            BUNDLED,
        ),
    ] = None,
    find: Annotated[
        Path | None,
        folder_option("Folder of photographs on which the filters are found.", BUNDLED),
    ] = None,
    test: Annotated[
        Path | None, folder_option("Folder of photographs to measure on.", "as --find")
    ] = None,
    pct: PctOption = 1.0,
    methods: MethodsOption = METHODS,
    iterations: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 500,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    all_rate: Annotated[
        float, typer.Option(help="Peak learning rate of the upper bound, where all weights move.")
    ] = 5e-4,
    batch_size: BatchOption = 16,
    patch: PatchOption = 64,
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions: other patches, and other random filters.")
    ] = 1,
    network: NetworkOption = Network.srresnet,
    weights: WeightsOption = None,
    steps: StepsOption = 4,
    crop: CropOption = 64,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    out: Annotated[
        Path, out_option("Folder for the rows, the figure, the filters and the weights.")
    ] = Path("retrain-output"),
    json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Retrain only the filters that were found, from the baseline: Tab. 3 of the paper.

    Each method's deblurring and denoising filters, and all weights as the upper bound, are trained
    on blurry input alone and on noisy input alone, then measured by PSNR on such input. A run that
    is repeated resumes; more methods or seeds are added to what is there.

    Example, about 2 hours on a CPU: paramattr blindsr retrain --images DIV2K --methods faig,random
    """
    options = given(locals(), "json")
    from blind_sr.console import note, show
    from blind_sr.retrain.experiment import RetrainConfig, run
    from blind_sr.retrain.report import save, tables

    result = run(RetrainConfig(**options))
    show(result.content, tables(result.content), json=json)
    note("Every weight outside the selection is the baseline's, bit for bit.", json=json)
    if images is None:
        unreal = "Trained on scikit-image's photographs: a real run wants --images."
        note(unreal, json=json)
    note(f"figure: {save(out, result)}", json=json)
