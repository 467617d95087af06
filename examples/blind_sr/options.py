"""The options that the study's commands share, and what they all do with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from paramattr.errors import ParamattrError
from paramattr.runtime.progress import progress_bar


class Network(str, Enum):
    """Networks with a baseline and a target."""

    srresnet = "srresnet"
    srcnn = "srcnn"


class Trained(str, Enum):
    """Networks to train."""

    srresnet = "srresnet"
    srcnn = "srcnn"
    two_branch = "two-branch"


class Stage(str, Enum):
    """What to train."""

    baseline = "baseline"
    target = "target"
    both = "both"


class Dtype(str, Enum):
    """Precisions to compute in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"

    @property
    def torch(self) -> Any:
        """The torch dtype of this name."""
        import torch

        return getattr(torch, self.value)


NetworkOption = Annotated[Network, typer.Option(help="Network of the study.")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
MethodsOption = Annotated[
    str,
    typer.Option(
        help="Methods, separated by commas, or 'all'; NAME-no-contrast leaves the contrast out."
    ),
]
ImagesOption = Annotated[
    Optional[Path],  # noqa: UP045 (Typer on Python 3.10)
    typer.Option(help="Folder of photographs.", show_default="those of scikit-image"),
]
WeightsOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder of NETWORK_baseline and NETWORK_target.", show_default="bundled"),
]
StepsOption = Annotated[int, typer.Option(help="Nodes of the quadrature rule.")]
QuadratureOption = Annotated[str, typer.Option(help="Quadrature rule.")]
CropOption = Annotated[
    int,
    typer.Option(min=0, help="Middle of the low-resolution image, pixels a side; 0 for all."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the noise and the random control.")]
DtypeOption = Annotated[
    Dtype,
    typer.Option(help="Precision to compute in; bfloat16 for FAIG's gradients alone (autocast)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


def progress(description: str, total: float) -> AbstractContextManager[Callable[[float], None]]:
    """Draw a bar on stderr, where a person watches it."""
    return progress_bar(description, total, show=sys.stderr.isatty())


def check_device(device: str) -> str:
    """Refuse a device that torch does not know or cannot reach, in one line.

    Raises:
        ParamattrError: with the reason.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ParamattrError(
            f"device {device!r} cannot be used ({reason}): expected cpu, or an accelerator that "
            "this build of torch reaches, such as cuda"
        ) from None
    return device
