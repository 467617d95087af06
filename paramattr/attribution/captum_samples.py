"""Samples for Captum: the input that it varies, its baseline, and how to run the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import DataError, ModelError
from paramattr.integration.batches import Batch

Run = Callable[[Tensor], Any]
"""A function from inputs `(n, ...)` to the model's output."""


@dataclass(frozen=True)
class CaptumSample:
    """One sample.

    Attributes:
        batch: the model's arguments and the targets, for this sample alone.
        inputs: what Captum varies, `(1, ...)`, floating-point: the input, or the embeddings of its
            tokens.
        baselines: the start of Captum's path, of the same shape.
        run: the model as a function of `inputs`.
    """

    batch: Batch
    inputs: Tensor
    baselines: Tensor
    run: Run


def captum_samples(
    model: nn.Module, batch: Batch, embedding: str | None = None
) -> Iterator[CaptumSample]:
    """Yield a batch's samples one by one.

    Args:
        model: the model to run.
        batch: one floating-point input, a pair of an input and its baseline, or tokens.
        embedding: name of the module that embeds the tokens; by default the one that the model
            names, or its only one.

    Raises:
        DataError: if inputs and baselines do not match, or tokens have no known embedding.
        ModelError: if the embedding does not run exactly once.
    """
    if embedding is not None or batch.keywords or not batch.inputs[0].is_floating_point():
        kind = str(batch.inputs[0].dtype) if batch.inputs else "keywords"
        module = _embedding(model, embedding, kind)
        for sample in batch.chunks(1):
            embedded = _embedded(model, module, sample)
            run = _Embedded(model, module, sample)
            yield CaptumSample(sample, embedded, torch.zeros_like(embedded), run)
        return
    for sample, baselines in _with_baselines(batch):
        yield CaptumSample(sample, sample.inputs[0], baselines, model)


def cloned(batch: Batch) -> Batch:
    """Copy a batch's inputs, since the model may modify them."""
    return replace(batch, inputs=tuple(tensor.clone() for tensor in batch.inputs))


def repeated(tree: Any, times: int) -> Any:
    """Repeat the tensors of a tree along the batch."""
    if isinstance(tree, Tensor):
        return torch.cat([tree] * times)
    if isinstance(tree, tuple | list):
        branches = [repeated(branch, times) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    if isinstance(tree, dict):
        return {key: repeated(branch, times) for key, branch in tree.items()}
    return tree


class _Embedded:
    """A model of tokens as a function of their embeddings."""

    def __init__(self, model: nn.Module, embedding: nn.Module, sample: Batch) -> None:
        self.model, self.embedding, self.sample = model, embedding, sample

    def __call__(self, inputs: Tensor) -> Any:
        arguments = repeated(self.sample.arguments, len(inputs))
        keywords = repeated(self.sample.keywords, len(inputs))
        handle = self.embedding.register_forward_hook(lambda *_: inputs)
        try:
            return self.model(*arguments, **keywords)
        finally:
            handle.remove()


def _embedded(model: nn.Module, embedding: nn.Module, sample: Batch) -> Tensor:
    outputs: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad():
            model(*sample.arguments, **sample.keywords)
    finally:
        handle.remove()
    if len(outputs) != 1:
        raise ModelError(
            f"the embedding of the tokens runs {len(outputs)} times in a forward pass: expected "
            "one run, whose output Captum replaces; name another module (embedding=...)"
        )
    return outputs[0].detach()


def _embedding(model: nn.Module, name: str | None, kind: str) -> nn.Module:
    if name is not None:
        if name not in dict(model.named_modules()):
            raise ModelError(f"the embedding {name!r} is not one of the model's modules")
        return model.get_submodule(name)
    get_embedding: Callable[[], Any] | None = getattr(model, "get_input_embeddings", None)
    if get_embedding is not None and isinstance(get_embedding(), nn.Module):
        module: nn.Module = get_embedding()
        return module
    known = [n for n, module in model.named_modules() if isinstance(module, nn.Embedding)]
    if len(known) != 1:
        raise DataError(
            f"the inputs or baselines are {kind}: expected floating-point numbers, which Captum "
            "can differentiate, or the name of the module that embeds tokens; pass embedding=... "
            f"({', '.join(map(repr, known)) or 'none was found'})"
        )
    return model.get_submodule(known[0])


def _with_baselines(batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
    inputs, *rest = batch.inputs
    baselines = rest[0] if rest else torch.zeros_like(inputs)
    if len(rest) > 1 or inputs.shape != baselines.shape:
        raise DataError(
            f"the inputs have shapes {[tuple(tensor.shape) for tensor in batch.inputs]}: expected "
            "one input, or a pair of inputs and baselines of one shape; wrap a model with several "
            "inputs in a module with one"
        )
    for tensor in (inputs, baselines):
        if not tensor.is_floating_point():
            raise DataError(
                f"the inputs or baselines are {tensor.dtype}: expected floating-point numbers, "
                "which Captum can differentiate; pass a model of their embeddings"
            )
    samples = Batch((inputs,), batch.targets, ()).chunks(1)
    yield from zip(samples, baselines.split(1), strict=True)
