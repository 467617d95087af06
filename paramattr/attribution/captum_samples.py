"""Samples as Captum takes them: an input that it moves, where its path starts, and how to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from paramattr.errors import DataError, ModelError
from paramattr.integration.batches import Batch

Run = Callable[[Tensor], Any]
"""Inputs `(n, ...)` to the model's output for them."""


@dataclass(frozen=True)
class Given:
    """One sample.

    Attributes:
        sample: what the model is given.
        inputs: what Captum moves, `(1, ...)`, floating-point: the input, or the embeddings of its
            tokens.
        baselines: where its path starts, of the same shape.
        run: the model, from the inputs on.
    """

    sample: Batch
    inputs: Tensor
    baselines: Tensor
    run: Run


def given_samples(model: nn.Module, batch: Batch, embedding: str | None = None) -> Iterator[Given]:
    """Give a batch's samples one by one.

    Args:
        model: what runs.
        batch: of one floating-point input, of a pair of it and its baseline, or of tokens.
        embedding: name of the module that embeds the tokens; found where the model names it.

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
            yield Given(sample, embedded, torch.zeros_like(embedded), run)
        return
    for sample, baselines in _with_baselines(batch):
        yield Given(sample, sample.inputs[0], baselines, model)


def cloned(batch: Batch) -> Batch:
    """Copy a batch's inputs, which the model may write into."""
    return replace(batch, inputs=tuple(one.clone() for one in batch.inputs))


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
            "one run, in whose place Captum's inputs stand; name another (embedding=...)"
        )
    return outputs[0].detach()


def _embedding(model: nn.Module, name: str | None, kind: str) -> nn.Module:
    if name is not None:
        if name not in dict(model.named_modules()):
            raise ModelError(f"the embedding {name!r} is not one of the model's modules")
        return model.get_submodule(name)
    named = getattr(model, "get_input_embeddings", None)
    if named is not None and isinstance(named(), nn.Module):
        found: nn.Module = named()
        return found
    known = [n for n, module in model.named_modules() if isinstance(module, nn.Embedding)]
    if len(known) != 1:
        raise DataError(
            f"the inputs or baselines are {kind}: expected floating-point numbers, which Captum "
            "differentiates by, or the name of the module that embeds tokens; give embedding=... "
            f"({', '.join(map(repr, known)) or 'none was found'})"
        )
    return model.get_submodule(known[0])


def _with_baselines(batch: Batch) -> Iterator[tuple[Batch, Tensor]]:
    inputs, *more = batch.inputs
    baselines = more[0] if more else torch.zeros_like(inputs)
    if len(more) > 1 or inputs.shape != baselines.shape:
        raise DataError(
            f"the inputs have shapes {[tuple(one.shape) for one in batch.inputs]}: expected one "
            "input, or a pair of inputs and baselines of one shape; a model of several inputs is "
            "wrapped in a module of one"
        )
    for one in (inputs, baselines):
        if not one.is_floating_point():
            raise DataError(
                f"the inputs or baselines are {one.dtype}: expected floating-point numbers, which "
                "Captum differentiates by; give a model of their embeddings"
            )
    samples = Batch((inputs,), batch.targets, ()).chunks(1)
    yield from zip(samples, baselines.split(1), strict=True)
