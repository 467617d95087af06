"""Alignment: another form of the same model, closer to the one it is compared with."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from paramattr.errors import ModelError, ParamattrError
from paramattr.parameters import align as aligned_values
from paramattr.surgery.channel_spaces import Convolution, Space, channel_spaces
from paramattr.wrappers import unwrapped

_SWEEPS, _ROUGH = 20, 2
SIDES = ("out", "in")
"""Of a channel: what makes it, and what reads it."""


def align(
    baseline: nn.Module, target: nn.Module, *, permute: bool = True, rescale: bool = True
) -> nn.Module:
    """Permute and rescale hidden channels to fit another model, which changes no function.

    Two networks of one function may hold their channels in another order, or larger here and
    smaller there: with (leaky) ReLU a channel that is made `s` times larger and read `1 / s` times
    as strongly does the same. The straight line between such forms leads through damaged models.
    Layer by layer, in turns until nothing changes, channels take the order in which their weights
    are most like the target's, and the factor that fits what makes them and what reads them.

    Args:
        baseline: what is brought into another form; it is left as it is.
        target: the model that it is to fit, of the same architecture.
        permute: whether the order of channels may change. This needs SciPy.
        rescale: whether their size may change. Channels of a batch norm keep theirs.

    Returns:
        A new model that does what the baseline does, up to rounding.

    Raises:
        ModelError: if the two are not of one architecture, or the model cannot be traced, or has
            an activation other than (leaky) ReLU.
        ParamattrError: if SciPy is missing.

    Source: Ainsworth et al. 2023, "Git Re-Basin", Sec. 3.2 (weight matching), here with factors.

    >>> target = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> baseline = copy.deepcopy(target)
    >>> with torch.no_grad():
    ...     for parameter in (baseline[0].weight, baseline[0].bias):
    ...         _ = parameter.copy_(2 * parameter[[2, 0, 1]])
    ...     _ = baseline[2].weight.copy_(baseline[2].weight[:, [2, 0, 1]] / 2)
    >>> torch.allclose(align(baseline, target)[0].weight, target[0].weight)
    True
    """
    baseline, target = unwrapped(baseline), unwrapped(target)
    if not isinstance(baseline, nn.Module) or not isinstance(target, nn.Module):
        raise ModelError("align takes two modules: load a state dict into one first")
    aligned_values(target, baseline)  # refuses what is not of one architecture
    fitted = copy.deepcopy(baseline)
    spaces = channel_spaces(fitted)
    match = _matcher() if permute else None
    with torch.no_grad():
        for sweep in range(_SWEEPS):
            changed, is_rough = False, sweep < _ROUGH
            for space in spaces:
                views = _Views(fitted, target, space)
                if match is not None:
                    changed |= views.permute(match(views.likeness(by_entries=not is_rough)))
                if rescale and not space.norms:
                    changed |= views.rescale()
            if not changed and not is_rough:
                break
    return fitted


class _Views:
    """What two models hold for the channels of one space, a row per channel."""

    def __init__(self, fitted: nn.Module, target: nn.Module, space: Space) -> None:
        self.space = space
        self.fitted, self.target = fitted, target

    def likeness(self, *, by_entries: bool) -> Float[Tensor, "target fitted"]:
        """Sum the cosines of every two channels over what makes them and what reads them.

        Args:
            by_entries: whether a side counts by its number of weights, as it should once the
                neighbouring layers are in order; before that a side of many says little.
        """
        total = torch.zeros(self.space.size, self.space.size, dtype=torch.float64)
        for side in SIDES:
            target, fitted = self._both(side)
            cosines = nn.functional.normalize(target) @ nn.functional.normalize(fitted).T
            total += cosines * (target.shape[1] if by_entries else 1)
        return total

    def permute(self, order: Int[Tensor, "channels"]) -> bool:
        """Put channel `order[k]` in place `k`."""
        if torch.equal(order, torch.arange(len(order))):
            return False
        for name, side in self._sides():
            module = self.fitted.get_submodule(name)
            reorder(module, side, order)
        for name in self.space.norms:
            norm = self.fitted.get_submodule(name)
            for tensor in (*norm.parameters(recurse=False), *norm.buffers(recurse=False)):
                if tensor.ndim == 1:
                    tensor.copy_(tensor[order].clone())
        return True

    def rescale(self) -> bool:
        """Give each channel the size that fits what makes it and what reads it.

            log s = (w_out log p_out - w_in log p_in) / (w_out + w_in),    p = <t, b> / |b|²

        A side counts by w = c² / (1 - c²), with c the cosine between the two models: the side that
        changed less says more. The factor that minimises the distance would fit the larger alone.
        """
        logs, weights = zip(*(self._fit(side) for side in SIDES), strict=True)
        log = (weights[0] * logs[0] - weights[1] * logs[1]) / (weights[0] + weights[1])
        factors = torch.where(log.isfinite(), log, 0.0).exp()
        if bool(((factors - 1).abs() < 1e-6).all()):
            return False
        for name, side in self._sides():
            own = factors if side == "out" else 1 / factors
            multiply(self.fitted.get_submodule(name), side, own)
        return True

    def _fit(self, side: str) -> tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]]:
        """Give the logarithm of p, and w, of one side; w is 0 where the two have no likeness."""
        target, fitted = self._both(side)
        product, square = (target * fitted).sum(1), fitted.square().sum(1)
        cosine = product / (square * target.square().sum(1)).sqrt()
        is_alike = cosine > 1e-3
        log = torch.where(is_alike, product / square, 1.0).log()
        weight = cosine.square() / (1 - cosine.square()).clamp(min=1e-9)
        return log, torch.where(is_alike, weight, 0.0)

    def _both(self, side: str) -> list[Float[Tensor, "channels entries"]]:
        names = self.space.outgoing if side == "out" else self.space.incoming
        return [
            torch.cat([_rows(model, name, side) for name in names], 1)
            for model in (self.target, self.fitted)
        ]

    def _sides(self) -> list[tuple[str, str]]:
        made = [(name, "out") for name in self.space.outgoing]
        return [*made, *((name, "in") for name in self.space.incoming)]


def _rows(model: nn.Module, name: str, side: str) -> Float[Tensor, "channels entries"]:
    module = model.get_submodule(name)
    weight = _by_output(module)
    rows = weight.flatten(1) if side == "out" else weight.transpose(0, 1).flatten(1)
    if side == "out" and module.bias is not None:
        rows = torch.cat([rows, module.bias[:, None]], 1)  # type: ignore[index]
    return rows.detach().double().cpu()


def _by_output(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    is_transposed = isinstance(module, Convolution) and module.transposed
    return weight.transpose(0, 1) if is_transposed else weight


def reorder(module: nn.Module, side: str, order: Int[Tensor, "channels"]) -> None:
    """Put a layer's channel `order[k]` in place `k`, of what it makes or of what it reads."""
    weight = _by_output(module)
    order = order.to(weight.device)
    if side == "out":
        weight.copy_(weight[order].clone())
        if module.bias is not None:
            module.bias.copy_(module.bias[order].clone())  # type: ignore[operator, index]
    else:
        weight.copy_(weight[:, order].clone())


def multiply(module: nn.Module, side: str, factors: Float[Tensor, "channels"]) -> None:
    """Multiply the weights of each of a layer's channels by its factor."""
    weight = _by_output(module)
    own = factors.to(weight)
    if side == "out":
        weight.mul_(own.reshape(-1, *[1] * (weight.ndim - 1)))
        if module.bias is not None:
            module.bias.mul_(own)  # type: ignore[operator]
    else:
        weight.mul_(own.reshape(1, -1, *[1] * (weight.ndim - 2)))


def _matcher():  # type: ignore[no-untyped-def]
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError:
        raise ParamattrError(
            "a permutation needs SciPy, which is not installed: pip install 'paramattr[align]', or "
            "give permute=False"
        ) from None

    def match(likeness: Float[Tensor, "target fitted"]) -> Int[Tensor, "channels"]:
        return torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])

    return match
