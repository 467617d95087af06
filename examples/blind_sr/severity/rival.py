"""A small network that is trained on labels: what the overlap scores are measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blind_sr.data.degradations import degrade
from blind_sr.severity.inputs import RANGES

BATCH, RATE = 16, 2e-3


class LabelRegressor(nn.Module):
    """Three convolutions, their means and deviations over the image, two layers; 16,449 parameters.

    Shape:
        Input `(B, 3, H, W)` in [0, 1]; output `(B,)`.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(4 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1)
        )

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        """Predict a severity, as a share of its range."""
        features = self.features(x - 0.5).flatten(2)
        pooled = torch.cat([features.mean(2), features.std(2)], 1)
        return self.head(pooled).squeeze(1)


def train_on_labels(
    photographs: Sequence[Float[Tensor, "1 3 h w"]], kind: str, iterations: int, seed: int
) -> LabelRegressor:
    """Train on photographs that are degraded anew at every step, at severities drawn uniformly.

    Args:
        photographs: in [0, 1], of one size; flipped and turned at random.
        kind: of degradation.
        iterations: steps of Adam on the absolute error, with a one-cycle schedule.
        seed: of everything that is drawn.
    """
    own, draw = RANGES[kind], np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LabelRegressor()
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=iterations + 1)
    for _ in range(iterations):
        inputs, wanted = [], []
        for number in draw.integers(len(photographs), size=BATCH):
            severity = own.rounded(draw.uniform(own.low, own.high))
            image = torch.rot90(photographs[number].float().cpu(), int(draw.integers(4)), (2, 3))
            image = image.flip(3) if draw.random() < 0.5 else image
            noise = torch.Generator().manual_seed(int(draw.integers(2**31)))
            inputs.append(degrade(image, own.degradation(severity), noise))
            wanted.append((severity - own.low) / (own.high - own.low))
        loss = F.l1_loss(model(torch.cat(inputs)), torch.tensor(wanted, dtype=torch.float32))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def predicted_by(
    model: LabelRegressor, kind: str, inputs: Sequence[Float[Tensor, "1 3 h w"]]
) -> Float[Tensor, "inputs"]:
    """Predict the severity of each input, within its range."""
    own = RANGES[kind]
    shares = torch.cat([model(one.float().cpu()) for one in inputs]).double()
    return own.low + (own.high - own.low) * shares.clamp(0, 1)
