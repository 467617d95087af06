import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paramattr import Unit, UnitIndex, Units
from paramattr.errors import ModelError, UnitError
from tests.tiny import REDUCER_NAMES, attention, convnet, indexes, tied, transposed


def entries(index: UnitIndex, unit: int) -> dict[str, list[tuple[int, ...]]]:
    """List the entries of one unit, by its mask."""
    chosen = torch.zeros(len(index), dtype=torch.bool)
    chosen[unit] = True
    marked = {name: index.mask(name, chosen).nonzero() for name in index.shapes}
    return {n: [tuple(p) for p in places.tolist()] for n, places in marked.items() if len(places)}


def product(*sizes: int) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, sizes)))


def test_scalar_names_every_entry():
    index = UnitIndex.of(tied(), "scalar")
    places = [("scale", ())]
    for name, shape in (
        ("first.weight", (3, 3)),
        ("first.bias", (3,)),
        ("twice.weight", (3, 3)),
        ("twice.bias", (3,)),
    ):
        places += [(name, place) for place in product(*shape)]
    assert [index[n] for n in range(len(index))] == [Unit(*place) for place in places]
    for number, (name, place) in enumerate(places):
        assert entries(index, number) == {name: [place]}


def test_kernel_is_a_spatial_slice_of_a_convolution():
    index = UnitIndex.of(convnet(), "kernel")
    names = [Unit("head.weight", p) for p in product(3, 2)]
    names += [Unit("tail.weight", p) for p in product(2, 3)]
    assert [index[n] for n in range(len(index))] == names
    assert entries(index, 3) == {"head.weight": [(1, 1, y, x) for y, x in product(3, 3)]}
    assert entries(index, 7) == {"tail.weight": [(0, 1, 0, 0)]}


def test_kernel_takes_no_linear_layer_bias_or_norm():
    assert list(UnitIndex.of(convnet(), "kernel").labels) == ["head.weight", "tail.weight"]


@pytest.mark.parametrize(
    ("layer", "outputs", "inputs"),
    [
        (nn.Linear(3, 2), 2, 3),
        (nn.Conv2d(4, 6, 1), 6, 4),
        (nn.Conv2d(4, 6, 1, groups=2), 6, 4),
        (nn.Conv1d(4, 4, 3, groups=4), 4, 4),
        (nn.ConvTranspose2d(4, 6, 1), 6, 4),
        (nn.ConvTranspose2d(4, 6, 1, groups=2), 6, 4),
    ],
    ids=repr,
)
def test_channels_are_those_the_layer_reads_and_makes(layer, outputs, inputs):
    """Perturb one unit: it is an output channel if that output alone changes, and so on."""
    layer = copy.deepcopy(layer)
    weight = layer.weight.detach().clone()
    size = (5,) if isinstance(layer, nn.Conv1d) else () if isinstance(layer, nn.Linear) else (2, 2)
    made = UnitIndex.of(layer, "output_channel")
    read = UnitIndex.of(layer, "input_channel")
    assert (len(made), len(read)) == (outputs, inputs)
    for index in (made, read):
        assert torch.equal(
            index.reduce({"weight": torch.ones_like(weight)}),
            torch.full((len(index),), weight.numel() / len(index), dtype=torch.float64),
        )

    @torch.no_grad()
    def weigh(index: UnitIndex, unit: int) -> None:
        mask = index.mask("weight", torch.arange(len(index)) == unit)
        layer.weight.copy_(torch.where(mask, weight + 1, weight))

    @torch.no_grad()
    def output(x: torch.Tensor) -> torch.Tensor:
        layer.weight.copy_(weight)
        return layer(x)

    x = torch.arange(1, 1 + inputs * math.prod(size)).float().reshape(1, inputs, *size)
    plain = output(x)
    for unit in range(outputs):
        weigh(made, unit)
        changed = (layer(x) - plain).abs().transpose(0, 1).flatten(1).sum(1) > 1e-3
        assert changed.tolist() == [place == unit for place in range(outputs)]
    for unit in range(inputs):
        only = torch.zeros_like(x)
        only[:, unit] = x[:, unit]
        plain = output(only)
        weigh(read, unit)
        assert not torch.allclose(layer(only), plain)
        without = x - only
        plain = output(without)
        weigh(read, unit)
        assert torch.equal(layer(without), plain)


def test_layer_takes_weight_and_bias_together():
    index = UnitIndex.of(convnet(), "layer")
    assert [index[n].name for n in range(len(index))] == ["head", "norm", "tail", "fc"]
    assert entries(index, 3) == {"fc.weight": product(2, 2), "fc.bias": product(2)}
    assert UnitIndex.of(tied(), "layer")[0] == Unit("scale", (0,))


def test_tied_parameters_are_counted_once():
    assert list(UnitIndex.of(tied(), "scalar").shapes) == [
        "scale",
        "first.weight",
        "first.bias",
        "twice.weight",
        "twice.bias",
    ]


def test_integer_parameters_have_no_units():
    model = nn.Linear(2, 1, bias=False)
    model.table = nn.Parameter(torch.arange(3), requires_grad=False)
    assert list(UnitIndex.of(model, "scalar").shapes) == ["weight"]


@settings(max_examples=30)
@given(indexes())
def test_units_are_disjoint_named_apart_and_found_from_the_end(index):
    names = [index[n] for n in range(len(index))]
    assert len(set(names)) == len(index)
    assert index[-1] == names[-1]
    for beyond in (len(index), -len(index) - 1):
        with pytest.raises(IndexError):
            index[beyond]
    everything = torch.ones(len(index), dtype=torch.bool)
    covered = sum(int(index.mask(name, everything).sum()) for name in index.shapes)
    ones = {name: torch.ones(shape) for name, shape in index.shapes.items()}
    assert index.reduce(ones).sum() == covered


@settings(max_examples=20)
@given(st.sampled_from([convnet, tied, transposed, attention]), st.data())
def test_reduce_sums_each_unit_as_a_loop_does(build, data):
    model = build()
    index = data.draw(indexes((build,)))
    values = {name: p.detach().abs() for name, p in model.named_parameters()}
    slow = torch.zeros(len(index), dtype=torch.float64)
    for unit in range(len(index)):
        chosen = torch.arange(len(index)) == unit
        slow[unit] = sum(
            value[index.mask(name, chosen)].double().sum() for name, value in values.items()
        )
    assert torch.allclose(index.reduce(values), slow, rtol=1e-12)
    assert not index.reduce({}).any()


def test_indexes_are_equal_by_what_they_hold():
    made = {name: UnitIndex.of(convnet(), name) for name in REDUCER_NAMES}
    for (one, a), (two, b) in itertools.product(made.items(), repeat=2):
        assert (a == b) == (one == two)
    assert made["kernel"] == UnitIndex.of(convnet(), "kernel")
    assert made["kernel"] != UnitIndex.of(transposed(), "kernel")
    assert made["kernel"] != "kernel"
    with pytest.raises(TypeError, match="unhashable"):
        hash(made["kernel"])


def test_labels_alone_make_indexes_differ():
    def pairs(name, parameter, module):
        return Units("pairs", (2,), torch.tensor([0, 0, 1, 1]))

    def halves(name, parameter, module):
        return Units("pairs", (2,), torch.tensor([0, 1, 0, 1]))

    model = nn.BatchNorm1d(4)
    assert UnitIndex.of(model, pairs) == UnitIndex.of(model, pairs)
    assert UnitIndex.of(model, pairs) != UnitIndex.of(model, halves)


def test_names_of_units_alone_make_indexes_differ():
    def called(group, *shape):
        return lambda name, parameter, module: Units(group, shape, torch.arange(4))

    model = nn.BatchNorm1d(4)
    assert UnitIndex.of(model, called("a", 4)) != UnitIndex.of(model, called("b", 4))
    assert UnitIndex.of(model, called("a", 4)) != UnitIndex.of(model, called("a", 2, 2))


def test_a_group_spans_parameters_and_may_leave_entries_out():
    def norm_channels(name, parameter, module):
        if not isinstance(module, nn.BatchNorm2d):
            return None
        return Units("channels", (2,), torch.tensor([0, 1, -1]))

    index = UnitIndex.of(convnet(), norm_channels)
    assert [index[n] for n in range(2)] == [Unit("channels", (0,)), Unit("channels", (1,))]
    assert entries(index, 1) == {"norm.weight": [(1,)], "norm.bias": [(1,)]}
    ones = {name: torch.ones(shape) for name, shape in index.shapes.items()}
    assert index.reduce(ones).tolist() == [2, 2]


def test_entries_left_out_stay_so_behind_other_units():
    def every_second(name, parameter, module):
        if not isinstance(module, nn.Linear):
            return None
        labels = torch.where(torch.arange(parameter.numel()) % 2 == 0, 0, -1)
        return Units(name, (1,), labels.reshape(parameter.shape))

    index = UnitIndex.of(convnet(), every_second)
    assert entries(index, 0) == {"fc.weight": [(0, 0), (1, 0)]}
    assert entries(index, 1) == {"fc.bias": [(0,)]}
    ones = {name: torch.ones(shape) for name, shape in index.shapes.items()}
    assert index.reduce(ones).tolist() == [2, 1]
    assert index.layers()["fc"].tolist() == [0, 1]


def labelled(labels, *shape, group=None):
    return lambda name, parameter, module: Units(group or name, shape, torch.tensor(labels))


@pytest.mark.parametrize(
    ("reducer", "said"),
    [
        ("filter", r"'filter' is not known: expected one of scalar, kernel.*callable"),
        (["kernel"], r"\['kernel'\] is not known"),
        (None, "None is not known"),
        (lambda *_: None, r"leaves every parameter of Linear out"),
        (lambda *_: [0], r"gave a list for parameter 'weight'.*None to leave"),
        (labelled([0, 1], 2), r"labels of shape \(2,\) for parameter 'weight' of shape \(2, 2\)"),
        (labelled([[0, 1, 2]], 3), r"labels of shape \(1, 3\) for parameter 'weight'"),
        (labelled([[0, 2]], 2), r"labels from 0 to 2 for parameter 'weight'.* to 1"),
        (labelled([[-2, 0]], 1), r"labels from -2 to 0 for parameter 'weight'"),
        (lambda n, p, m: Units("g", (p.ndim,), torch.zeros([1] * p.ndim)), r"group 'g' the shape"),
    ],
)
def test_a_bad_reducer_is_named(reducer, said):
    with pytest.raises(UnitError, match=said):
        UnitIndex.of(nn.Linear(2, 2), reducer)


def test_a_model_that_is_none_is_named():
    with pytest.raises(ModelError, match="the model is a str"):
        UnitIndex.of("model", "scalar")


def test_a_reducer_that_raises_is_heard():
    def broken(name, parameter, module):
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match="weight"):
        UnitIndex.of(nn.Linear(2, 2), broken)


def test_units_of_the_kernel_reducer_survive_a_device_free_round_trip():
    for name in REDUCER_NAMES:
        index = UnitIndex.of(convnet(), name)
        assert UnitIndex.from_tensors(*index.to_tensors()) == index


def test_an_embeddings_outputs_are_its_columns():
    model = nn.Embedding(7, 3)
    assert len(UnitIndex.of(model, "output_channel")) == 3
    assert len(UnitIndex.of(model, "input_channel")) == 7
