"""Per-sample objectives: functions of a model's output that give one number per sample.

An objective is any callable of `(output, targets)` that returns a tensor of shape `(B,)`. The
built-in ones read `.logits` if the output has it, as Hugging Face's model outputs do.

An objective counts as a loss, of which lower is better, unless its attribute `is_loss` is False.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from paramattr.errors import ObjectiveError, an

Objective = Callable[[Any, Any], Tensor]
"""`(model output, targets)` to a tensor `(B,)`."""

IGNORED = -100
"""The target of a token that does not count, as in PyTorch and Hugging Face."""


def prediction(output: Any) -> Any:
    """Return a model's prediction: the output itself, or its `logits` if it has them."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return getattr(output, "logits", output)


def squared_error(
    output: Float[Tensor, "b *rest"], targets: Float[Tensor, "b *rest"]
) -> Float[Tensor, "b"]:
    """Squared error, summed over all dimensions but the batch: ||output - targets||², Eq. 3.

    Args:
        output: `(B, ...)`.
        targets: of the output's shape.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if the targets are missing or of another shape (they are never broadcast).

    Source: Xie et al. 2021, Eq. 3.

    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor([5.])
    """
    output, targets = _same_shape("squared_error", output, targets)
    return _summed((output - targets).square())


def absolute_error(
    output: Float[Tensor, "b *rest"], targets: Float[Tensor, "b *rest"]
) -> Float[Tensor, "b"]:
    """Absolute error, summed over all dimensions but the batch.

    Args:
        output: `(B, ...)`.
        targets: of the output's shape.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if the targets are missing or of another shape (they are never broadcast).

    >>> absolute_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    tensor([3.])
    """
    output, targets = _same_shape("absolute_error", output, targets)
    return _summed((output - targets).abs())


def cross_entropy(output: Float[Tensor, "b classes *rest"], targets: Tensor) -> Float[Tensor, "b"]:
    """Cross entropy of logits, summed over the positions of a sequence or image.

    Args:
        output: logits `(B, C)` or `(B, C, ...)`.
        targets: class indices `(B,)` or `(B, ...)`, -100 for positions that do not count, or
            probabilities of the output's shape.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if the targets are missing, of another shape or type, or no classes.

    >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2])).exp().item(), 4)
    4.0
    """
    output = _logits("cross_entropy", output, targets)
    are_probabilities = targets.is_floating_point() and targets.shape == output.shape
    if not are_probabilities:
        targets = _classes("cross_entropy", output, targets)
    return _summed(F.cross_entropy(output, targets, reduction="none"))


def token_cross_entropy(
    output: Float[Tensor, "b t classes"], targets: Tensor
) -> Float[Tensor, "b"]:
    """Mean cross entropy over each sample's tokens; classes come last, as in language models.

    Tokens whose target is -100 do not count, so padding changes nothing. A sample whose targets
    are all -100 gets 0.

    Args:
        output: logits `(B, T, C)`.
        targets: class indices `(B, T)`, -100 for tokens that do not count.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: if the targets are missing, of another shape or type, or no classes.

    >>> logits, targets = torch.zeros(1, 3, 4), torch.tensor([[2, 0, -100]])
    >>> round(token_cross_entropy(logits, targets).exp().item(), 4)
    4.0
    """
    output = _logits("token_cross_entropy", output, targets)
    targets = _token_classes("token_cross_entropy", output, targets)
    losses = F.cross_entropy(
        output.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)


def next_token_cross_entropy(
    output: Float[Tensor, "b t classes"], targets: Tensor
) -> Float[Tensor, "b"]:
    """Cross entropy of each token given the ones before it: `token_cross_entropy` shifted by one.

    Args:
        output: logits `(B, T, C)` of a causal language model.
        targets: the tokens themselves, `(B, T)`, -100 for those that do not count.

    Returns:
        `(B,)`.

    Raises:
        ObjectiveError: as `token_cross_entropy`.

    >>> logits, tokens = torch.zeros(1, 3, 4), torch.tensor([[1, 2, 3]])
    >>> round(next_token_cross_entropy(logits, tokens).exp().item(), 4)
    4.0
    """
    output = _logits("next_token_cross_entropy", output, targets)
    targets = _token_classes("next_token_cross_entropy", output, targets)
    return token_cross_entropy(output[:, :-1], targets[:, 1:])


@dataclass(frozen=True)
class LogitDifference:
    """How strongly a model prefers one answer to another; `logit_difference` makes it.

    Attributes:
        answer: index of the correct class or token.
        distractor: index of the class or token it is compared with.
        is_loss: False, since higher is better.
    """

    answer: int
    distractor: int
    is_loss: ClassVar[bool] = False

    def __call__(self, output: Any, targets: Any = None) -> Float[Tensor, "b"]:
        """Subtract the distractor's logit from the answer's, per sample."""
        logits = prediction(output)
        if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
            raise ObjectiveError(
                "logit_difference needs logits (B, C) or (B, T, C): found "
                f"{_described_output(logits)}"
            )
        if logits.ndim == 3:
            last = torch.full((len(logits),), logits.shape[1] - 1, device=logits.device)
            if isinstance(targets, Tensor) and targets.shape == logits.shape[:2]:
                places = torch.arange(logits.shape[1], device=logits.device)
                last = torch.where(targets != IGNORED, places, -1).amax(1).clamp(min=0)
            index = last[:, None, None].expand(-1, 1, logits.shape[2])
            logits = logits.gather(1, index)[:, 0]
        classes = logits.shape[1]
        for name in ("answer", "distractor"):
            if not -classes <= getattr(self, name) < classes:
                raise ObjectiveError(
                    f"logit_difference's {name} is {getattr(self, name)}: expected one of the "
                    f"model's {classes} classes, 0 to {classes - 1}"
                )
        return logits[:, self.answer] - logits[:, self.distractor]


def logit_difference(answer: int, distractor: int) -> LogitDifference:
    """Make the objective `logit(answer) - logit(distractor)`.

    For a sequence, the difference is taken at the last token. With targets `(B, T)`, that is the
    last token whose target is not -100.

    Args:
        answer: index of the correct class or token.
        distractor: index of the class or token it is compared with.

    Returns:
        An objective of logits `(B, C)` or `(B, T, C)`.

    Source: Wang et al. 2023, "Interpretability in the Wild", Sec. 3.

    >>> logit_difference(0, 2)(torch.tensor([[3.0, 0.0, 1.0]]), None)
    tensor([2.])
    """
    return LogitDifference(answer, distractor)


def summed_output(output: Float[Tensor, "b *rest"], targets: Any = None) -> Float[Tensor, "b"]:
    """Sum of the output over all dimensions but the batch; it is compared with nothing.

    Args:
        output: `(B, ...)`.
        targets: ignored.

    Returns:
        `(B,)`.

    Source: the objective of the modified IG in Xie et al. 2021, Sec. 5.2.1.

    >>> summed_output(torch.tensor([[1.0, 2.0]]))
    tensor([3.])
    """
    return _summed(_tensor("summed_output", output))


summed_output.is_loss = False  # type: ignore[attr-defined]


def is_loss(objective: Objective) -> bool:
    """Say whether lower is better; it is unless the objective declares `is_loss = False`."""
    while isinstance(objective, partial):
        objective = objective.func
    return bool(getattr(objective, "is_loss", True))


@dataclass(frozen=True)
class SelfReference:
    """Distance to the target's own output, for data without ground truth or labels.

    The attribution methods fill in the targets: the target model's own output for each sample.
    Targets that you pass are ignored. `self_reference` is this with the squared error::

        FAIG(target, baseline, objective=self_reference).score(inputs_alone, reducer="kernel")

    At the target model this objective is zero and flat, so every gradient there is zero
    (`gradient_times_change` at the target, `fisher_times_change`).

    Attributes:
        distance: the objective between an output and the target's.
    """

    distance: Objective = squared_error

    def __call__(self, output: Any, targets: Any) -> Float[Tensor, "b"]:
        """Measure the distance of an output from the target's, one number per sample."""
        return self.distance(output, targets)


self_reference = SelfReference()
"""The squared error to the target's own output."""


def check_callable(objective: object) -> None:
    """Reject an objective that cannot be called.

    Raises:
        ObjectiveError: naming what was found.
    """
    if not callable(objective):
        raise ObjectiveError(
            f"the objective is {objective!r}: expected a function of (output, targets) that gives "
            "one number per sample, such as paramattr.squared_error"
        )


def _summed(errors: Float[Tensor, "b *rest"]) -> Float[Tensor, "b"]:
    return errors.unsqueeze(-1).flatten(1).sum(1)  # also of (B,) alone


def _tensor(name: str, output: Any) -> Tensor:
    tensor = prediction(output)
    if not isinstance(tensor, Tensor):
        raise ObjectiveError(
            f"{name} needs a tensor, or an output with logits: found {_described_output(tensor)}; "
            "write your own objective, lambda output, targets: ..., that reads what it needs"
        )
    return tensor


def _logits(name: str, output: Any, targets: Any) -> Tensor:
    logits = _tensor(name, output)
    if not isinstance(targets, Tensor):
        raise ObjectiveError(
            f"{name} needs targets: expected class indices, found {targets!r}; pass them "
            "with the inputs, or as labels of a mapping"
        )
    return logits


def _token_classes(name: str, logits: Tensor, targets: Tensor) -> Tensor:
    """Check logits `(B, T, C)` and classes `(B, T)`."""
    is_one_hot = logits.ndim == 3 and targets.shape == logits.shape
    if logits.ndim != 3 or not (is_one_hot or logits.shape[:2] == targets.shape):
        raise ObjectiveError(
            f"{name} needs logits (B, T, C) and targets (B, T): found {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}; for one class per sample use cross_entropy"
        )
    return _classes(name, logits.movedim(-1, 1), targets, classes_are_last=True)


def _classes(
    name: str, logits: Tensor, targets: Tensor, *, classes_are_last: bool = False
) -> Tensor:
    """Give class indices as int64, after a look at their shape, type and range.

    torch's own errors name no label, and on an accelerator a label out of range ends the process.

    Args:
        name: the objective's name, for errors.
        logits: `(B, C, ...)`.
        targets: what should be `(B, ...)`.
        classes_are_last: whether the user's logits are `(B, ..., C)`.

    Raises:
        ObjectiveError: naming what was found and the way out.
    """
    expected = (*logits.shape[:1], *logits.shape[2:])
    found = f"{name} needs class indices {tuple(expected)}: found targets {tuple(targets.shape)}"
    if targets.shape in (logits.shape, (*expected, *logits.shape[1:2])):
        dim = -1 if classes_are_last or targets.shape != logits.shape else 1
        raise ObjectiveError(
            f"{found}, which look one-hot; give their classes, targets.argmax({dim})"
            + ("" if classes_are_last else ", or probabilities as floats of the logits' shape")
        )
    if targets.shape != expected:
        has_column = targets.ndim == len(expected) + 1 and targets.shape[-1] == 1
        way_out = (
            f"give targets.squeeze({targets.ndim - 1})"
            if has_column
            else "for numbers to compare with, use squared_error"
        )
        raise ObjectiveError(f"{found} for logits {tuple(logits.shape)}; {way_out}")
    if targets.dtype.is_floating_point or targets.dtype.is_complex or targets.dtype == torch.bool:
        raise ObjectiveError(
            f"{found} of {str(targets.dtype).removeprefix('torch.')}; give whole numbers, "
            "targets.long(), or use squared_error if they are no classes"
        )
    targets = targets.long()
    _check_range(name, targets, logits.shape[1])
    return targets


def _check_range(name: str, targets: Tensor, classes: int) -> None:
    """Reject labels that are none of the classes."""
    if torch.compiler.is_compiling():
        return
    is_wrong = (targets != IGNORED) & ((targets < 0) | (targets >= classes))
    try:
        is_fine = not bool(is_wrong.any())
    except RuntimeError:  # vmap shows no values; the first batch was looked at without it
        return
    if is_fine:
        return
    wrong, counted = targets[is_wrong], targets[targets != IGNORED]
    counts_from_one = int(counted.min()) == 1 and int(counted.max()) == classes
    way_out = (
        "these labels count from 1: subtract 1"
        if counts_from_one
        else "number the classes from 0, or give the model a head of more classes"
    )
    raise ObjectiveError(
        f"{name} found label {int(wrong[0])} where the model has {classes} classes: expected 0 to "
        f"{classes - 1}, or {IGNORED} for what does not count; {way_out}"
    )


def _same_shape(name: str, output: Any, targets: Any) -> tuple[Tensor, Tensor]:
    predicted, truth = _tensor(name, output), prediction(targets)
    if not isinstance(truth, Tensor):
        raise ObjectiveError(
            f"{name} needs targets: expected a tensor of the output's shape "
            f"{tuple(predicted.shape)}, found {truth!r}; pass them with the inputs"
        )
    if predicted.shape != truth.shape:
        is_class = not truth.is_floating_point() and truth.ndim < predicted.ndim
        way_out = (
            "these look like classes: use objective=paramattr.cross_entropy"
            if is_class
            else "reshape one of them"
        )
        raise ObjectiveError(
            f"{name} needs targets of the output's shape: the output is {tuple(predicted.shape)}, "
            f"the targets are {tuple(truth.shape)}; {way_out}"
        )
    return predicted, truth


def _described_output(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    held = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    return f"{an(type(output))}{held}"
