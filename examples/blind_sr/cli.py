"""The command line of the study: `paramattr blindsr`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import typer

from blind_sr.classify.command import classify
from blind_sr.compare.command import compare
from blind_sr.conditions.command import conditions
from blind_sr.mask.command import mask
from blind_sr.modulate.command import modulate
from blind_sr.predict.command import predict
from blind_sr.report.command import report
from blind_sr.reproduce.command import reproduce
from blind_sr.restore.command import restore
from blind_sr.retrain.command import retrain
from blind_sr.severity.command import severity
from blind_sr.training.command import train
from paramattr.runtime.torchrun import alone, shared


def _unwrapped(command: Callable[..., None]) -> str:
    """Give a command's docstring, a line per paragraph, so that it fills any terminal."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    name="blindsr",
    help="Blind super-resolution: which filters deblur, which denoise.",
    no_args_is_help=True,
)
SHARED = (mask, compare)
"""What ranks that torchrun starts share; the other commands run in one process."""

for command in (
    train,
    mask,
    compare,
    report,
    predict,
    classify,
    conditions,
    severity,
    modulate,
    restore,
    retrain,
    reproduce,
):
    join = shared if command in SHARED else alone
    app.command(help=_unwrapped(command))(join(command))
