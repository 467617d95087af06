"""Retraining of only the selected entries."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from paramattr.errors import UnitError
from paramattr.parameters import Statistics, owners
from paramattr.surgery.edits import check_selection
from paramattr.units.selection import Selection
from paramattr.wrappers import copied


def retrain_only(model: nn.Module, selection: Selection) -> nn.Module:
    """Make only the selected entries trainable, under any optimiser.

    The selected entries of each parameter become one small vector. At each use, the parameter is
    assembled from this vector and the frozen rest. So every other entry stays the same bit for bit,
    even under weight decay and momentum, and the optimiser's state has the selection's size::

        trainable = retrain_only(model, selection)
        optimiser = torch.optim.AdamW(trainable.parameters())
        ...
        model.load_state_dict(trainable.state_dict())  # the plain names and shapes

    Args:
        model: the model to copy; it is not modified.
        selection: the units to train.

    Returns:
        A new module of the same behaviour. Its `state_dict()` has the original's names and shapes,
        and it loads such state dicts. Norms with running statistics use them and never update them,
        even in training mode. `torch.save` takes the whole module, unless it has hooks that pickle
        rejects, such as those of torch's `weight_norm`.

    Raises:
        UnitError: if the selection is empty, holds no entry of a parameter, or belongs to another
            model.

    Source: Xie et al. 2021, Sec. 5.2.2.
    """
    if not len(selection):
        raise UnitError("the selection is empty: nothing to train; select at least one unit")
    check_selection(model, selection)
    masks = {name: selection.mask(name) for name in selection.index.labels}
    if not any(bool(mask.any()) for mask in masks.values()):
        raise UnitError(
            "the selection holds no entry of a parameter, only buffers: there is nothing to train; "
            "select a unit that holds parameters"
        )
    trainable = copied(model)
    for module in trainable.modules():
        if parametrize.is_parametrized(module):
            _give_own_class(module)
    places = owners(trainable)
    paths: dict[int, list[str]] = {}  # a module may have several paths
    for path, module in trainable.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    names: list[tuple[str, str]] = []  # of the plain parameter and of its parametrisation
    for name, parameter in list(trainable.named_parameters()):
        parameter.requires_grad_(False)
        if name not in masks or not masks[name].any():
            continue
        entries = _Entries(parameter, masks[name])
        for owner in places[name]:  # a tied parameter stays tied: they share the entries
            parametrize.register_parametrization(owner.module, owner.attribute, entries)
            if isinstance(owner.module, nn.RNNBase):
                _keep_no_weights(owner.module)
            for path in paths[id(owner.module)]:
                dot = f"{path}." if path else ""
                inner = f"{dot}parametrizations.{owner.attribute}"
                names.append((f"{dot}{owner.attribute}", inner))
    for module in trainable.modules():
        if parametrize.is_parametrized(module):
            _can_be_saved(module)
        if isinstance(module, Statistics) and module.running_mean is not None:
            module.register_forward_pre_hook(_as_in_evaluation)
            module.register_forward_hook(_as_it_was, always_call=True)
    # Save and load under the names of the plain model.
    trainable.register_state_dict_post_hook(partial(_after_saving, names, list(model.state_dict())))
    trainable.register_load_state_dict_pre_hook(partial(_before_loading, names))
    return trainable


class _Entries(nn.Module):
    """A parameter assembled from its frozen values and a vector of trainable entries."""

    places: Tensor

    def __init__(self, parameter: Tensor, mask: Tensor) -> None:
        super().__init__()
        places = mask.flatten().nonzero().squeeze(1).to(parameter.device)
        self.register_buffer("places", places, persistent=False)
        self.values = nn.Parameter(parameter.detach().flatten()[places].clone())

    def forward(self, frozen: Tensor) -> Tensor:
        flat = frozen.reshape(-1).index_put((self.places,), self.values)
        return flat.view(frozen.shape)


def _as_in_evaluation(module: nn.Module, inputs: Any) -> None:
    # In evaluation mode a norm uses its running statistics and does not update them.
    module._mode_outside, module.training = module.training, False  # type: ignore[assignment]


def _as_it_was(module: nn.Module, inputs: Any, output: Any) -> None:
    module.training = module.__dict__.pop("_mode_outside", module.training)


def _give_own_class(module: nn.Module) -> None:
    # A copy shares the original's class, so the original would get the new parametrisations too.
    cls = type(module)
    attributes = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(cls.__name__, cls.__bases__, attributes)


def _can_be_saved(module: nn.Module) -> None:
    # Torch gives a parametrised module its own class. Pickle cannot find that class, so torch
    # forbids pickling. No other module shares the class.
    type(module).__reduce_ex__ = _reduced  # type: ignore[method-assign,assignment]


def _reduced(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    plain = type(module).__mro__[1]
    state = dict(module.__dict__)
    getstate = getattr(plain, "__getstate__", None)
    # Recurrent layers leave references out of their state.
    if getstate is not getattr(object, "__getstate__", None):
        state = plain.__getstate__(module)  # type: ignore[attr-defined]
    return _blank, (plain,), state, None, None, _filled


def _blank(plain: type[nn.Module]) -> nn.Module:
    return plain.__new__(plain)


def _filled(module: nn.Module, state: dict[str, Any]) -> None:
    module.__dict__.update(state)
    parametrize._inject_new_class(module)
    _can_be_saved(module)
    for attribute in module.parametrizations:  # type: ignore[union-attr]
        parametrize._inject_property(module, attribute)


def _keep_no_weights(module: nn.RNNBase) -> None:
    # Recurrent layers keep a list of their weights, which are assembled anew at each use. A list
    # that outlives the use would hold the graph, and could not be copied.
    if module._flat_weights:
        module.register_forward_pre_hook(_list_weights)
        module.register_forward_hook(_forget_weights)
        module._flat_weights = []


def _list_weights(module: nn.RNNBase, inputs: Any) -> None:
    module._init_flat_weights()


def _forget_weights(module: nn.RNNBase, inputs: Any, output: Any) -> None:
    module._flat_weights = []


def _after_saving(
    names: list[tuple[str, str]],
    order: list[str],
    module: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    local_metadata: Any,
) -> None:
    values = {plain: _value(module, plain) for plain, _ in names}
    for plain, inner in names:
        state.pop(f"{prefix}{inner}.original")
        state.pop(f"{prefix}{inner}.0.values")
        state[prefix + plain] = values[plain]
    for name in order:  # the plain model's order
        state[prefix + name] = state.pop(prefix + name)


def _before_loading(
    names: list[tuple[str, str]],
    module: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    *_: Any,
) -> None:
    for plain, inner in names:
        if prefix + plain in state:
            value = state.pop(prefix + plain)
            places = module.get_buffer(f"{inner}.0.places").to(value.device)
            state[f"{prefix}{inner}.original"] = value
            # Another shape is left for torch to report.
            if value.shape == module.get_parameter(f"{inner}.original").shape:
                state[f"{prefix}{inner}.0.values"] = value.flatten()[places]


def _value(module: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    value: Tensor = getattr(module.get_submodule(path), attribute)
    return value.detach()
