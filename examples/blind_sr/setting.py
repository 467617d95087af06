"""What an experiment is run on: the pair, the photographs, the rule, the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramattr.errors import ParamattrError

if TYPE_CHECKING:
    from blind_sr.data.photographs import Photographs
    from blind_sr.models.pairs import Pair


@dataclass(frozen=True)
class Setting:
    """What the experiments on a pair have in common.

    Attributes:
        network: `"srresnet"`, `"srcnn"` or `"swin"`.
        weights: folder of the pair; None for the bundled one.
        images: folder of photographs; None for those of scikit-image.
        crop: side in pixels of the middle of the low-resolution image that is used; 0 for all.
        steps: nodes of the quadrature rule.
        quadrature: name of the rule.
        seed: of the noise and the random control.
        device: where to compute.
        dtype: `"float32"`, `"float64"` or `"bfloat16"`.
    """

    network: str = "srresnet"
    weights: Path | None = None
    images: Path | None = None
    crop: int = 64
    steps: int = 4
    quadrature: str = "gausslegendre"
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def content(self) -> dict[str, Any]:
        """What a result says of it."""
        names = ("network", "crop", "steps", "quadrature", "dtype", "seed")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Refuse a rule or a device that cannot be used, before any work.

        Raises:
            ParamattrError: with the reason.
        """
        from paramattr.quadrature import get_rule
        from paramattr.runtime.compute import check_device

        get_rule(self.quadrature, self.steps)
        check_device(self.device)

    def load_pair(self) -> Pair:
        """Load the pair: see `pairs.load_pair`."""
        from blind_sr.models.pairs import load_pair

        return load_pair(self.network, self.weights, crop=self.crop, **self._where)

    def load_photographs(self) -> Photographs:
        """Load the photographs: see `photographs.load_photographs`."""
        from blind_sr.data.photographs import load_photographs

        return load_photographs(self.images, crop=self.crop, seed=self.seed, **self._where)

    @property
    def _where(self) -> dict[str, Any]:
        import torch

        return {"device": self.device, "dtype": getattr(torch, self.dtype)}


def check_percents(*percents: float) -> None:
    """Refuse shares of the filters that are not above 0 and up to 100 percent.

    Raises:
        ParamattrError: naming the first such share.
    """
    for pct in percents:
        if not 0 < pct <= 100:
            raise ParamattrError(
                f"pct is {pct:g}: expected a share of the filters above 0 and up to 100 percent"
            )
