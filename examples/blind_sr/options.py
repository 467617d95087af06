"""The options that the study's commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from blind_sr import labels
from blind_sr.setting import Setting


class Network(str, Enum):
    """Networks with a baseline and a target."""

    srresnet = "srresnet"
    srcnn = "srcnn"
    swin = "swin"


class Trained(str, Enum):
    """Networks to train."""

    srresnet = "srresnet"
    srcnn = "srcnn"
    swin = "swin"
    two_branch = "two-branch"


class Stage(str, Enum):
    """What to train."""

    baseline = "baseline"
    target = "target"
    both = "both"
    three = "three"


class Dtype(str, Enum):
    """Precisions to compute in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"


class Filters(str, Enum):
    """The functions that filters are found for."""

    blur = "blur"
    noise = "noise"


def folder(given: str | Path) -> Path:
    """Read the name of a folder; an empty name is a slip, not the current folder."""
    if not str(given).strip():
        raise typer.BadParameter("the name is empty: expected a folder, such as results")
    return Path(given)


def new_folder(given: str | Path) -> Path:
    """Read the name of a folder to write into, which no file may bear."""
    path = folder(given)
    if path.is_file():
        raise typer.BadParameter(f"{path} is a file: expected a folder, which is made if missing")
    return path


def folder_option(what: str, default: str | bool = True) -> Any:
    """Make an option that names a folder to read."""
    return typer.Option(help=what, parser=folder, metavar="DIR", show_default=default)


def out_option(what: str) -> Any:
    """Make an option that names a folder to write."""
    return typer.Option(help=what, parser=new_folder, metavar="DIR")


def steps_option(default: str | bool = True) -> Any:
    """Make the option for the nodes of the rule."""
    return typer.Option(help="Nodes of the quadrature rule.", show_default=default)


def crop_option(default: str | bool = True) -> Any:
    """Make the option for the part of a photograph that is used."""
    what = "Middle of the low-resolution image, pixels per side; 0 for all."
    return typer.Option(min=0, help=what, show_default=default)


def given(parameters: Mapping[str, Any], *but: str) -> dict[str, Any]:
    """Turn a command's parameters into the fields of its config, which have the same names.

    Args:
        parameters: the command's `locals()` before anything else.
        but: those that the config does not have.
    """
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in parameters.items()
        if name not in but
    }


BUNDLED = "those of scikit-image"
_DRIVEN = ", ".join(n for n in labels.ATTRIBUTION_LABELS if n not in labels.CAPTUM_LABELS)

NetworkOption = Annotated[Network, typer.Option(help="Network of the study.")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
MethodsOption = Annotated[
    str,
    typer.Option(
        help="Methods, separated by commas, or 'all'. "
        f"Contrasted: {_DRIVEN}; each also as NAME{labels.NO_CONTRAST}. "
        f"Without data: {', '.join(labels.DATALESS_LABELS)}."
    ),
]
ImagesOption = Annotated[Path | None, folder_option("Folder of photographs.", BUNDLED)]
WeightsOption = Annotated[
    Path | None, folder_option("Folder of NETWORK_baseline and NETWORK_target.", "bundled")
]
TargetOption = Annotated[
    Path | None,
    typer.Option(
        help="Another target, fine-tuned from the same baseline.", show_default="the pair's"
    ),
]
StepsOption = Annotated[int, steps_option()]
QuadratureOption = Annotated[str, typer.Option(help=f"Quadrature rule: {', '.join(labels.RULES)}.")]
CropOption = Annotated[int, crop_option()]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the noise and of random rankings.")]
PctOption = Annotated[float, typer.Option(help="Share of the filters, in percent.")]
SelectionOption = Annotated[
    Path | None,
    typer.Option(
        help="Filters found before, such as a file of 'mask --out'.",
        show_default="found on --images",
    ),
]
FiltersOption = Annotated[
    Filters, typer.Option(help="blur: the filters that deblur; noise: those that denoise.")
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(help="Precision; bfloat16 is for FAIG's gradients alone (autocast)."),
]
PrecisionOption = Annotated[
    str, typer.Option(help="bfloat16, float32, or auto: the faster one of the device.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Patches per step.")]
PatchOption = Annotated[int, typer.Option(min=16, help="Side of a patch, high resolution, even.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Start afresh over an earlier run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]

_SETTING: dict[str, tuple[Any, Any]] = {
    "network": (NetworkOption, Network.srresnet),
    "images": (ImagesOption, None),
    "weights": (WeightsOption, None),
    "steps": (StepsOption, Setting.steps),
    "quadrature": (QuadratureOption, Setting.quadrature),
    "crop": (CropOption, Setting.crop),
    "seed": (SeedOption, Setting.seed),
    "device": (DeviceOption, Setting.device),
    "dtype": (DtypeOption, Dtype.float32),
}


def with_setting(
    *leave_out: str, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a `Setting`, which make its parameter `setting`.

    Args:
        leave_out: names of options that the command does not have.
        defaults: name to another default.
    """
    shared = [
        Parameter(
            name, Parameter.KEYWORD_ONLY, annotation=kind, default=defaults.get(name, default)
        )
        for name, (kind, default) in _SETTING.items()
        if name not in leave_out
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**values: Any) -> None:
            if "setting" not in values:
                own = {one.name: values.pop(one.name) for one in shared}
                values["setting"] = Setting(**given(own))
            command(**values)

        signature = inspect.signature(command, eval_str=True)
        own = {name: one for name, one in signature.parameters.items() if name != "setting"}
        last = [own.pop(name) for name in ("out", "json") if name in own]
        plain = [
            one.replace(kind=Parameter.KEYWORD_ONLY) for one in (*own.values(), *shared, *last)
        ]
        called.__signature__ = signature.replace(parameters=plain)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in plain}
        return called

    return decorate
