"""What a progress file knows of a run: all that its objective, function and batches hold."""

import collections
import dataclasses
import enum
import functools
import math
import os
import random
import re
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tests.tiny as own_module
from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    gradient_times_change,
    logit_difference,
    self_reference,
    squared_error,
    substitution_effect,
)
from paramattr.errors import CheckpointError
from paramattr.files.reading import load_tensors, save_state_dict
from paramattr.identity import identity
from paramattr.objectives import SelfReference
from tests.models import mlp, other_weights, pair_of, random_batches

# Each of these makes one kind of thing, with a state that is a number.


class Holding:
    def __init__(self, state):
        self.state = state

    def __call__(self, output, targets):
        return squared_error(output, targets) * self.state

    def loss(self, output, targets):
        return self(output, targets)


class Slotted:
    __slots__ = ("__state",)

    def __init__(self, state):
        self.__state = state

    def __call__(self, output, targets):
        return output * self.__state


@dataclasses.dataclass(frozen=True)
class Frozen:
    state: int

    def __call__(self, output, targets):
        return output * self.state


class Module(nn.Module):
    def __init__(self, state, *, is_buffer=False):
        super().__init__()
        if is_buffer:
            self.register_buffer("state", torch.tensor(state), persistent=False)
        else:
            self.state = state

    def forward(self, output, targets):
        return squared_error(output, targets) * self.state


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Text(str):
    pass


STATE = 1
Pair = collections.namedtuple("Pair", ["one", "two"])


def reads_a_global(output, targets):
    return output * STATE


def calls_what_reads_a_global(output, targets):
    return reads_a_global(output, targets)


@torch.no_grad()
def decorated(output, targets):
    return output * STATE


@functools.lru_cache
def cached(value):
    return value * STATE


def reads_a_module(output, targets):
    return output * own_module.STATE


def imports_a_module(output, targets):
    from tests import tiny

    return output * tiny.STATE


def with_global(function):
    def make(state):
        global STATE
        STATE = own_module.STATE = state
        return function

    return make


def closure(value):
    return lambda output, targets: output * value


def keyword_only(state):
    def objective(output, targets, *, power=state):
        return output**power

    return objective


def attribute(state):
    def objective(output, targets):
        return output * objective.state

    objective.state = state
    return objective


def nested(state):
    """Two functions whose inner functions differ in a constant."""
    if state == 1:
        return lambda output, targets: (lambda value: value * 3)(output)
    return lambda output, targets: (lambda value: value * 4)(output)


def code(state):
    if state == 1:
        return lambda output, targets: output + targets
    return lambda output, targets: output - targets


def of_class(state):
    """A class of one name, whose method differs."""
    if state == 1:
        return type("Made", (), {"__call__": lambda self, output, targets: output})()
    return type("Made", (), {"__call__": lambda self, output, targets: targets})()


def inherited(state):
    return type("Derived", (type("Base", (), {"state": state}),), {})()


def of_property(state):
    return type("Made", (), {"state": property(lambda self: state)})()


def autograd(state):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value * state

        @staticmethod
        def backward(context, gradient):
            return gradient * state

    return lambda output, targets: Scaled.apply(output)


def hooked(state):
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    layer.register_forward_hook(lambda module, inputs, output: output * state)
    return layer


def in_a_cycle(state):
    one, two = Holding(state), Holding(None)
    one.other, two.other = two, one
    return two


def entry(tensor, value):
    tensor = tensor.clone()
    tensor[0] = value
    return tensor


KINDS = {
    "built-in": lambda s: logit_difference(0, s),
    "self reference": lambda s: SelfReference(closure(s)),
    "instance": Holding,
    "slots": Slotted,
    "dataclass": Frozen,
    "bound method": lambda s: Holding(s).loss,
    "module's attribute": Module,
    "module's buffer": lambda s: Module(s, is_buffer=True),
    "module's mode": lambda s: Module(0).train(s == 1),
    "module's hook": hooked,
    "torch's module": lambda s: nn.Softmax(dim=s),
    "nested module": lambda s: nn.Sequential(Module(s)),
    "partial": lambda s: functools.partial(pow, s),
    "partial's keyword": lambda s: functools.partial(squared_error, other=s),
    "partial's tensor": lambda s: functools.partial(F.mse_loss, weight=torch.ones(2000) * s),
    "default": lambda s: eval("lambda output, targets, k=k: output[:, k]", {"k": s}),
    "keyword-only default": keyword_only,
    "closure": closure,
    "closure over a list": lambda s: closure([s]),
    "closure over a tensor": lambda s: closure(entry(torch.zeros(5000), 1e-6 * s)),
    "closure over an array": lambda s: closure(np.array([s])),
    "closure over a function": lambda s: closure(closure(s)),
    "closure over a module": lambda s: closure(nn.Linear(s, 1, bias=False).requires_grad_(False)),
    "function's attribute": attribute,
    "global": with_global(reads_a_global),
    "global of a called function": with_global(calls_what_reads_a_global),
    "global of a decorated function": with_global(decorated),
    "global of a cached function": with_global(cached),
    "global of another module": with_global(reads_a_module),
    "global of a module imported inside": with_global(imports_a_module),
    "code": code,
    "code of a nested function": nested,
    "code of a method": of_class,
    "attribute of a base class": inherited,
    "property": of_property,
    "autograd function": autograd,
    "compiled": lambda s: torch.compile(closure(s)),
    "cycle": in_a_cycle,
    "weak reference": lambda s: (lambda own: [own, weakref.ref(own)])(Holding(s)),
    "number": lambda s: float(s),
    "type of a number": lambda s: [1, 1.0][s - 1],
    "sign of zero": lambda s: [0.0, -0.0][s - 1],
    "text": str,
    "bytes": lambda s: bytes([s]),
    "kind of text": lambda s: [Text("a"), "a"][s - 1],
    "list's order": lambda s: [[1, 2], [2, 1]][s - 1],
    "list or tuple": lambda s: [[1], (1,)][s - 1],
    "place of a bracket": lambda s: [((1,), 2), ((1, 2),)][s - 1],
    "set": lambda s: {"a", "b", "c", s},
    "set of objects": lambda s: {Frozen(1), Frozen(s + 1)},
    "key": lambda s: {s: 0},
    "namedtuple": lambda s: Pair(1, s),
    "enum": lambda s: Colour(s),
    "default dictionary": lambda s: collections.defaultdict([int, float][s - 1]),
    "queue": lambda s: collections.deque([s]),
    "namespace": lambda s: types.SimpleNamespace(state=s),
    "pattern": lambda s: re.compile(str(s)),
    "path": lambda s: Path(str(s)),
    "range": range,
    "precision": lambda s: [torch.float32, torch.float64][s - 1],
    "device": lambda s: torch.device(["cpu", "meta"][s - 1]),
    "tensor's precision": lambda s: torch.ones(1, dtype=[torch.float32, torch.float64][s - 1]),
    "tensor's shape": lambda s: torch.ones(2, 2).reshape([(2, 2), (4, 1)][s - 1]),
    "tensor's last bit": lambda s: torch.tensor([1.0, math.nextafter(1, 2)][s - 1]).double(),
    "half precision": lambda s: torch.tensor(s, dtype=torch.bfloat16),
    "sparse tensor": lambda s: (torch.eye(2) * s).to_sparse(),
    "conjugate": lambda s: torch.tensor([1 + s * 1j]).conj(),
    "generator of numbers": lambda s: np.random.default_rng(s),
    "torch's generator": lambda s: torch.Generator().manual_seed(s),
    "Python's generator": random.Random,
    "operation": lambda s: [torch.relu, torch.tanh][s - 1],
    "method of a list": lambda s: [s].index,
    "type": lambda s: [int, float][s - 1],
}
KINDS["tensor's last bit"] = lambda s: torch.tensor(
    [1.0, math.nextafter(1, 2)][s - 1], dtype=torch.float64
)
DRAWN = {"closure over a module"}  # drawn anew each time


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_changes_with_each_kind_of_state(kind):
    torch.manual_seed(0)
    make = KINDS[kind]
    one = identity(make(1), "it")
    other = identity(make(2), "it")
    if kind not in DRAWN:
        assert identity(make(1), "it") == one  # made anew, in another place of memory
    assert one != other


def of_all_kinds():
    torch.manual_seed(0)
    kinds = KINDS.keys() - {"compiled"}  # takes seconds to import
    return {kind: identity(KINDS[kind](1), "it") for kind in sorted(kinds)}


def test_identities_are_the_same_in_another_process():
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    found = subprocess.run(
        [sys.executable, "-c", "from tests.test_identity import *; print(of_all_kinds())"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        capture_output=True,
        check=True,
        text=True,
    )
    assert eval(found.stdout) == of_all_kinds()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats(0, 1) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2)
        | st.tuples(inner, inner)
    ),
    max_leaves=5,
)


@given(PLAIN, PLAIN)
def test_two_values_have_one_identity_if_and_only_if_they_are_written_alike(one, other):
    assert (identity(one, "it") == identity(other, "it")) == (repr(one) == repr(other))


def test_what_does_not_count_is_no_part_of_it():
    layer = nn.Linear(2, 2)
    before = identity(closure(layer), "it")
    layer(torch.ones(1, 2)).sum().backward()  # a gradient
    layer.requires_grad_(False)
    assert identity(closure(layer), "it") == before
    assert identity(SelfReference(squared_error), "it") == identity(self_reference, "it")


# What cannot be seen


UNSEEN = {
    "file": ("TextIOWrapper", "'state'", lambda: Holding(sys.__stdout__)),
    "lock": ("lock", "'value'", lambda: closure(threading.Lock())),
    "generator": ("generator", "'value'", lambda: closure(i for i in range(3))),
    "inside a list": ("lock", "item 1", lambda: closure([0, threading.Lock()])),
    "inside a set": ("lock", "'value'", lambda: closure({threading.Lock()})),
    "thread's own": ("_thread._local", "'state'", lambda: Holding(threading.local())),
    "text of code": ("eval", "objective", lambda: lambda o, t: eval("o.sum(1)")),
    "own module": ("tests.tiny", "'state'", lambda: Holding(own_module)),
    "scripted": ("Script", "'value'", lambda: closure(torch.jit.script(nn.Tanh()))),
}


def pair(features=2):
    return pair_of(lambda: mlp(3, 4, features), dtype=torch.float32)


def data(sizes=(2, 2), seed=1):
    return random_batches(sizes, (3,), (2,), seed=seed, dtype=torch.float32)


class Unread:
    def __iter__(self):
        raise AssertionError("the loader was read")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", UNSEEN)
def test_what_cannot_be_seen_refuses_a_checkpoint_before_the_work(kind, tmp_path):
    what, where, make = UNSEEN[kind]
    objective, file = make(), tmp_path / "sums"
    faig = FAIG(*pair(), objective=objective)
    with pytest.raises(CheckpointError) as caught:
        faig.score(Unread(), reducer="layer", checkpoint=file)
    message = str(caught.value)
    assert message.startswith("the objective holds ")
    assert what in message.partition(", whose")[0]
    assert where in message.partition(", whose")[0]
    assert "hold the values that are read from it, or leave checkpoint out" in message
    assert not file.exists()


def test_what_cannot_be_seen_is_no_hindrance_without_a_checkpoint():
    lock = threading.Lock()

    def objective(output, targets):
        with lock:
            return squared_error(output, targets)

    found = FAIG(*pair(), objective=objective).score(data(), reducer="layer")
    assert torch.equal(found.values, FAIG(*pair()).score(data(), reducer="layer").values)


# Calls


def weighted(weight):
    return lambda output, targets: ((output - targets).square() * weight).sum(1)


def scaled(factor):
    return lambda attributions: {n: value * factor for n, value in attributions.items()}


class Curved:
    """A path that is bowed between the places that a few looks would see."""

    def __init__(self, target, baseline, bow):
        self.start, self.end = (
            {n: p.detach() for n, p in m.named_parameters()} for m in (target, baseline)
        )
        self.bow = bow

    def _shape(self, alpha):
        return self.bow * alpha * (1 - alpha) * (alpha - 0.38)

    def evaluate(self, alpha):
        shift = self._shape(alpha)
        return {n: torch.lerp(s, self.end[n], alpha) + shift for n, s in self.start.items()}

    def derivative(self, alpha):
        slope = self.bow * ((1 - 2 * alpha) * (alpha - 0.38) + alpha * (1 - alpha))
        return {n: self.end[n] - s + slope for n, s in self.start.items()}


def scored(file, *, objective=squared_error, path=None, loader=None, **options):
    given = None if path is None else Curved(*pair(), path)
    faig = FAIG(*pair(), objective=objective, path=given)
    return faig.score(loader or data(), reducer="layer", n_steps=2, checkpoint=file, **options)


def along_inputs(file, *, objective):
    loader = [(inputs, torch.zeros_like(inputs)) for inputs, _ in data()]
    method = InputPathIntegratedGradients(pair()[0], objective=objective)
    return method.score(loader, reducer="layer", n_steps=2, checkpoint=file)


def first_order(file, *, objective):
    return gradient_times_change(
        *pair(), data(), reducer="layer", objective=objective, checkpoint=file
    )


def exchanged(file, *, objective):
    return substitution_effect(*pair(), data(), "layer", objective=objective, checkpoint=file)


CALLS = {
    "two instances of one built-in objective": (
        scored,
        [{"objective": logit_difference(0, 1)}, {"objective": logit_difference(1, 0)}],
    ),
    "objective": (scored, [{"objective": weighted(w)} for w in (torch.ones(2), torch.eye(2)[0])]),
    "function": (scored, [{"function": scaled(w)} for w in (1.0, 2.0)]),
    "path": (scored, [{"path": bow} for bow in (1.0, 2.0)]),
    "until": (scored, [{"until": u} for u in (0.5, 0.6)]),
    "fraction": (scored, [{"until": 0.5, "fraction": f} for f in (0.5, 0.6)]),
    "input path": (along_inputs, [{"objective": lambda o, t, w=w: o.sum(1) * w} for w in (1, 2)]),
    "one gradient": (first_order, [{"objective": weighted(w)} for w in (1, 2)]),
    "substitution": (exchanged, [{"objective": weighted(w)} for w in (1, 2)]),
}


@pytest.mark.filterwarnings("ignore:until=")
@pytest.mark.parametrize("name", CALLS)
def test_a_checkpoint_of_another_state_is_refused(name, tmp_path):
    call, (one, other) = CALLS[name]
    first = call(tmp_path / "sums", **one)
    assert torch.equal(call(tmp_path / "sums", **one).values, first.values)  # its own is taken
    with pytest.raises(CheckpointError, match="other settings"):
        call(tmp_path / "sums", **other)


def test_an_exchange_with_a_budget_is_refused_before_its_gradients(tmp_path):
    with pytest.raises(CheckpointError, match="whose state cannot be seen"):
        substitution_effect(
            *pair(),
            Unread(),
            "layer",
            budget=1,
            objective=closure(threading.Lock()),
            checkpoint=tmp_path / "sums",
        )


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, scale=1.0, options=None, more=None):
        return self.layer(x) * scale * (options or {}).get("power", 1)


BATCHES = {
    "number": [{"scale": 1.0}, {"scale": 3.0}],
    "name": [{"scale": None, "options": {}}, {"options": None, "more": {}}],
    "structure": [{"options": {"a": [1]}}, {"options": {"a": {1: 1}}}],
    "nested": [{"options": {"power": 1}}, {"options": {"power": 2}}],
    "object": [{"more": Holding(1)}, {"more": Holding(2)}],
    "place of a tensor": [{"options": {"a": None, "b": 0}}, {"options": {"a": 0, "b": None}}],
}


@pytest.mark.parametrize("kind", BATCHES)
def test_what_is_no_tensor_in_a_batch_tells_data_apart(kind, tmp_path):
    torch.manual_seed(0)
    target = Scaling().eval()
    faig = FAIG(target, other_weights(target))

    def call(extra):
        def with_tensors(tree, x):
            if kind == "place of a tensor":
                return {"options": {k: x if v == 0 else v for k, v in tree["options"].items()}}
            return tree

        loader = [
            ({"x": x, **with_tensors(extra, x), "scale": extra.get("scale") or 1.0}, y)
            for x, y in data()
        ]
        return faig.score(loader, reducer="layer", checkpoint=tmp_path / "sums")

    one, other = BATCHES[kind]
    assert torch.equal(call(one).values, call(one).values)
    with pytest.raises(CheckpointError, match="other data"):
        call(other)


def test_a_batch_that_cannot_be_seen_refuses_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    target = Scaling().eval()
    faig = FAIG(target, other_weights(target))
    loader = [({"x": x, "more": {"log": threading.Lock()}}, y) for x, y in data()]
    faig.score(loader, reducer="layer")
    with pytest.raises(CheckpointError, match=r"the batch holds a .*lock .*'log'"):
        faig.score(loader, reducer="layer", checkpoint=tmp_path / "sums")


def test_fewer_samples_than_a_checkpoint_holds_are_refused(tmp_path):
    file = tmp_path / "sums"
    whole = scored(file)
    with pytest.raises(
        CheckpointError, match=r"holds 4 samples and max_samples is 3: .* at least 4"
    ):
        scored(file, max_samples=3)
    assert torch.equal(scored(file, max_samples=4).values, whole.values)
    assert scored(file, max_samples=5, loader=data((2, 2, 2))).samples == 5


def test_a_file_of_an_older_version_is_refused_as_such(tmp_path):
    file = tmp_path / "sums.safetensors"
    scored(file)
    tensors, metadata = load_tensors(file)
    del metadata["version"]
    save_state_dict(file, tensors, metadata)
    with pytest.raises(CheckpointError, match="written by another version of paramattr"):
        scored(file)


# The user's targets


def spoiling(output, targets):
    """An objective that writes on its targets."""
    values = squared_error(output, targets)
    targets.mul_(3).add_(1)
    return values


def attributed(objective, batch):
    return FAIG(*pair(), objective=objective).attribute(*batch, n_steps=3)["0.weight"]


def each_attributed(objective, batch):
    faig = FAIG(*pair(), objective=objective)
    return faig.attribute(*batch, n_steps=3, per_sample=True, internal_batch_size=2)["0.weight"]


def completed(objective, batch):
    faig = FAIG(*pair(), objective=objective)
    return faig.attribute(*batch, n_steps=3, return_convergence_delta=True)[1]


def profiled(objective, batch):
    return FAIG(*pair(), objective=objective).path_profile([batch], n_points=5).values


def captum_attributed(objective, batch):
    from paramattr.methods.captum import captum_over_weights

    pytest.importorskip("captum")
    return captum_over_weights(*pair(), *batch, objective=objective, n_steps=3)["0.weight"]


WRITTEN = {
    "attribute": attributed,
    "attribute per sample": each_attributed,
    "delta": completed,
    "score": lambda objective, batch: (
        FAIG(*pair(), objective=objective).score([batch], reducer="scalar").values
    ),
    "path profile": profiled,
    "substitution": lambda objective, batch: (
        substitution_effect(*pair(), [batch], "scalar", objective=objective).values
    ),
    "captum": captum_attributed,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_an_objective_that_writes_on_targets_changes_neither_them_nor_the_result(name):
    inputs, targets = data()[0]
    kept = inputs.clone(), targets.clone()
    found = WRITTEN[name](spoiling, (inputs, targets))
    assert torch.equal(inputs, kept[0])
    assert torch.equal(targets, kept[1])
    assert torch.equal(found, WRITTEN[name](squared_error, kept))
