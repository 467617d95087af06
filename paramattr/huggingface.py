"""Folders of Hugging Face: a base and what was tuned from it, as two models of one architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import CheckpointError, ModelError, ParamattrError, an, warn
from paramattr.files.folders import (
    check_built,
    check_folder,
    check_index,
    check_sizes,
    class_of,
    config,
    first_line,
    library,
    quiet,
    read_model,
    tokenizer,
)

ADAPTERS = ("merged", "factors")
"""How an adapter is attributed to: in the weights it was merged into, or in its own matrices."""

_AUTO = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "FEATURE_EXTRACTION": "AutoModel",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
}
"""PEFT's task types to the class that reads a base for them."""

_HEADS = ("classifier", "score", "out_proj")


@dataclass(frozen=True)
class Pair:
    """Two models of one architecture, read from folders.

    Attributes:
        target: the tuned model, in evaluation mode.
        baseline: what it was tuned from, in evaluation mode.
        tokenizer: that of the tuned folder, else of the base's; None where neither holds one.
        kept: parameters that the base lacks or has in another shape, such as a new head. Both
            models hold the target's, so that they do not move and nothing is attributed to them.
        dropped: what the base alone holds, such as the head that it was trained with.
        adapter: `"merged"` or `"factors"` where the tuned folder holds an adapter, else None.
        ignored: what the tuned folder holds and its class of model does not take.
    """

    target: nn.Module
    baseline: nn.Module
    tokenizer: Any | None
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    adapter: str | None = None
    ignored: tuple[str, ...] = ()


def load_pair(
    base: str | Path, tuned: str | Path, *, adapter: str = "merged"
) -> tuple[nn.Module, nn.Module, Any | None]:
    """Read a base and what was tuned from it: `target, baseline, tokenizer`.

    Nothing is downloaded, and no code of a folder is run.

    Args:
        base: a local folder that `save_pretrained` wrote: safetensors, one or sharded, or `.bin`
            files of tensors alone.
        tuned: likewise; or the folder of a PEFT adapter, whose baseline is the base without it.
        adapter: `"merged"` attributes to the weights of the plain model, which the adapter was
            added to; `"factors"` to the adapter's own matrices, which both go to zero. A
            quantised base is frozen, and takes `"factors"`.

    Returns:
        The tuned model, its baseline, both in evaluation mode and of the same parameters, and the
        tokenizer or None.

    Raises:
        CheckpointError: if a folder is missing, holds no model, or cannot be read.
        ModelError: if the two share no parameter, or the adapter is another base's.
        ParamattrError: for an unknown `adapter`, or where transformers or peft is not installed.

    Warns:
        UserWarning: listing the parameters that the base lacks (see `Pair.kept`), and the tensors
            that the tuned folder's class of model does not take.
    """
    pair = read_pair(base, tuned, adapter=adapter)
    if pair.kept:
        warn(
            f"{', '.join(map(repr, pair.kept))} of {tuned} are missing or of another shape in "
            f"{base}: they stay the target's in both models, and are not attributed"
        )
    if pair.ignored:
        warn(
            f"{', '.join(map(repr, pair.ignored))} of {tuned} have no place in its class of model "
            f"({type(pair.target).__name__}): they are ignored, and not attributed"
        )
    return pair.target, pair.baseline, pair.tokenizer


def read_pair(base: str | Path, tuned: str | Path, *, adapter: str = "merged") -> Pair:
    """Read two folders as `load_pair` does, and say what was kept instead of warning of it.

    Raises:
        ParamattrError: as in `load_pair`.
    """
    if adapter not in ADAPTERS:
        raise ParamattrError(f"adapter is {adapter!r}: expected 'merged' or 'factors'")
    base, tuned = Path(base), Path(tuned)
    for folder in (base, tuned):
        check_folder(folder)
        check_index(folder)
    with quiet():
        if (tuned / "adapter_config.json").is_file():
            pair = _with_adapter(base, tuned, adapter)
        else:
            pair = _with_models(base, tuned)
    return pair


def is_causal(model: nn.Module) -> bool:
    """Say whether a model is one of transformers' causal language models, or made from one.

    >>> is_causal(nn.Linear(1, 1))
    False
    """
    own = [kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers.")]
    if not own:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = set[str]()
    for found in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        names |= {found} if isinstance(found, str) else set(found)
    # An encoder such as BERT's is among them, for those who set it up as a decoder.
    is_encoder = getattr(getattr(model, "config", None), "is_decoder", None) is False and any(
        kind.__name__.endswith("ForMaskedLM") for kind in own
    )
    return not is_encoder and any(kind.__name__ in names for kind in own)


def _with_models(base: Path, tuned: Path) -> Pair:
    settings = config(tuned)
    check_sizes(settings, tuned)
    kind = class_of(settings, tuned)
    check_built(kind, tuned)
    target, own = read_model(kind, tuned)
    baseline, other = read_model(kind, base, config=target.config)
    kept = _missing(own, target) + _missing(other, target)
    _check_some_in_common(target, kept, base, tuned)
    _keep(baseline, target, kept)
    return Pair(
        target,
        baseline,
        tokenizer(tuned, base),
        tuple(dict.fromkeys(kept)),
        tuple(sorted(other["unexpected_keys"])),
        ignored=tuple(sorted(own["unexpected_keys"])),
    )


def _with_adapter(base: Path, tuned: Path, how: str) -> Pair:
    peft = library("peft")
    written, own = config(tuned, "adapter_config.json"), config(base)
    is_quantised = "quantization_config" in own
    if how == "merged" and is_quantised:
        raise ModelError(
            f"the base {base} is quantised, so that an adapter cannot be merged into it without "
            "rounding: take adapter='factors'"
        )
    check_sizes(own, base)
    weights = _weights(peft, tuned)
    _check_rank(written, weights, tuned)
    kind, options = _base_class(written, own, base, weights)
    check_built(kind, base, **options)
    plain, info = read_model(kind, base, **options)
    adapted = _adapted(peft, copy.deepcopy(plain), base, tuned, set(weights))
    kept = _missing(info, plain)
    _check_base_name(written, base, tuned)
    if how == "merged":
        target = adapted.merge_and_unload(safe_merge=True).eval()
        baseline = plain
        _keep(baseline, target, kept)
    else:
        _check_factors(written, tuned)
        target = adapted.get_base_model().eval()
        baseline = copy.deepcopy(target)
        _switch_off(baseline, plain, kept)
    return Pair(
        target,
        baseline,
        tokenizer(tuned, base),
        tuple(kept),
        tuple(sorted(info["unexpected_keys"])),
        how,
    )


def _weights(peft: Any, tuned: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = peft.utils.load_peft_weights(str(tuned), device="cpu")
    except Exception as error:  # each kind of file is refused by another class
        raise CheckpointError(
            f"the weights of adapter {tuned} cannot be read ({first_line(error)}): expected whole "
            "files; copy or save it again"
        ) from None
    return found


def _check_rank(written: Mapping[str, Any], weights: Mapping[str, Tensor], tuned: Path) -> None:
    most = max((size for value in weights.values() for size in value.shape), default=0)
    patterns = written.get("rank_pattern")
    ranks = [written.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    for rank in ranks:
        if isinstance(rank, int) and rank > most:
            raise CheckpointError(
                f"adapter {tuned} says that its rank is {rank}, and the largest side of its "
                f"matrices is {most}: expected settings of these weights; copy it again"
            )


def _adapted(peft: Any, model: nn.Module, base: Path, tuned: Path, given: set[str]) -> Any:
    wrong = (
        f"the adapter {tuned} does not fit the base {base}: expected the model that it was "
        "trained on"
    )
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(tuned), local_files_only=True)
    except (OSError, ImportError) as error:
        raise CheckpointError(f"adapter {tuned} cannot be read: {first_line(error)}") from None
    except Exception as error:  # peft and torch refuse what does not fit by several classes
        raise ModelError(f"{wrong}; {first_line(error)}") from None
    held = set(peft.get_peft_model_state_dict(adapted))
    if held != given:
        odd = sorted(held ^ given)[0]
        place = "the base" if odd in given else "the adapter"
        raise ModelError(f"{wrong}; {odd!r} is missing in {place}")
    return adapted


def _switch_off(baseline: nn.Module, plain: nn.Module, kept: list[str]) -> None:
    """Put the base's values into a copy of the adapted model, and zeros into the adapter's."""
    values = dict(plain.named_parameters()) | dict(plain.named_buffers())
    with torch.no_grad():
        for name, parameter in baseline.named_parameters():
            if ".lora_" in f".{name}":
                parameter.zero_()
                continue
            parts = name.replace(".base_layer", "").replace(".original_module", "").split(".")
            if "modules_to_save" in parts:
                place = parts.index("modules_to_save")
                del parts[place : place + 2]
            own = ".".join(parts)
            if own in values and own not in kept and parameter.is_floating_point():
                parameter.copy_(values[own])


def _check_factors(written: Mapping[str, Any], tuned: Path) -> None:
    if written.get("peft_type") != "LORA" or written.get("use_dora"):
        kind = "DoRA" if written.get("use_dora") else written.get("peft_type")
        raise ModelError(
            f"adapter {tuned} is {kind}, which has no two matrices that go to zero together: "
            "expected LoRA; take adapter='merged'"
        )


def _check_base_name(written: Mapping[str, Any], base: Path, tuned: Path) -> None:
    named = str(written.get("base_model_name_or_path") or "").rstrip("/").rpartition("/")[2]
    if named and named != base.resolve().name:
        warn(
            f"adapter {tuned} names {named!r} as its base, and was put on {base}: its shapes fit; "
            "see that it is the model that the adapter was trained on"
        )


def _base_class(
    written: Mapping[str, Any], own: Mapping[str, Any], base: Path, weights: Mapping[str, Tensor]
) -> tuple[Any, dict[str, Any]]:
    auto = _AUTO.get(str(written.get("task_type")))
    options: dict[str, Any] = {}
    if auto is None:
        return class_of(own, base), options
    if auto.endswith("Classification"):
        heads = {
            next(iter(value.shape))
            for name, value in weights.items()
            if value.ndim == 2 and name.split(".")[-2:-1] in [[head] for head in _HEADS]
        }
        if heads:
            options["num_labels"] = min(heads)
    return getattr(library("transformers"), auto), options


def _missing(info: Mapping[str, Any], model: nn.Module) -> list[str]:
    names = set(info["missing_keys"])
    names |= {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    return [name for name in model.state_dict() if name in names]


def _keep(baseline: nn.Module, target: nn.Module, names: list[str]) -> None:
    own, other = target.state_dict(), baseline.state_dict()
    with torch.no_grad():
        for name in names:
            other[name].copy_(own[name])


def _check_some_in_common(model: nn.Module, kept: list[str], base: Path, tuned: Path) -> None:
    names = [name for name, _ in model.named_parameters()]
    if set(names) <= set(kept):
        raise ModelError(
            f"folders {base} and {tuned} have no parameter in common: expected a model and what it "
            f"was tuned from; {tuned} holds {an(type(model))} with {names[0]!r}"
        )
