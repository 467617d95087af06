"""Models sharded by FSDP2 over two processes: what one process finds with the whole models."""

import copy
import re
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from paramattr import (
    FAIG,
    Adaptive,
    UnitIndex,
    absolute_change,
    cross_entropy,
    fisher_times_change,
    gradient_times_change,
    self_reference,
    substitution_effect,
    weight_magnitude,
)
from tests.models import pair_of
from tests.ranks import Ranks

pytestmark = pytest.mark.usefixtures("one_thread")


class Tiny(nn.Module):
    """Sizes that two processes cannot share evenly; the root holds a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5, padding_idx=0)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("kept", torch.ones(5))

    def forward(self, tokens):
        x = self.embedding(tokens).mean(1)
        for layer in self.layers:
            x = torch.tanh(layer(x)) * self.kept
        return self.scale * (x @ self.embedding.weight.T)


def pair():
    return pair_of(Tiny, scale=0.2)


def data(count=3):
    draw = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 7, (1, 4), generator=draw),
            torch.randint(0, 7, (1,), generator=draw),
        )
        for _ in range(count)
    ]


def shard(model, mesh):
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def plain(scores):
    if isinstance(scores, dict):
        return {name: plain(one) for name, one in scores.items()}
    of_all = [scores.unassigned, scores.residual]
    return [scores.values, scores.signed, scores.standard_error, torch.tensor(of_all)]


def options(kind):
    return {
        "score": {"reducer": ["layer", "output_channel", "scalar"], "n_steps": 3},
        "at once": {"reducer": "layer", "n_steps": 2, "internal_batch_size": 2},
        "squared": {"reducer": "embedding_row", "n_steps": 2, "function": squared},
        "conditions": {"reducer": "layer", "n_steps": 2},
    }[kind]


def squared(attributions):
    return {name: value.square() for name, value in attributions.items()}


def score(kind, models, **more):
    loader = {"a": data(2), "b": data(3)[1:]} if kind == "conditions" else data()
    faig = FAIG(*models, objective=cross_entropy)
    return plain(faig.score(loader, **options(kind), **more))


def sharded_score(kind, plain_baseline):
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    shard(target, mesh)
    if not plain_baseline:
        shard(baseline, mesh)
    for parameter in list(target.parameters())[:2]:
        parameter.requires_grad_(False)
    before = [p.full_tensor().clone() for p in target.parameters()]
    with torch.no_grad():
        target(data()[0][0])  # leaves the root's parameters whole
    found = score(kind, (target, baseline), distributed=True)
    parameters = list(target.parameters())
    assert [p.requires_grad for p in parameters[:3]] == [False, False, True]
    assert all(p.grad is None for p in parameters)
    for parameter, own in zip(parameters, before, strict=True):
        assert torch.equal(parameter.full_tensor(), own)
    return found


@pytest.mark.parametrize("kind", ["score", "at once", "squared", "conditions"])
@pytest.mark.parametrize("plain_baseline", [True, False])
def test_shards_give_what_whole_models_give(two, kind, plain_baseline):
    expected = score(kind, pair())
    for found in two(sharded_score, kind, plain_baseline):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def others(method):
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    shard(target, mesh)
    return plain(method(target, baseline, data(), reducer="layer", objective=cross_entropy))


@pytest.mark.parametrize("method", [gradient_times_change, fisher_times_change])
def test_methods_that_score_by_it_take_shards_too(two, method):
    expected = plain(method(*pair(), data(), reducer="layer", objective=cross_entropy))
    for found in two(others, method):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def head_alone():
    """The change is on one process's shards alone: the other must take part all the same."""
    mesh = init_device_mesh("cpu", (2,))
    target = pair()[0]
    baseline = copy.deepcopy(target)
    with torch.no_grad():
        baseline.embedding.weight[0] += 0.5
    expected = FAIG(target, baseline, objective=cross_entropy).score(data(), reducer="scalar")
    shard(target, mesh)
    found = FAIG(target, baseline, objective=cross_entropy).score(data(), reducer="scalar")
    torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-12)


def test_a_change_that_one_process_holds(two):
    two(head_alone)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def heads():
    """Each process holds a part of each head."""
    model = nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()])})
    expected = UnitIndex.of(model, "attention_head")
    shard_all = init_device_mesh("cpu", (2,))
    for block in model["layers"]:
        fully_shard(block, mesh=shard_all)
    assert UnitIndex.of(model, "attention_head") == expected
    assert list(expected.groups) == ["layers.0", "layers.1"]


def test_heads_of_shards_are_those_of_whole_models(two):
    two(heads)


def without_targets():
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    loader = [tokens for tokens, _ in data()]
    expected = FAIG(target, baseline, objective=self_reference).score(loader, reducer="layer")
    found = FAIG(shard(target, mesh), baseline, objective=self_reference)
    scores = found.score(loader, reducer="layer")
    torch.testing.assert_close(scores.values, expected.values, rtol=1e-9, atol=1e-12)


def test_the_reference_is_the_sharded_target(two):
    two(without_targets)


def replicas(group_of):
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    target, baseline = pair()
    shard(target, mesh["shard"])
    faig = FAIG(target, baseline, objective=cross_entropy)
    return plain(
        faig.score(data(), reducer="layer", n_steps=2, distributed=mesh[group_of].get_group())
    )


def test_replicas_share_the_samples(two):
    faig = FAIG(*pair(), objective=cross_entropy)
    expected = plain(faig.score(data(), reducer="layer", n_steps=2))
    for found in two(replicas, "replicate"):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def shard_group():
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    faig = FAIG(shard(target, mesh), baseline, objective=cross_entropy)
    faig.score(data(), reducer="layer", distributed=mesh.get_group())


def test_a_group_of_shards_is_no_group_of_replicas(two):
    for is_error, found, _ in two.outcomes(shard_group):
        assert is_error
        assert "replicas" in found


def refused(what):
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    if what == "half":
        target = target.bfloat16()
    if what == "hybrid":
        hybrid = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
        shard(target, hybrid)
    elif what == "part":
        fully_shard(target.layers[0], mesh=mesh)
    else:
        shard(target, mesh)
    if what == "buffers":
        baseline.kept += 1
    if what == "equal":
        baseline = copy.deepcopy(pair()[0])
    if what == "workers":
        FAIG(target, baseline, workers=2)
    if what == "substitution":
        substitution_effect(target, baseline, data(), objective=cross_entropy)
    if what == "change":
        absolute_change(target, baseline, reducer="layer")
    if what == "magnitude":
        weight_magnitude(target, reducer="layer")
    faig = FAIG(target, baseline, objective=cross_entropy)
    if what == "attribute":
        faig.attribute(*data()[0])
    if what == "profile":
        faig.path_profile(data())
    if what == "estimate":
        faig.estimate(data(), reducer="layer")
    if what == "partitions":
        faig.score(data(), reducer="layer", partitions=2)
    if what == "adaptive":
        faig.score(data(), reducer="layer", method=Adaptive())
    if what == "data":
        faig.score(data()[dist.get_rank() :], reducer="layer")
    if what == "third":
        loader = data()
        loader[2][0][:] += dist.get_rank() * torch.ones_like(loader[2][0]) - loader[2][0]
        faig.score(loader, reducer="layer")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("half", "MixedPrecisionPolicy"),
        ("hybrid", "mesh\\['shard'\\]"),
        ("part", "no shard"),
        ("buffers", "buffers differ"),
        ("equal", "no change"),
        ("workers", "workers is given"),
        ("substitution", "shards over several processes"),
        ("change", "shards over several processes"),
        ("magnitude", "shards over several processes"),
        ("attribute", "shards over several processes"),
        ("profile", "shards over several processes"),
        ("estimate", "shards over several processes"),
        ("partitions", "partitions is 2"),
        ("adaptive", "adaptive"),
    ],
)
def test_what_shards_cannot_do_is_said(two, what, message):
    for is_error, found, _ in two.outcomes(partial(refused, what)):
        assert is_error
        assert found.startswith("ModelError")
        assert re.search(message, found), found


@pytest.mark.parametrize("what", ["data", "third"])
def test_processes_of_one_mesh_must_be_given_the_same_samples(two, what):
    for is_error, found, _ in two.outcomes(partial(refused, what)):
        assert is_error
        assert found.startswith("RankError")
        assert "the data" in found


class Twice(Tiny):
    """One layer is called twice, and one not at all, so that it has no gradient."""

    reentrant = False

    def __init__(self):
        super().__init__()
        self.layers.append(nn.Linear(5, 5))

    def forward(self, tokens):
        x = self.embedding(tokens).mean(1)
        for layer in (self.layers[0], self.layers[1], self.layers[0]):
            is_kept = self.reentrant and x.requires_grad
            x = checkpoint(layer, x, use_reentrant=True) if is_kept else layer(x)
            x = torch.tanh(x) * self.kept
        return self.scale * (x @ self.embedding.weight.T)


def twice():
    return pair_of(Twice, scale=0.2)


def twice_sharded(nodes, reentrant):
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = twice()
    target.reentrant = reentrant
    faig = FAIG(shard(target, mesh), baseline, objective=cross_entropy)
    return plain(faig.score(data(), reducer=["layer", "scalar"], n_steps=nodes))


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_layer_that_is_called_twice_and_one_without_a_gradient(two, nodes):
    faig = FAIG(*twice(), objective=cross_entropy)
    expected = plain(faig.score(data(), reducer=["layer", "scalar"], n_steps=nodes))
    for found in two(twice_sharded, nodes, False):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_a_gradient_of_which_fsdp_adds_a_part_alone_is_refused(two):
    for is_error, found, _ in two.outcomes(partial(twice_sharded, 2, True)):
        assert is_error
        assert "use_reentrant=False" in found


def broken(where):
    """Stop in the middle of a pass: at the second sample, or in the first backward pass."""
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    shard(target, mesh)
    stepped, calls = list[str](), list[int]()
    for name, parameter in target.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: stepped.append(name))
        parameter.grad = torch.zeros_like(parameter)
    tokens, classes = data()[0]
    before = [p.full_tensor().clone() for p in target.parameters()]
    with torch.no_grad():
        output = target(tokens).clone()

    def failing(module, inputs, output):
        calls.append(1)
        if where == "forward" and len(calls) > 4:
            raise RuntimeError("in the middle")
        if where == "backward" and output.requires_grad:
            output.register_hook(interrupted)

    handle = target.layers[1].register_forward_hook(failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        FAIG(target, baseline, objective=cross_entropy).score(data(), reducer="layer", n_steps=2)
    handle.remove()
    assert not stepped
    for parameter, own in zip(target.parameters(), before, strict=True):
        assert torch.equal(parameter.full_tensor(), own)
        assert not parameter.grad.full_tensor().any()
    with torch.no_grad():
        assert torch.equal(target(tokens), output)
    cross_entropy(target(tokens), classes).sum().backward()
    assert sorted(stepped) == sorted(name for name, _ in target.named_parameters())
    return score("score", (target, baseline))


def interrupted(gradient):
    raise RuntimeError("in the middle")


def fails_on_one(where, call):
    """One of the two processes raises, at some call of the objective or of the function."""
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    shard(target, mesh)
    before = [p.to_local().clone() for p in target.parameters()]
    state, calls = torch.get_rng_state(), []

    def failing():
        calls.append(1)
        if len(calls) == call and dist.get_rank() == 1:
            raise torch.OutOfMemoryError("in the middle")

    def objective(output, targets):
        if where in ("objective", "several samples"):
            failing()
        values = cross_entropy(output, targets)
        if where == "value" and dist.get_rank() == 1:
            return values * float("nan")
        return values.detach() if where == "detached" and dist.get_rank() == 1 else values

    def function(attributions):
        failing()
        return attributions

    made = {"objective": of_ranks(objective, None)} if where == "constructor" else {}
    scored = {"reducer": of_ranks("layer", "none")} if where == "reducer" else {}
    scored |= {"n_steps": of_ranks(2, 0)} if where == "nodes" else {}
    scored |= {"function": function} if where == "function" else {}
    batches = data()
    if where == "several samples":
        batches = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
        scored["internal_batch_size"] = 3
    try:
        faig = FAIG(target, baseline, **{"objective": objective, **made})
        faig.score(batches, **{"reducer": "layer", "n_steps": 2, **scored})
    finally:
        assert torch.equal(torch.get_rng_state(), state)
        for parameter, own in zip(target.parameters(), before, strict=True):
            assert torch.equal(parameter.to_local(), own)
            assert parameter.grad is None
            assert not parameter._post_accumulate_grad_hooks


def of_ranks(first, second):
    return (first, second)[dist.get_rank()]


FAILING = {
    "constructor": [0],
    "reducer": [0],
    "nodes": [0],
    "value": [0],
    "detached": [0],
    "function": [1, 3],
    "objective": [1, 2, 3, 4, 8],
    "several samples": [1],
}


@pytest.mark.parametrize(
    ("where", "call"), [(where, call) for where, calls in FAILING.items() for call in calls]
)
def test_an_error_on_one_process_ends_the_other_at_once(two, where, call):
    [first, second] = two.outcomes(fails_on_one, where, call)
    kind, _, message = second[1].partition(": ")
    assert kind in ("OutOfMemoryError", "ObjectiveError", "UnitError", "ParamattrError")
    assert first[1].startswith("RankError: rank 1 failed: ")
    assert ("in the middle" if call else message[:60]) in first[1]
    expected = score("conditions", pair())
    for found in two(sharded_score, "conditions", True):  # and the next call is as ever
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def other_call(what):
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    shard(target, mesh)
    other, own = {
        "n_steps": ({"n_steps": 3}, {}),
        "at once": ({"internal_batch_size": 2}, {}),
        "function": ({"function": squared}, {}),
        "objective": ({}, {"objective": lambda o, t: 2 * cross_entropy(o, t)}),
        "parameters": ({}, {"parameters": ["scale"]}),
        "longer loader": ({}, {}),
    }[what]
    scored, made = of_ranks(({}, {}), (other, own))
    loader = data(of_ranks(3, 4)) if what == "longer loader" else data()
    faig = FAIG(target, baseline, **{"objective": cross_entropy, **made})
    faig.score(loader, **{"reducer": "layer", "n_steps": 2, **scored})


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("n_steps", "the settings differ"),
        ("at once", "the settings differ"),
        ("function", "the function differs"),
        ("objective", "the objective differs"),
        ("parameters", "the settings differ"),
        ("longer loader", "the data differs"),
    ],
)
def test_processes_that_make_other_calls_are_refused(two, what, named):
    outcomes = two.outcomes(other_call, what)
    assert all(found.startswith("RankError") for _, found, _ in outcomes)
    assert any(f"{named} between rank" in found for _, found, _ in outcomes)


def in_a_pass():
    """One process raises between what FSDP gathers for a layer and for the next."""
    mesh = init_device_mesh("cpu", (2,))
    target, baseline = pair()
    shard(target, mesh)
    calls, before = [], [p.to_local().clone() for p in target.parameters()]

    def failing(module, inputs, output):
        calls.append(1)
        if len(calls) == 4 and dist.get_rank() == 1:
            raise RuntimeError("in the middle")

    target.layers[0].register_forward_hook(failing)
    try:
        faig = FAIG(target, baseline, objective=cross_entropy)
        faig.score(data(), reducer="layer", n_steps=2)
    finally:
        for parameter, own in zip(target.parameters(), before, strict=True):
            assert torch.equal(parameter.to_local(), own)


def test_an_error_in_the_middle_of_a_pass_is_told_once_its_process_has_ended(tmp_path):
    own = Ranks(2, tmp_path)
    first, second = own.connections
    for connection in (first, second):
        connection.send((in_a_pass, ()))
    assert second.recv()[1] == "RuntimeError: in the middle"
    second.close()  # the process ends, as a program does that raises
    assert first.poll(30)
    message = first.recv()[1]
    assert message.startswith("RankError: rank 1 failed: in the middle (in the middle of a pass")
    own.close()


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_error_in_the_middle_leaves_the_model_as_it_was(two, where):
    expected = score("score", pair())
    for found in two(broken, where):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)
