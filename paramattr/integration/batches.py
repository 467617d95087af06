"""Samples: from what a loader gives to the model's arguments and the objective's targets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Number
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from paramattr.errors import DataError, ParamattrError, an, one_line
from paramattr.files.reading import content
from paramattr.identity import identity, likeness

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Any]
"""A model's inputs: one tensor, several, or keyword arguments."""


@dataclass(frozen=True)
class Batch:
    """The model's arguments and the objective's targets for some samples, batch first.

    Attributes:
        inputs: tensors `(B, ...)`, the model's first arguments; empty if all are keywords.
        targets: a tensor `(B, ...)`; a tuple, list or dict of such tensors; or None.
        extra: the model's further arguments. Tensors are batch first; one without dimensions, and
            anything else, is passed unchanged with every sample.
        keywords: the model's keyword arguments, with the same rule.
        first: the number of the first sample in the batch that this batch was cut from.
        step: from the number of one sample to that of the next.
        before: samples that the loader gave before the batch that this one was cut from.
    """

    inputs: tuple[Tensor, ...]
    targets: Any = None
    extra: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    step: int = 1
    before: int = 0

    @classmethod
    def of(
        cls,
        inputs: Any,
        targets: Any = None,
        additional_forward_args: Any = None,
        *,
        device: torch.device | None = None,
        model: nn.Module | None = None,
    ) -> Batch:
        """Check that all tensors hold the same number of samples, and move them to `device`.

        Args:
            inputs: a tensor, a tuple of tensors, or a mapping (or dataclass) of keyword arguments.
                A mapping's `labels` are the targets if no targets are passed.
            targets: what the objective compares the output with.
            additional_forward_args: one argument, a tuple of them, or a mapping of keywords.
            device: where to put the tensors.
            model: the model that takes the keywords; an encoder-decoder also makes its decoder
                inputs from the labels.

        Raises:
            DataError: if an input is not a tensor, there is no sample, the numbers of samples
                differ, what is no tensor has as many entries, or the model does not take a keyword.
        """
        keywords: dict[str, Any] = {}
        # Labels are the objective's: a model that gets them computes a loss of its own, over the
        # batch.
        if _is_mapping(inputs):
            keywords, inputs = _as_dict(inputs), ()
            if targets is None and LABELS in keywords:
                targets = keywords.pop(LABELS)
                keywords |= decoder_inputs(model, keywords, targets)
        extra: Any = additional_forward_args
        if isinstance(extra, Mapping):
            keywords, extra = {**keywords, **extra}, ()
        elif not isinstance(extra, tuple):
            extra = () if extra is None else (extra,)
        positional = inputs if isinstance(inputs, tuple | list) else (inputs,)
        # Looked at in the order in which a user would: kinds, then what is missing, then sizes.
        named = (
            ("inputs", (positional, keywords)),
            ("targets", targets),
            ("additional_forward_args", extra),
        )
        _check_kinds(named)
        _check_tensors(targets)
        _check_inputs(positional, keywords)
        _check_keywords(model, keywords)
        _check_sequences(_check_sizes(named), keywords, extra, targets)
        moved = [
            mapped(part, lambda tensor: _usable(tensor, device))
            for part in (tuple(positional), targets, tuple(extra), keywords)
        ]
        return cls(*moved)

    @classmethod
    def from_loader(
        cls, item: Any, *, device: torch.device | None = None, model: nn.Module | None = None
    ) -> Batch:
        """Make a batch from an item of a data loader: `(inputs, targets)`, a tensor or a mapping.

        Raises:
            DataError: for anything else.
        """
        if isinstance(item, Tensor) or _is_mapping(item):
            return cls.of(item, device=device, model=model)
        if isinstance(item, tuple | list) and len(item) in (1, 2):
            return cls.of(*item, device=device, model=model)
        raise DataError(
            f"the loader gave {_described(item)}: expected (inputs, targets), a tensor alone, or a "
            "mapping of keyword arguments; wrap the loader in a generator that yields one of these"
        )

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The model's positional arguments."""
        return (*self.inputs, *self.extra)

    def __len__(self) -> int:
        """Count the samples."""
        # Targets may be none, and a tensor without dimensions is shared by all samples.
        of_samples = (tensor for tensor in tensors_in((self.inputs, self.keywords)) if tensor.ndim)
        return len(next(of_samples))

    def number(self, place: int) -> int:
        """Give the number in the loader of one of the samples."""
        return self.before + self.first + self.step * place

    def feed(self, update: Callable[[bytes], object], *, is_resumed: bool = False) -> None:
        """Feed the batch's content to a digest's `update`, to tell batches apart.

        Args:
            update: takes bytes.
            is_resumed: whether a file is known by them: then what cannot be seen is an error.

        Raises:
            CheckpointError: as `identity`, of what is no tensor.
        """
        # Content, not addresses: a loader makes tensors anew each time.
        for tensor in tensors_in(self._parts()):
            update(content(tensor))
        # Of the rest: names, structure, and what is no tensor; a class holds a tensor's place.
        rest = mapped(self._parts(), cast(Any, lambda _: Tensor))
        update((identity(rest, "the batch") if is_resumed else likeness(rest)).encode())

    def chunks(self, size: int) -> Iterator[Batch]:
        """Cut the batch into batches of at most `size` samples, in order."""
        return (self.part(start, size) for start in range(0, len(self), size))

    def part(self, start: int, size: int) -> Batch:
        """Cut out `size` samples, or as many as are left."""
        return self.on(slice(start, start + size))

    def on(self, samples: slice) -> Batch:
        """Cut out the samples at some places."""
        inputs, targets, extra, keywords = mapped(
            self._parts(), lambda tensor: tensor[samples] if tensor.ndim else tensor
        )
        start, step = samples.start or 0, samples.step or 1
        first = self.first + start * self.step
        return Batch(inputs, targets, extra, keywords, first, self.step * step, self.before)

    def _parts(self) -> tuple[Any, Any, Any, Any]:
        return self.inputs, self.targets, self.extra, self.keywords


def mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to all tensors in tuples, lists and dicts; keep everything else."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        branches = [mapped(branch, function) for branch in tree]
        # A named tuple takes its fields one by one.
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    if isinstance(tree, dict):
        same = copy.copy(tree)  # keeps the type, such as an output with attributes
        for key, branch in tree.items():
            same[key] = mapped(branch, function)
        return same
    return tree


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Yield all tensors in tuples, lists and dicts, in the order in which `mapped` visits them."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from tensors_in(branch)
    elif isinstance(tree, dict):
        yield from tensors_in(tuple(tree.values()))


def joined(trees: Sequence[Any]) -> Any:
    """Concatenate the tensors of trees of one structure along the batch."""
    rest = zip(*(tensors_in(tree) for tree in trees), strict=True)
    return mapped(trees[0], lambda first: torch.cat(next(rest)) if first.ndim else first)


def no_batch(loader: Any) -> DataError:
    """Return an error for a loader without batches; it says so if an iterator is spent."""
    # A spent generator looks like an empty list.
    if iter(loader) is loader:
        return DataError(
            f"the loader gave no batch: it is {an(type(loader))}, which can be read only "
            "once, and was already read or is empty; pass a list or a DataLoader, or make a new "
            "one for each call"
        )
    return DataError("the loader gave no batch: expected at least one (inputs, targets)")


def _is_mapping(item: Any) -> bool:
    return isinstance(item, Mapping) or (is_dataclass(item) and not isinstance(item, type))


def _as_dict(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    return {each.name: getattr(item, each.name) for each in fields(item)}


def _check_kinds(named: Sequence[tuple[str, Any]]) -> None:
    for label, tree in named:
        for tensor in tensors_in(tree):
            if tensor.is_meta:
                raise DataError(
                    f"the {label} hold a tensor on the meta device, which has no values: expected "
                    "data; make it on the CPU"
                )
            if tensor.layout is not torch.strided or tensor.is_nested:
                kind = "nested" if tensor.is_nested else tensor.layout
                raise DataError(
                    f"the {label} hold a {kind} tensor: expected one that stores every entry, with "
                    "the batch first; take its "
                    + ("to_padded_tensor(0), and a mask" if tensor.is_nested else "to_dense()")
                )
            if tensor.is_floating_point() and tensor.itemsize == 1:
                raise DataError(
                    f"the {label} hold a tensor of {tensor.dtype}: expected half precision at "
                    "least, since eight bits have no arithmetic; take its float()"
                )


def _check_inputs(positional: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    for number, value in enumerate(positional):
        if not isinstance(value, Tensor) or value.ndim == 0:
            raise DataError(
                f"input {number} is {_described(value)}: expected a tensor with the batch first"
            )
    if not positional and not any(tensor.ndim for tensor in tensors_in(dict(keywords))):
        raise DataError(
            "there is no input: expected a tensor, a tuple of tensors, or a mapping that holds one"
        )


def _check_keywords(model: nn.Module | None, keywords: Mapping[str, Any]) -> None:
    if model is None or not keywords:
        return
    taken = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    unknown = [name for name in keywords if name not in taken]
    if unknown:
        raise DataError(
            f"the batch holds {unknown[0]!r}, which {type(model).__name__}.forward does not take: "
            f"expected some of {', '.join(map(repr, taken))}; leave it out of the loader, and pass "
            f"targets as {LABELS!r} or as (inputs, targets)"
        )


def _check_sizes(named: Sequence[tuple[str, Any]]) -> int:
    size = None
    for label, tree in named:
        for tensor in tensors_in(tree):
            if not tensor.ndim and label != "targets":  # shared by all samples
                continue
            if size is None:
                size = tensor.shape[0] if tensor.ndim else 0
            if size == 0:
                raise DataError("the inputs hold no sample: expected at least one")
            if tensor.ndim == 0 or tensor.shape[0] != size:
                raise DataError(
                    f"the inputs hold {size} samples and the {label} "
                    f"{tensor.shape[0] if tensor.ndim else 'a single number'}: expected as "
                    "many of each, with the batch first"
                )
    return size or 0


def _check_sequences(
    size: int, keywords: Mapping[str, Any], extra: Sequence[Any], targets: Any
) -> None:
    """Reject what is no tensor and has as many entries as there are samples, if there are several.

    It may hold one for each sample, or be shared by all: a guess would be silently wrong.
    """
    named = [(f"the keyword {name!r}", value) for name, value in keywords.items()]
    named += [(f"argument {n} of additional_forward_args", v) for n, v in enumerate(extra)]
    named.append(("the targets", targets))
    for where, value in named if size > 1 else ():
        for found in _sequences(value):
            if len(found) == size:
                bound = "the objective" if value is targets else "the forward of both models"
                raise DataError(
                    f"{where}: found {an(type(found))} of {size} entries, as many as there "
                    "are samples; if it holds one for each sample, expected a tensor with the "
                    f"batch first; if it is shared by all, bind it into {bound} with "
                    "functools.partial (a torch.Size is always shared)"
                )


def _sequences(value: Any) -> Iterator[Sized]:
    """Yield what has a length and holds no tensor; texts, sizes and mappings have no entries."""
    if isinstance(value, Mapping):
        value = list(value.values())
        yield from (found for branch in value for found in _sequences(branch))
    elif isinstance(value, Tensor | str | bytes | torch.Size | Set | nn.Module | type):
        return
    elif isinstance(value, tuple | list):
        is_record = hasattr(value, "_fields")
        if not is_record and next(tensors_in(value), None) is None:
            yield value
        yield from (found for branch in value for found in _sequences(branch))
    elif isinstance(value, Sized) and (not isinstance(value, np.ndarray) or value.ndim):
        yield value


def _check_tensors(targets: Any) -> None:
    branches = targets.values() if isinstance(targets, dict) else targets
    if isinstance(targets, tuple | list | dict):
        for branch in branches:
            _check_tensors(branch)
    elif isinstance(targets, Number | np.ndarray):
        raise DataError(
            f"the targets hold {_described(targets)}: expected a tensor with the batch first, or a "
            "tuple, list or dict of such tensors; torch.as_tensor makes one"
        )


def _usable(tensor: Tensor, device: torch.device | None) -> Tensor:
    # Targets that require a gradient would keep the user's graph alive.
    moved = tensor.detach() if device is None else tensor.detach().to(device)
    return moved.clone() if moved.is_inference() else moved  # autograd refuses inference tensors


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{an(type(value))} of {len(value)}"
    return f"{an(type(value))}"


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
    # Some models shift the labels inside `forward`, and have no method for it.
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
    # Classes and scores are not decoded.
    is_tokens = labels.ndim > 1 and not labels.is_floating_point()
    return is_tokens and GIVEN in taken and LABELS in taken


def drawn(loader: Iterable[Any], name: str = "") -> Iterator[Any]:
    """Draw every batch of a loader.

    Args:
        loader: any iterable of batches.
        name: of its condition, for the error.

    Raises:
        DataError: if a `DataLoader`, or a worker of it, raises: with the number of the batch, and
            where the data set is read in order, of the sample. Its own error is the cause. What any
            other iterable raises passes through.
    """
    of = f" of {name!r}" if name else ""
    # A loader's own traceback names neither the batch nor the sample.
    finished = 0
    try:
        for item in loader:
            yield item
            finished += 1
    except (ParamattrError, GeneratorExit):
        raise
    except Exception as error:
        if not isinstance(loader, DataLoader):
            raise
        sample = _failing(loader, finished)
        where = f"batch {finished + 1}{of}" if sample is None else f"sample {sample[0]}{of}"
        reason = _reason(error) if sample is None else sample[1]
        raise DataError(
            f"the loader failed at {where} ({reason}): expected a batch; repair that sample or "
            "leave it out"
        ) from error


def _failing(loader: DataLoader[Any], finished: int) -> tuple[int, str] | None:
    """Find the sample that fails, where the loader reads a data set in order."""
    if loader.batch_size is None or not isinstance(loader.sampler, SequentialSampler):
        return None
    # Workers read ahead, and what one of them raises comes in its batch's turn.
    first = finished * loader.batch_size
    for number in range(first, min(first + loader.batch_size, len(loader.dataset))):  # type: ignore[arg-type]
        try:
            loader.dataset[number]
        except Exception as error:  # noqa: PERF203 (one batch)
            return number, _reason(error)
    return None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Caught ") and " worker " in lines[0]:
        return lines[-1][:200]  # of the worker's own traceback
    return f"{type(error).__name__}: {one_line(error)}"
