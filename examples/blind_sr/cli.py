"""The command line of the study: `paramattr blindsr`."""

from __future__ import annotations

import typer

from blind_sr.commands.compare import compare
from blind_sr.commands.mask import mask
from blind_sr.commands.modulate import modulate
from blind_sr.commands.predict import predict
from blind_sr.commands.reproduce import reproduce
from blind_sr.commands.retrain import retrain
from blind_sr.commands.train import train

app = typer.Typer(
    name="blindsr",
    help="Blind super-resolution: which filters deblur, which denoise.",
    no_args_is_help=True,
)
for command in (train, mask, compare, predict, modulate, retrain, reproduce):
    app.command()(command)
