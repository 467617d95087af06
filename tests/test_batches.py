"""Batches: what counts as one, and how it is cut."""

import dataclasses
from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from paramattr.errors import DataError
from paramattr.integration.batches import Batch

Pair = namedtuple("Pair", ["left", "right"])


def counted(samples: int, *rest: int) -> torch.Tensor:
    return torch.arange(samples * max(1, torch.Size(rest).numel())).reshape(samples, *rest)


@given(samples=st.integers(1, 9), size=st.integers(1, 12))
def test_chunks_hold_every_sample_once_in_order(samples, size):
    batch = Batch.of(
        (counted(samples, 2), counted(samples)),
        {"a": counted(samples, 3), "b": [counted(samples), (counted(samples, 1), "word")]},
        (counted(samples, 2), 7, None),
    )
    chunks = list(batch.chunks(size))
    assert len(batch) == samples
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert 1 <= len(chunks[-1]) <= size
    assert torch.equal(torch.cat([chunk.inputs[0] for chunk in chunks]), counted(samples, 2))
    assert torch.equal(torch.cat([chunk.inputs[1] for chunk in chunks]), counted(samples))
    assert torch.equal(torch.cat([chunk.targets["a"] for chunk in chunks]), counted(samples, 3))
    inner = [chunk.targets["b"][1][0] for chunk in chunks]
    assert torch.equal(torch.cat(inner), counted(samples, 1))
    assert all(chunk.targets["b"][1][1] == "word" for chunk in chunks)
    assert torch.equal(torch.cat([chunk.extra[0] for chunk in chunks]), counted(samples, 2))
    assert all(chunk.extra[1:] == (7, None) for chunk in chunks)


def test_a_chunk_holds_the_same_samples_everywhere():
    batch = Batch.of(counted(5, 2), counted(5), counted(5))
    for number, chunk in enumerate(batch.chunks(2)):
        start = 2 * number
        assert chunk.inputs[0][0, 0] == 2 * start
        assert chunk.targets[0] == chunk.extra[0][0] == start


@pytest.mark.parametrize("kind", [tuple, list])
def test_containers_keep_their_kind(kind):
    batch = Batch.of(counted(2), kind([counted(2), counted(2)]))
    assert type(batch.targets) is kind
    assert type(next(batch.chunks(1)).targets) is kind


def test_named_tuples_keep_their_names():
    batch = Batch.of(counted(3), Pair(counted(3), counted(3) + 10))
    last = list(batch.chunks(2))[-1]
    assert isinstance(last.targets, Pair)
    assert (last.targets.left.tolist(), last.targets.right.tolist()) == ([2], [12])


def test_inputs_and_further_arguments_become_tuples():
    alone = Batch.of(counted(2), None, counted(2))
    assert isinstance(alone.inputs, tuple)
    assert len(alone.inputs) == len(alone.extra) == 1
    assert alone.targets is None
    assert Batch.of([counted(2), counted(2)]).inputs[1].tolist() == [0, 1]
    assert Batch.of(counted(2)).extra == ()
    assert Batch.of(counted(2), None, [1, 2, 3]).extra == ([1, 2, 3],)  # a list is one argument
    assert Batch.of(counted(2), None, (None, "mode")).extra == (None, "mode")


def test_tensors_are_detached_and_moved():
    inputs, targets = torch.ones(2, 3, requires_grad=True), {"a": torch.ones(2)}
    batch = Batch.of(inputs, targets, (torch.ones(2), 3), device=torch.device("meta"))
    assert not batch.inputs[0].requires_grad
    assert {batch.inputs[0].device, batch.targets["a"].device, batch.extra[0].device} == {
        torch.device("meta")
    }
    assert inputs.requires_grad
    assert targets["a"].device == torch.device("cpu")


def test_tensors_that_stay_where_they_are_are_detached_too():
    parts = [torch.ones(2, requires_grad=True) for _ in range(3)]
    batch = Batch.of(*parts)
    assert not any(t.requires_grad for t in (batch.inputs[0], batch.targets, batch.extra[0]))
    assert all(part.requires_grad for part in parts)


def test_inference_tensors_become_usable():
    with torch.inference_mode():
        inputs = torch.ones(2, 3)
    batch = Batch.of(inputs)
    assert not batch.inputs[0].is_inference()
    weight = torch.ones(3, requires_grad=True)
    (batch.inputs[0] @ weight).sum().backward()
    assert weight.grad.tolist() == [2, 2, 2]


def test_a_batch_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batch.of(counted(2)).targets = 3


# From a loader


def test_from_a_loader():
    alone = Batch.from_loader(counted(2))
    assert (alone.inputs[0].tolist(), alone.targets) == ([0, 1], None)
    for item in ((counted(2), counted(2) + 5), [counted(2), counted(2) + 5]):
        batch = Batch.from_loader(item)
        assert (batch.inputs[0].tolist(), batch.targets.tolist()) == ([0, 1], [5, 6])
    several = Batch.from_loader(((counted(2), counted(2)), counted(2)))
    assert len(several.inputs) == 2
    named = Batch.from_loader(Pair(counted(2), counted(2) + 5))
    assert named.targets.tolist() == [5, 6]


def test_from_a_data_loader():
    pairs = TensorDataset(counted(5, 2), counted(5))
    found = [Batch.from_loader(item) for item in DataLoader(pairs, batch_size=2)]
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert found[2].targets.tolist() == [4]
    single = [Batch.from_loader(item) for item in DataLoader(TensorDataset(counted(3)))]
    assert [batch.targets for batch in single] == [None] * 3


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ((torch.ones(2), torch.ones(2), torch.ones(2)), "a tuple of 3"),
        ([], "a list of 0"),
        (3.0, "a float"),
        (None, "None"),
    ],
)
def test_what_a_loader_may_not_give(item, found):
    with pytest.raises(DataError, match=f"the loader gave {found}: expected"):
        Batch.from_loader(item)


# What is refused


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([[1.0]], "input 0 is a list of 1"),
        ((torch.ones(2), 3), "input 1 is an int"),
        (torch.tensor(1.0), r"input 0 is a tensor of shape \(\)"),
        (None, "input 0 is None"),
        ((), "there is no input"),
        (torch.ones(0, 3), "no sample"),
    ],
)
def test_inputs_that_are_none(inputs, message):
    with pytest.raises(DataError, match=message):
        Batch.of(inputs)


@pytest.mark.parametrize(
    ("inputs", "targets", "extra", "message"),
    [
        ((counted(2), counted(3)), None, None, "2 samples and the inputs 3"),
        (counted(2), counted(3), None, "2 samples and the targets 3"),
        (counted(2), {"a": [counted(1)]}, None, "2 samples and the targets 1"),
        (counted(2), None, counted(4), "2 samples and the additional_forward_args 4"),
        (counted(2), torch.tensor(1.0), None, "targets a single number"),
    ],
)
def test_different_numbers_of_samples(inputs, targets, extra, message):
    with pytest.raises(DataError, match=message):
        Batch.of(inputs, targets, extra)
