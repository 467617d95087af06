"""The study's vocabulary: names of functions, inputs, networks, methods, units and rules.

Nothing here imports torch: the command line lists these names in its help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MASKS = ("blur", "noise")
"""The functions whose filters are sought: removing blur, removing noise."""
INPUTS = ("blur", "noise", "clean")
"""The conditions of an input that the analysis compares."""
KINDS = (*INPUTS, "both")
"""All conditions of an input, blurry and noisy at once too."""

SEVERITIES = {"blur": "blur sigma", "noise": "noise sigma", "jpeg": "JPEG quality"}
"""The degradations whose severity varies, and what measures it."""

FUNCTIONS = {"blur": "deblurring", "noise": "denoising"}
FUNCTION_LABELS = {**FUNCTIONS, "jpeg": "deblocking"}
"""Every degradation to the function that removes it; the paper's two are `FUNCTIONS`."""
INPUT_LABELS = {
    "blur": "blurry",
    "noise": "noisy",
    "clean": "clean",
    "both": "blurry and noisy",
    "jpeg": "JPEG",
}
PAIR_LABELS = {"srresnet": "SRResNet", "srcnn": "SRCNN-style"}
"""The paper's networks with a baseline and a target: those that `reproduce` runs on."""

VERDICTS = "!: damage, worse than the baseline; ~: not selective, it costs another input more"
"""What the marks beside an edit say."""

NO_CONTRAST = "-no-contrast"
"""What the name of a method ends in that leaves the other function's scores alone."""
CAPTUM_LABELS = {
    "layer-conductance": "conductance",
    "internal-influence": "internal influence",
    "layer-integrated-gradients": "layer IG",
    "layer-gradient-x-activation": "grad x activation",
    "layer-feature-ablation": "ablation",
}
"""Captum's methods attribute to a layer's output channels: they have no single filters."""
ATTRIBUTION_LABELS = {
    "faig": "FAIG",
    "ig": "modified IG",
    "taylor-target": "Taylor, target",
    "taylor-middle": "Taylor, middle",
    "taylor-baseline": "Taylor, baseline",
    "fisher": "Fisher",
    **CAPTUM_LABELS,
}
"""What looks at data: each is a method, and one more without the contrast."""
DATALESS_LABELS = {
    "absolute-change": "|change|",
    "weight-magnitude": "|weight|",
    "random-within-layers": "random in layers",
    "random": "random",
}
LABELS = {
    name: label
    for plain, own in ATTRIBUTION_LABELS.items()
    for name, label in ((plain, own), (f"{plain}{NO_CONTRAST}", f"{own}, no contrast"))
} | {f"ig{NO_CONTRAST}": "modified IG, no contrast (the paper's)", **DATALESS_LABELS}
"""Every method of the study and what people read."""
CAPTUM = tuple(name for name in LABELS if name.removesuffix(NO_CONTRAST) in CAPTUM_LABELS)
METHODS = tuple(name for name in LABELS if name not in CAPTUM)
"""The methods that rank single filters."""
PAPER = ("faig", "ig-no-contrast", "absolute-change", "random")
"""The methods of the paper's tables, in the order that it finds."""
BASIC = ("faig", "faig-no-contrast", "absolute-change", "random")

UNITS = {"kernel": "filters", "output_channel": "output channels"}
EDITS = {"masking": "masked", "insertion": "inserted"}
RULES = (
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "simpson",
    "gausslegendre",
    "gausskronrod",
)
"""The quadrature rules of `paramattr.quadrature`."""


def marked(name: str, *verdicts: Mapping[str, Any]) -> str:
    """Mark a name whose edits are damage, or not selective: see `VERDICTS`."""
    damage = any(row.get("damage", False) for row in verdicts)
    costly = any(row.get("selective") is False for row in verdicts)
    return name + " !" * damage + " ~" * costly
