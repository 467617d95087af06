"""`paramattr blindsr classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blind_sr.options import JsonOption, crop_option, given, steps_option, with_setting
from blind_sr.setting import Setting

_OF_CLASSIFIER = "the classifier's"


@with_setting("images", "seed", "steps", "crop")
def classify(
    setting: Setting,
    image: Annotated[Path, typer.Argument(metavar="FILE", help="A low-resolution image.")],
    classifier: Annotated[
        Path | None,
        typer.Option(
            help="NETWORK_classifier of a 'predict --out'.", show_default="beside the weights"
        ),
    ] = None,
    steps: Annotated[int | None, steps_option(_OF_CLASSIFIER)] = None,
    crop: Annotated[int | None, crop_option(_OF_CLASSIFIER)] = None,
    json: JsonOption = False,
) -> None:
    """Tell whether an image is blurry or noisy, from the filters that serve it.

    The image's own top filters are compared with those that deblur and those that denoise. The
    overlap from which it counts as blurry or noisy is the classifier's.

    Example, about 10 seconds: paramattr blindsr classify photo.png
    """
    options = given(locals(), "json")
    from blind_sr.classify.experiment import ClassifyConfig, run
    from blind_sr.classify.report import lines
    from blind_sr.console import note, show

    result = run(ClassifyConfig(**options))
    show(result.content, [], json=json)
    note(*lines(result), json=json)
