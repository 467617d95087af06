"""The decoder's inputs of an encoder-decoder, made from labels that the model does not get."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from paramattr.errors import DataError, one_line

LABELS = "labels"
"""The entry of a mapping that goes to the objective as targets."""
GIVEN = "decoder_input_ids"
_TOKENS = ("pad_token_id", "decoder_start_token_id")


def decoder_inputs(
    model: nn.Module | None, keywords: Mapping[str, Any], labels: Any
) -> dict[str, Any]:
    """Make the decoder's inputs as the model itself would, if it had the labels.

    Args:
        model: the model that takes the keywords.
        keywords: those of the batch, without the labels.
        labels: the labels.

    Returns:
        The keyword to add; none where the model decodes nothing, or the batch holds its inputs.

    Raises:
        DataError: if the model needs them and they cannot be made, saying what to give.
    """
    if model is None or not isinstance(labels, Tensor):
        return {}
    if {GIVEN, "decoder_inputs_embeds"} & keywords.keys():
        return {}
    make = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if make is None:
        make = _shifting(model)
    name, config = type(model).__name__, getattr(model, "config", None)
    if make is None:
        if _decodes_tokens(model, labels):
            raise DataError(
                f"{name} is an encoder-decoder, and gets no labels: they go to the objective; "
                f"give {GIVEN!r} in the batch too, as the model makes them of its labels"
            )
        return {}
    try:
        return {GIVEN: make(labels)}
    except (TypeError, ValueError, RuntimeError) as error:
        missing = [f"config.{t} is None" for t in _TOKENS if getattr(config, t, None) is None]
        raise DataError(
            f"{name} cannot make its decoder's inputs from the labels "
            f"({', '.join(missing) or one_line(error)}): expected a configuration that says how; "
            f"set it, or give {GIVEN!r} in the batch"
        ) from error


def _shifting(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    # Several models of transformers shift the labels in `forward`, by a function of their module.
    # Which one, and by which tokens, is read from the code: a wrong guess would be silent.
    forward = inspect.unwrap(type(model).forward)
    code, known = getattr(forward, "__code__", None), getattr(forward, "__globals__", {})
    shift, config = known.get("shift_tokens_right"), getattr(model, "config", None)
    if code is None or shift is None or "labels" not in inspect.signature(forward).parameters:
        return None
    if not {"shift_tokens_right", *_TOKENS} <= set(code.co_names):
        return None
    if "text_config" in code.co_names:  # the tokens are those of a part of the configuration
        return None
    return lambda labels: shift(labels, *(getattr(config, token, None) for token in _TOKENS))


def _decodes_tokens(model: nn.Module, labels: Tensor) -> bool:
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    taken = inspect.signature(model.forward).parameters
    is_tokens = labels.ndim > 1 and not labels.is_floating_point()
    return is_tokens and GIVEN in taken and LABELS in taken
