"""`paramattr blindsr predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from blind_sr.options import (
    BUNDLED,
    JsonOption,
    PctOption,
    crop_option,
    folder_option,
    given,
    out_option,
    steps_option,
    with_setting,
)
from blind_sr.setting import Setting
from paramattr.errors import ParamattrError

STEPS, CROP = 4, 64


@with_setting("images", "steps", "crop")
def predict(
    setting: Setting,
    find: Annotated[
        Path | None, folder_option("Folder of photographs to find the filters on.", BUNDLED)
    ] = None,
    fit: Annotated[
        Path | None, folder_option("Folder of photographs to fit the thresholds on.", BUNDLED)
    ] = None,
    test: Annotated[
        Path | None, folder_option("Folder of photographs to predict on.", BUNDLED)
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Photographs of each folder, the first; 0 for all.")
    ] = 0,
    reference: Annotated[
        str,
        typer.Option(help="self: distance to the target's own output; truth: to the ground truth."),
    ] = "self",
    pct: PctOption = 1.0,
    steps: Annotated[int | None, steps_option(str(STEPS))] = None,
    crop: Annotated[int | None, crop_option(str(CROP))] = None,
    image: Annotated[Path | None, typer.Option(hidden=True)] = None,
    classifier: Annotated[Path | None, typer.Option(hidden=True)] = None,
    out: Annotated[
        Path, out_option("Folder for figure, overlap scores, result and classifier.")
    ] = Path("predict-output"),
    json: JsonOption = False,
) -> None:
    """Predict whether inputs are blurry or noisy, from the filters that serve each of them.

    Filters of each function are found on one folder. The overlap with them from which an input
    counts as blurry or noisy is fitted on a second, and the accuracy is measured on a third. A run
    that is repeated with the same options after an error or a kill resumes.

    Example, about 2 minutes: paramattr blindsr predict --out predict-output
    """
    options = given(locals(), "json", "image", "classifier", "steps", "crop")
    from blind_sr.console import note, show
    from blind_sr.predict.experiment import PredictConfig, run
    from blind_sr.predict.report import notes, predict_tables, save

    if image is not None or classifier is not None:
        _classify(setting, image, classifier, reference, steps, crop, json)
        return
    steps, crop = STEPS if steps is None else steps, CROP if crop is None else crop
    options["setting"] = replace(setting, steps=steps, crop=crop)
    result = run(PredictConfig(**options))
    show(result.content, predict_tables(result.content), json=json)
    note(*notes(result), json=json)
    note(f"figure: {save(out, result)}", json=json)


def _classify(
    setting: Setting,
    image: Path | None,
    classifier: Path | None,
    reference: str,
    steps: int | None,
    crop: int | None,
    json: bool,
) -> None:
    """Do what `classify` does, under its old name."""
    from blind_sr.classify.command import classify
    from blind_sr.console import renamed

    if image is None:
        raise ParamattrError(
            f"classifier {classifier} is given without an image: expected 'classify FILE' with it; "
            "a run over folders makes a classifier of its own"
        )
    if reference != "self":
        raise ParamattrError(
            "a single image has no ground truth: expected --reference self with --image"
        )
    classify(setting=setting, image=image, classifier=classifier, steps=steps, crop=crop, json=json)
    renamed("predict --image FILE", "paramattr blindsr classify FILE")
