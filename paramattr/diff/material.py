"""What is compared: two models, the data of each condition, the objective; checked before work."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paramattr.diff.config import Config
from paramattr.diff.names import ALL, check_conditions
from paramattr.diff.texts import Text, Tokens, read_texts, shortest_first
from paramattr.errors import CheckpointError, DataError, ModelError, ParamattrError, an
from paramattr.files.folders import is_folder_of_model
from paramattr.files.reading import load_state_dict
from paramattr.huggingface import is_causal, read_pair
from paramattr.integration.batches import Batch, drawn, mapped
from paramattr.objectives import (
    Objective,
    cross_entropy,
    next_token_cross_entropy,
    squared_error,
)

CLASSIFICATION, NEXT_TOKEN = "classification", "next-token"
OBJECTIVES: dict[str, Objective] = {
    CLASSIFICATION: cross_entropy,
    NEXT_TOKEN: next_token_cross_entropy,
    "squared-error": squared_error,
}
"""Names of objectives on the command line."""


@dataclass(frozen=True)
class Material:
    """Two models of one architecture, and what they are compared on.

    Attributes:
        target: in evaluation mode, where it is to compute.
        baseline: likewise.
        conditions: name to batches, as `FAIG.score` takes them.
        objective: `(output, targets)` to one number per sample.
        measured_by: the objective's name on the command line.
        counts: name to the number of samples.
        notes: what was cut, kept or dropped, in sentences.
        texts: name to the texts of the batches, in the batches' order; empty where there are none.
        tokenizer: of the texts.
    """

    target: nn.Module
    baseline: nn.Module
    conditions: dict[str, list[Any]]
    objective: Objective
    counts: dict[str, int]
    measured_by: str = CLASSIFICATION
    notes: tuple[str, ...] = ()
    texts: Mapping[str, Sequence[Text]] = field(default_factory=dict)
    tokenizer: Any = None


def gather(config: Config) -> Material:
    """Read all that a comparison needs, and refuse what does not fit.

    Raises:
        ParamattrError: naming what is missing or wrong.
    """
    device = _device(config.device)
    if config.objective is not None:
        _objective(config.objective)  # a wrong name shows before the models are read
    found = _of_state_dicts(config) if config.model else _of_folders(config)
    target, baseline = found.target.to(device), found.baseline.to(device)
    moved = {
        name: [mapped(batch, partial(_to, device)) for batch in batches]
        for name, batches in found.conditions.items()
    }
    counts = {
        name: sum(len(Batch.from_loader(batch, model=target)) for batch in batches)
        for name, batches in moved.items()
    }
    return replace(
        found,
        target=target,
        baseline=baseline,
        conditions=moved,
        objective=_objective(found.measured_by),
        counts=counts,
    )


def _objective(name: str) -> Objective:
    return OBJECTIVES.get(name) or _named(name, "--objective")


def _measured_by(config: Config, model: nn.Module) -> str:
    """Name the objective: what was asked for, else what the model is for."""
    return config.objective or (NEXT_TOKEN if is_causal(model) else CLASSIFICATION)


def dtype_of(name: str | None) -> torch.dtype | None:
    """Take a precision by its name in torch.

    Raises:
        ParamattrError: for any other name.
    """
    found = getattr(torch, name, None) if name else None
    if name and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ParamattrError(f"dtype {name!r} is none of float32, float64, bfloat16, float16")
    return found


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or "cpu")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no such GPU")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ParamattrError(
            f"device {name!r} cannot be used ({reason}): leave --device out for the CPU"
        ) from None
    return device


def _of_folders(config: Config) -> Material:
    if config.data is None:
        raise DataError("folders of Hugging Face are compared on texts: give --data FILE.jsonl")
    if config.objective == "squared-error":
        raise ParamattrError("texts have no target for squared-error: take another objective")
    for folder in (config.base, config.tuned):
        if folder.is_file():
            raise CheckpointError(
                f"{folder} is a file: expected a folder of Hugging Face; for two state dicts give "
                "--model and --batches"
            )
    texts = read_texts(config.data)
    pair = read_pair(config.base, config.tuned, adapter=config.adapter)
    if pair.tokenizer is None:
        raise DataError(
            f"neither {config.tuned} nor {config.base} holds a tokenizer: save it there with "
            "tokenizer.save_pretrained(...)"
        )
    measured_by = _measured_by(config, pair.target)
    labelled, limit = measured_by != NEXT_TOKEN, config.max_tokens
    tokens = Tokens(pair.tokenizer, pair.target, labelled=labelled, max_tokens=limit)
    conditions: dict[str, list[Any]] = dict(tokens.batches(texts, config.batch_size))
    notes = []
    if tokens.cut:
        notes.append(f"{tokens.cut} of {len(texts)} texts were cut at {tokens.most} tokens.")
    if pair.kept:
        notes.append(
            f"{', '.join(pair.kept)}: not in the base, or of another shape there. Both models hold "
            "the tuned one's, and nothing is attributed to them."
        )
    if pair.dropped:
        notes.append(f"{', '.join(pair.dropped)}: in the base alone, and left out.")
    if pair.ignored:
        notes.append(
            f"{', '.join(pair.ignored)}: in the tuned folder, and without a place in its class of "
            "model; ignored."
        )
    found = Material(pair.target, pair.baseline, conditions, cross_entropy, {}, measured_by)
    return replace(found, notes=tuple(notes), texts=shortest_first(texts), tokenizer=pair.tokenizer)


def _of_state_dicts(config: Config) -> Material:
    for path in (config.base, config.tuned):
        if path.is_dir() and is_folder_of_model(path):
            raise CheckpointError(
                f"{path} is a folder of Hugging Face: leave --model and --batches out, or give a "
                "file with a state dict"
            )
    states = [load_state_dict(path) for path in (config.tuned, config.base)]
    model = _called(_named(config.model or "", "--model"), "--model")
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"--model {config.model} gave {an(type(model))}: expected a torch.nn.Module"
        )
    pair = [
        _filled(copy.deepcopy(model), state, path)
        for state, path in zip(states, (config.tuned, config.base), strict=True)
    ]
    given = _called(_named(config.batches or "", "--batches"), "--batches")
    loaders = given if isinstance(given, Mapping) else {ALL: given}
    conditions = {}
    check_conditions([str(name) for name in loaders], f"--batches {config.batches}")
    for name, loader in loaders.items():
        if not isinstance(name, str) or not isinstance(loader, Iterable):
            raise DataError(
                f"--batches {config.batches} gave {type(loader).__name__} for {name!r}: expected a "
                "loader, or a mapping of conditions to loaders"
            )
        conditions[name] = _called(partial(list, drawn(loader, name)), "--batches")
        if not conditions[name]:
            raise DataError(f"--batches {config.batches} gave no batch for condition {name!r}")
    measured_by = _measured_by(config, pair[0])
    return Material(pair[0], pair[1], conditions, cross_entropy, {}, measured_by)


def _filled(model: nn.Module, state: dict[str, Any], path: Path) -> nn.Module:
    own = model.state_dict()
    common = [name for name in state if name in own]
    if not common:
        raise ModelError(
            f"{path} and the model have no parameter in common: it holds {next(iter(state))!r}, "
            f"the model {next(iter(own), 'nothing')!r}"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:2])
        raise ModelError(f"{path} does not fit the model: {reason}") from None
    return model.eval()


def _named(place: str, option: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    if not module or not name:
        known = f"one of {', '.join(OBJECTIVES)}, or " if option == "--objective" else ""
        raise ParamattrError(f"{option} is {place!r}: expected {known}package.module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules beside where the command is called
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ParamattrError(f"{option} {place} cannot be imported: {error}") from None
    if not callable(found):
        raise ParamattrError(f"{option} {place} is {an(type(found))}: expected a function")
    function: Callable[..., Any] = found
    return function


def _called(function: Callable[..., Any], option: str) -> Any:
    try:
        return function()
    except ParamattrError:
        raise
    except Exception as error:
        raise ParamattrError(
            f"{option} failed: {type(error).__name__}: {error}; expected a function that is called "
            "without arguments"
        ) from error


def _to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(device)
