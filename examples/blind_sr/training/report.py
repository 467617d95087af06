"""What a person reads of a training: both branches side by side (Tab. 1)."""

from __future__ import annotations

from rich.table import Table

from blind_sr.labels import INPUT_LABELS
from blind_sr.training.branches import Branches

HEADINGS = {"clean": "clean", "blur": INPUT_LABELS["blur"], "noise": INPUT_LABELS["noise"]}
HEADINGS["both"] = "both"


def branches_table(result: Branches) -> Table:
    """Lay both networks out side by side."""
    table = Table(title=f"PSNR in dB after {result.iterations:,} iterations each")
    table.add_column("network")
    for heading in ("parameters", *HEADINGS.values()):
        table.add_column(heading, justify="right")
    for name, own in result.networks.items():
        quality = (f"{own.psnr[condition]:.2f}" for condition in HEADINGS)
        table.add_row(name, f"{own.parameters:,}", *quality)
    return table
