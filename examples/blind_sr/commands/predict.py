"""Predict what degraded an input, from the filters that serve it: Sec. 4.3 and 5.3."""

from __future__ import annotations

import json as json_format
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from blind_sr.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    Network,
    NetworkOption,
    QuadratureOption,
    SeedOption,
    WeightsOption,
    check_device,
    progress,
)
from paramattr.checkpoints import fingerprint
from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from torch import Tensor

    from paramattr.prediction import OverlapClassifier

PCT, STEPS, CROP = 1.0, 4, 64

_BUNDLED = "those of scikit-image"
_OR_CLASSIFIERS = ", or with --image the classifier's"


def predict(
    find: Annotated[
        Optional[Path],  # noqa: UP045 (Typer on Python 3.10)
        typer.Option(help="Folder of photographs to find the filters on.", show_default=_BUNDLED),
    ] = None,
    fit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of photographs to fit the thresholds on.", show_default=_BUNDLED),
    ] = None,
    test: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of photographs to predict on.", show_default=_BUNDLED),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Photographs of each folder, the first; 0 for all.")
    ] = 0,
    reference: Annotated[
        str,
        typer.Option(help="self: distance to the target's own output; truth: to the ground truth."),
    ] = "self",
    pct: Annotated[float, typer.Option(help="Share of the filters, in percent.")] = PCT,
    image: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Predict for this low-resolution image alone.", show_default=False),
    ] = None,
    classifier: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="For --image: NETWORK_classifier of an --out.", show_default="beside the weights"
        ),
    ] = None,
    network: NetworkOption = Network.srresnet,
    weights: WeightsOption = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Nodes of the quadrature rule.", show_default=f"{STEPS}{_OR_CLASSIFIERS}"
        ),
    ] = None,
    quadrature: QuadratureOption = "gausslegendre",
    crop: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            help="Middle of the low-resolution image, pixels a side; 0 for all.",
            show_default=f"{CROP}{_OR_CLASSIFIERS}",
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[
        Path, typer.Option(help="Folder for figure, overlap scores, result and classifier.")
    ] = Path("predict-output"),
    json: JsonOption = False,
) -> None:
    """Predict whether inputs are blurry or noisy, from the filters that serve each of them.

    Filters of each function are found on one folder, the overlap with them from which an input
    counts as blurry or noisy is fitted on a second, and the accuracy is measured on a third. A run
    that is repeated with the same options after an error or a kill goes on where it stopped.
    """
    from blind_sr import predicting, prediction_report, study
    from paramattr.prediction import OverlapClassifier
    from paramattr.quadrature import get_rule

    predicting.check_reference(reference)
    study.check_percents([pct])
    get_rule(quadrature, STEPS if steps is None else steps)
    if image is not None and reference != "self":
        raise ParamattrError(
            "a single image has no ground truth: expected --reference self with --image"
        )
    if classifier is not None and image is None:
        raise ParamattrError(
            f"classifier {classifier} is given without an image: expected --image FILE with it; a "
            "run over folders makes a classifier of its own"
        )
    where = {"device": check_device(device), "dtype": dtype.torch}
    pair = study.load_pair(network.value, weights, crop=CROP if crop is None else crop, **where)
    digest = predicting.weights_digest(pair)
    console = Console()
    if image is not None:
        folder = weights or study.BUNDLED_WEIGHTS
        file = classifier or folder / f"{network.value}_classifier.safetensors"
        fitted = predicting.load_classifier(file, None, digest)
        steps = fitted.notes["steps"] if steps is None else steps
        crop = fitted.notes["crop"] if crop is None else crop
        fitted.rank = predicting.ranker(pair, "self", n_steps=steps, method=quadrature)
        like = next(pair.target.parameters())
        _predict_one(image, fitted, crop, like, console if not json else None)
        return
    steps, crop = STEPS if steps is None else steps, CROP if crop is None else crop
    options: dict[str, Any] = {"crop": crop, "seed": seed, "limit": limit, **where}
    folders = dict.fromkeys((find, fit, test))
    loaded = {folder: predicting.load_kinds(folder, **options) for folder in folders}
    used = {"find": loaded[find], "fit": loaded[fit], "test": loaded[test]}
    running = out / "running"
    running.mkdir(parents=True, exist_ok=True)
    settings = {
        "mode": reference,
        "network": network.value,
        "weights": digest,
        "pct": pct,
        "crop": crop,
        "steps": steps,
        "quadrature": quadrature,
        "dtype": dtype.value,
        "seed": seed,
    }
    with progress("finding filters", 2 * len(used["find"].names)) as advance:
        found = predicting.find_units(
            pair,
            used["find"],
            pct,
            n_steps=steps,
            method=quadrature,
            checkpoints=running,
            advance=advance,
        )
    rank = predicting.ranker(pair, reference, n_steps=steps, method=quadrature)
    overlapping = OverlapClassifier(found, rank, notes=settings)
    chosen = fingerprint([{mask: units.chosen for mask, units in found.items()}])
    kept = predicting.Kept(running / "overlaps.jsonl", {**settings, "filters": chosen})
    kinds = {"fit": study.INPUTS, "test": predicting.KINDS}
    inputs = sum(len(used[use].names) * len(own) for use, own in kinds.items())
    with progress("ranking for each input", inputs) as advance:
        measured = {
            use: predicting.measure(overlapping, used[use], own, kept, advance=advance)
            for use, own in kinds.items()
        }
    overlapping.fit_scores(measured["fit"].overlaps, measured["fit"].labels())
    again = predicting.repeated(used["test"], used["find"], used["fit"])
    result = {
        **predicting.outcome(overlapping, measured["test"]),
        "thresholds": overlapping.thresholds,
        "counts": {**{use: len(own.names) for use, own in used.items()}, "repeated": again},
        **settings,
    }
    if json:
        print(json_format.dumps(result), flush=True)
    else:
        for table in prediction_report.predict_tables(result):
            console.print(table)
        if again:
            console.print(
                f"{again} of {len(used['test'].names)} test photographs also served to find the "
                "filters or fit the thresholds: on new ones the accuracy may be lower (--find, "
                "--fit, --test)."
            )
    figure = prediction_report.save_prediction(out, overlapping, measured, result)
    shutil.rmtree(running, ignore_errors=True)
    if not json:
        console.print(f"figure: {figure}")


def _predict_one(
    image: Path,
    classifier: OverlapClassifier,
    crop: int,
    like: Tensor,
    console: Console | None,
) -> None:
    from blind_sr.images import centre_crop, read_image
    from blind_sr.report import INPUT_LABELS

    pixels = read_image(image)
    low = (centre_crop(pixels, crop, name=image) if crop else pixels)[None].float() / 255
    scores = classifier.scores([(low.to(like), None)])
    [predicted] = classifier.predict_scores(scores)
    overlaps = {condition: float(values[0]) for condition, values in scores.items()}
    if console is None:
        result = {
            "image": str(image),
            "overlaps": overlaps,
            "thresholds": classifier.thresholds,
            "predicted": sorted(predicted),
        }
        print(json_format.dumps(result))
        return
    for condition, overlap in overlaps.items():
        sign = ">=" if condition in predicted else "<"
        console.print(
            f"{INPUT_LABELS[condition]}: overlap {overlap:.3f} {sign} "
            f"{classifier.thresholds[condition]:.3f}"
        )
    found = " and ".join(INPUT_LABELS[c] for c in overlaps if c in predicted)
    console.print(f"{image.name} is {found or 'neither blurry nor noisy'}", highlight=False)
