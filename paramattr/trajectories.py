"""Which units learned what when: attributions along the checkpoints of a training run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paramattr.errors import ModelError, ParamattrError, warn
from paramattr.faig import FAIG
from paramattr.files.reading import load_state_dict
from paramattr.integration.integrals.adaptive import Adaptive
from paramattr.objectives import Objective, squared_error
from paramattr.quadrature import Rule
from paramattr.runtime.workers import progress_bar
from paramattr.units.index import UnitIndex
from paramattr.units.reducers import Reducer
from paramattr.units.scores import Scores
from paramattr.wrappers import copied, unwrapped

Checkpoint = nn.Module | Mapping[str, Tensor] | str | Path
"""A model, its state dict, or a file that `load_state_dict` reads."""


WORSE = "the target is worse than its baseline"
"""How that warning begins. Checkpoints have an order of their own, and a step may do harm."""


@dataclass(frozen=True)
class Trajectory:
    """What each unit did for the objective between neighbouring checkpoints.

    Attributes:
        steps: of the checkpoints, in training order.
        pieces: scores between each checkpoint and the next. Their `signed` sums over all entries to
            `L(earlier) - L(later)`: a positive one lowered the objective.
        straight: scores on the straight line from the first checkpoint to the last.
    """

    steps: tuple[float, ...]
    pieces: tuple[Scores, ...]
    straight: Scores

    @property
    def index(self) -> UnitIndex:
        """The units."""
        return self.straight.index

    @property
    def signed(self) -> Float[Tensor, "pieces units"]:
        """The mean over samples of A between neighbours, a row per piece."""
        return torch.stack([piece.signed for piece in self.pieces])

    @property
    def total(self) -> Float[Tensor, "units"]:
        """The signed attribution along the run, as of `PiecewiseLinear` through its checkpoints."""
        return self.signed.sum(0)

    @property
    def difference(self) -> float:
        """How far the run's attributions are from the straight line's.

        Σ_u |total_u - straight_u| / Σ_u |straight_u|

        0 if the way does not matter. Both sum to the same, the objective's change, if every entry
        has a unit.
        """
        line = self.straight.signed
        return float((self.total - line).abs().sum() / line.abs().sum())

    def when(self, share: float = 0.5) -> Float[Tensor, "units"]:
        """Give the step by which a share of each unit's attributions lay behind it.

            the first step k with Σ_{pieces up to k} |A_u| >= share Σ_{all pieces} |A_u|

        Args:
            share: above 0 and up to 1.

        Returns:
            A step of the checkpoints for each unit; NaN for a unit that did nothing.

        Raises:
            ParamattrError: for another share.
        """
        if isinstance(share, bool) or not 0 < share <= 1:
            raise ParamattrError(f"share is {share!r}: expected one above 0 and up to 1, as 0.5")
        done = torch.stack([piece.values for piece in self.pieces]).cumsum(0)
        reached = (done >= share * done[-1] * (1 - 1e-12)).to(torch.uint8).argmax(0)
        steps = torch.tensor(self.steps[1:], dtype=torch.float64)[reached]
        return torch.where(done[-1] > 0, steps, torch.nan)

    def __repr__(self) -> str:
        """Say how long it is, and how far from the straight line."""
        return (
            f"Trajectory({len(self.steps)} checkpoints, {len(self.index)} units, "
            f"{self.difference:.3g} from the straight line)"
        )


def trajectory(
    model: nn.Module,
    checkpoints: Sequence[Checkpoint],
    loader: Iterable[Any] | Mapping[str, Iterable[Any]],
    *,
    reducer: str | Reducer,
    objective: Objective = squared_error,
    steps: Sequence[float] | None = None,
    n_steps: int = 4,
    method: str | Rule | Adaptive = "gausslegendre",
    show_progress: bool = False,
    **options: Any,
) -> Any:
    """Attribute the objective's change to the units, from each checkpoint of a run to the next.

        A_i = Σ_k ∫_0^1 ∂L(γ_k(α))/∂θ_i · (θ_k,i - θ_{k+1},i) dα

    with γ_k the line from checkpoint k + 1 to checkpoint k. The checkpoints in the other order give
    the negative.

    Args:
        model: of the architecture of the checkpoints, in evaluation mode; it is not modified.
        checkpoints: in training order, at least two: models, state dicts, or files.
        loader: batches as in `FAIG.score`, or a mapping of conditions to them. All are kept.
        reducer: the units.
        objective: as in `FAIG`.
        steps: of the checkpoints, increasing; 0, 1, 2, ... by default.
        n_steps: nodes between neighbours; four times as many are on the straight line.
        method: as in `FAIG.attribute`.
        show_progress: draw a bar on stderr.
        options: others of `FAIG`, such as `device` and `dtype`.

    Returns:
        A `Trajectory`, or a dict of them by condition.

    Raises:
        ModelError: if there are fewer than two checkpoints, two neighbours are equal, or one does
            not fit the model.
        ParamattrError: if `steps` do not fit, and what `FAIG.score` raises.

    Warns:
        UserWarning: once for all neighbours with a barrier between them, and of a barrier on the
            straight line.

    >>> from paramattr import summed_output
    >>> model = nn.Linear(1, 1, bias=False)
    >>> run = [{"weight": torch.full((1, 1), value)} for value in (0.0, 3.0, 2.0)]
    >>> found = trajectory(
    ...     model, run, [torch.ones(1, 1)], reducer="scalar", objective=summed_output
    ... )
    >>> found.signed.flatten().tolist(), found.difference, found.when().tolist()
    ([-3.0, 1.0], 0.0, [1.0])
    """
    places = _steps(steps, len(checkpoints))
    batches = (
        {name: list(own) for name, own in loader.items()}
        if isinstance(loader, Mapping)
        else list(loader)
    )
    plain = unwrapped(model)
    for number, pair in enumerate(pairwise(_models(plain, checkpoints))):
        _check_moved(*pair, number)  # what is wrong shows before the work

    def between(later: nn.Module, earlier: nn.Module, nodes: int) -> dict[str, Scores]:
        faig = FAIG(later, earlier, objective=objective, **options)
        found: Any = faig.score(batches, reducer=reducer, n_steps=nodes, method=method)
        return found if isinstance(found, dict) else {"": found}

    with progress_bar("trajectory", len(places), show=show_progress) as advance:
        pieces, first = [], next(_models(plain, checkpoints))
        with _barriers_named_once():
            for earlier, later in pairwise(_models(plain, checkpoints)):
                pieces.append(between(later, earlier, n_steps))
                advance(1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", WORSE)
            straight = between(later, first, 4 * n_steps)
        advance(1)
    found = {
        name: Trajectory(places, tuple(piece[name] for piece in pieces), own)
        for name, own in straight.items()
    }
    return found if isinstance(loader, Mapping) else found[""]


def _steps(steps: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if count < 2:
        raise ModelError(f"a trajectory needs at least two checkpoints: found {count}")
    places = tuple(range(count)) if steps is None else tuple(steps)
    if len(places) != count or any(one >= two for one, two in pairwise(places)):
        raise ParamattrError(
            f"steps are {list(places)}: expected {count} increasing numbers, one per checkpoint"
        )
    return places


def _models(model: nn.Module, checkpoints: Sequence[Checkpoint]) -> Iterator[nn.Module]:
    """Give one model after the other, so that few are held at a time."""
    for number, checkpoint in enumerate(checkpoints):
        if isinstance(checkpoint, nn.Module):
            yield unwrapped(checkpoint)
            continue
        state = load_state_dict(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
        filled = copied(model)
        try:
            filled.load_state_dict(dict(state))
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:240]
            raise ModelError(f"checkpoint {number} does not fit the model: {reason}") from None
        yield filled


@contextmanager
def _barriers_named_once() -> Iterator[None]:
    """Count the warnings of barriers, and pass the others on but those of a worse target."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = dict.fromkeys(str(one.message) for one in caught)
    said = {message: None for message in said if not message.startswith(WORSE)}
    barriers = [message for message in said if message.startswith("barrier")]
    for message in said.keys() - set(barriers):
        warn(message)
    if barriers:
        warn(
            f"Between neighbouring checkpoints the objective rises above both by more than they "
            f"differ, {len(barriers)} times: save more checkpoints, or read these steps with care."
        )


def _check_moved(earlier: nn.Module, later: nn.Module, number: int) -> None:
    one, two = earlier.state_dict(), later.state_dict()
    if one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one):
        raise ModelError(
            f"checkpoints {number} and {number + 1} are equal: nothing moved between them; leave "
            "one out"
        )
