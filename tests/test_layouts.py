"""Layouts of weights: which are known, which are left out with a warning, and what ties do."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from paramattr import UnitIndex, Units, absolute_change, only, substitute
from paramattr.errors import UnitError
from paramattr.units.reducers import UNKNOWN, get_reducer
from tests.tiny import moved, seeded
from tests.transformer_models import BUILDS

peft = pytest.importorskip("peft")
pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
SIZES = st.integers(1, 5)


@settings(max_examples=20)
@given(SIZES, SIZES, st.data())
def test_conv1d_of_transformers_holds_inputs_by_outputs(nx, nf, data):
    layer = pytorch_utils.Conv1D(nf, nx)
    unit = data.draw(st.integers(0, nf - 1))
    made, read = UnitIndex.of(layer, "output_channel"), UnitIndex.of(layer, "input_channel")
    assert (len(made), len(read)) == (nf, nx)
    x = torch.randn(3, nx)
    with torch.no_grad():
        before = layer(x)
        layer.weight.add_(made.mask("weight", torch.arange(nf) == unit))
        moved_outputs = ((layer(x) - before).abs() > 1e-6).any(0)
    assert moved_outputs.tolist() == [n == unit for n in range(nf)]
    assert "bias" not in made.labels


def test_a_class_of_another_kind_that_is_called_conv1d_is_no_such_layer():
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 3))

    with pytest.raises(UnitError, match=r"no unit to score.*layout of 1 weights.*'weight'"):
        UnitIndex.of(Conv1D(), "output_channel")


@pytest.mark.parametrize(
    ("first", "outputs"), [(nn.Embedding(5, 3), 3), (nn.Linear(3, 5, bias=False), 5)]
)
def test_a_tied_weight_is_laid_out_as_its_first_module_has_it(first, outputs):
    second = nn.Linear(3, 5, bias=False) if isinstance(first, nn.Embedding) else nn.Embedding(5, 3)
    second.weight = first.weight
    model = nn.ModuleDict({"first": first, "second": second})
    assert UnitIndex.of(model, "output_channel").groups == {"first.weight": (0, (outputs,))}
    assert UnitIndex.of(model, "embedding_row").groups == {"first.weight": (0, (5,))}


def test_a_weight_is_laid_out_by_the_first_module_that_is_known():
    model = nn.Module()
    model.shared = nn.Parameter(torch.zeros(2, 3))
    model.layer = nn.Linear(3, 2, bias=False)
    model.layer.weight = model.shared
    index = UnitIndex.of(model, "input_channel")
    assert index.groups == {"shared": (0, (3,))}


class OwnParameters(nn.Module):
    """A layer beside parameters of every number of dimensions that no layer holds."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.own = nn.ParameterList(nn.Parameter(torch.ones(shape)) for shape in shapes)


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(1, 3), max_size=4).map(tuple), max_size=12))
def test_parameters_of_no_known_layout_are_named_in_one_warning(shapes):
    model = OwnParameters(*shapes)
    left = [f"own.{n}" for n, shape in enumerate(shapes) if len(shape) > 1]
    for reducer in ("output_channel", "input_channel"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            index = UnitIndex.of(model, reducer)
        assert list(index.labels) == ["layer.weight"]
        assert len(caught) == bool(left)
        if left:
            message = str(caught[0].message)
            assert f"{len(left)} weights are left out" in message
            assert all(repr(name) in message for name in left[:10])


def test_what_is_left_out_is_the_rest_of_a_sum():
    model = OwnParameters((2, 2), (3,))
    with pytest.warns(UserWarning, match=r"'own.0'"):
        index = UnitIndex.of(model, "output_channel")
    ones = {name: torch.ones(shape) for name, shape in index.shapes.items()}
    units, rest = index.reduce_with_rest({**ones, "unheard of": torch.ones(5)})
    assert units.tolist() == [2, 2, 2]
    assert rest.dtype == torch.float64
    assert float(rest) == 3 + 4 + 3 + 5  # the bias, the two own, the unknown name


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("vit", ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings"]),
        ("mamba", ["backbone.layers.0.mixer.A_log"]),
        ("mixtral", ["model.layers.0.mlp.gate.weight"]),
    ],
)
def test_weights_of_transformers_that_no_layer_holds(name, left):
    with pytest.warns(UserWarning, match=f"{len(left)} weights.*{'.*'.join(left)}") as caught:
        UnitIndex.of(BUILDS[name](), "output_channel")
    assert len(caught) == 1


def test_a_reducer_of_ones_own_may_say_that_it_does_not_know():
    def picky(name, parameter, module):
        return UNKNOWN if name == "weight" else Units(name, (1,), torch.zeros(1))

    with pytest.warns(UserWarning, match="1 weights are left out.*'weight'"):
        assert list(UnitIndex.of(nn.Linear(2, 2), picky).groups) == ["bias"]


class Counting:
    """A reducer that looks at the model once."""

    def __init__(self) -> None:
        self.models = []

    def for_model(self, model):
        self.models.append(model)
        return lambda name, parameter, module: Units(
            type(model).__name__, (1,), torch.zeros([1] * parameter.ndim)
        )


def test_for_model_is_called_once_with_the_whole_model():
    reducer, model = Counting(), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    assert UnitIndex.of(model, reducer).groups == {"Sequential": (0, (1,))}
    assert reducer.models == [model]
    assert list(UnitIndex.of(model, only(reducer, ["1"])).labels) == ["1.weight", "1.bias"]
    assert reducer.models == [model, model]


@pytest.mark.parametrize("reducer", ["kernel", "output_channel", "attention_head"])
def test_a_reducer_of_ones_own_may_ask_a_built_in_one(reducer):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.MultiheadAttention(4, 2))
    if reducer == "output_channel":  # asked alone, the layers are told apart all the same
        model = model[:2]

    def asking(name, parameter, module):
        return get_reducer(reducer)(name, parameter, module)

    whole = UnitIndex.of(model, reducer)
    assert UnitIndex.of(model, asking).groups == whole.groups


def test_weight_norm_has_the_units_of_the_plain_weight():
    model = nn.Sequential(weight_norm(nn.Conv2d(2, 3, 3)), spectral_norm(nn.Conv2d(3, 2, 1)))
    assert UnitIndex.of(model, "kernel").groups == {
        "0.weight": (0, (3, 2)),
        "1.weight": (6, (2, 3)),
    }
    index = UnitIndex.of(model, "output_channel")
    assert index.groups == {"0.weight": (0, (3,)), "1.weight": (3, (2,))}
    lengths = index.mask("0.parametrizations.weight.original0", torch.arange(5) == 1)
    assert lengths.flatten().tolist() == [False, True, False]
    other = moved(model).eval()
    edited = substitute(model.eval(), other, ~absolute_change(model, other).top(count=0))
    assert not torch.equal(edited[0].weight, model[0].weight)


def test_other_parametrisations_mix_their_entries_and_are_left_out():
    model = nn.Sequential(orthogonal(nn.Linear(3, 3)), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="0.parametrizations.weight"):
        assert list(UnitIndex.of(model, "output_channel").groups) == ["1.weight"]


def test_bilinear_layers_have_outputs_and_no_single_inputs():
    model = nn.Sequential(nn.Bilinear(2, 3, 4))
    assert UnitIndex.of(model, "output_channel").groups == {"0.weight": (0, (4,))}
    with pytest.raises(UnitError, match="no unit"):
        UnitIndex.of(model, "input_channel")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:fan_in_fan_out")
def test_each_rank_of_lora_is_a_unit():
    options = {"target_modules": ["c_attn", "c_fc"], "init_lora_weights": False}
    base = BUILDS["gpt2"]()
    target = seeded(lambda: peft.get_peft_model(base, peft.LoraConfig(r=3, **options)))
    index = UnitIndex.of(target, "rank_component")
    block = "transformer.h.0"  # the plain model's names
    paths = [f"{block}.attn.c_attn", f"{block}.mlp.c_fc"]
    assert index.groups == {path: (3 * n, (3,)) for n, path in enumerate(paths)}
    state = {n: p.detach().clone() for n, p in target.named_parameters()}
    state[f"base_model.model.{block}.mlp.c_fc.lora_A.default.weight"][2] += 1
    state[f"base_model.model.{block}.mlp.c_fc.lora_B.default.weight"][:, 2] += 1
    scores = absolute_change(target, state, reducer="rank_component")
    assert [scores.index[n] for n in scores.values.nonzero()] == [(paths[1], (2,))]
    target.add_adapter("other", peft.LoraConfig(r=2, **options))
    assert UnitIndex.of(target, "rank_component").groups == {
        f"{paths[0]}.default": (0, (3,)),
        f"{paths[0]}.other": (3, (2,)),
        f"{paths[1]}.default": (5, (3,)),
        f"{paths[1]}.other": (8, (2,)),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_heads_and_neurons_under_lora_hold_their_rows_of_b_and_columns_of_a():
    options = {"r": 3, "target_modules": ["q_proj", "o_proj", "up_proj", "down_proj"]}
    model = peft.get_peft_model(BUILDS["llama"](), peft.LoraConfig(**options))
    heads = UnitIndex.of(model, "attention_head")
    block = "model.layers.0"
    assert heads.groups == {f"{block}.self_attn": (0, (2,))}
    first = torch.tensor([True, False])
    assert heads.mask(f"{block}.self_attn.q_proj.lora_B.default.weight", first)[:8].all()
    assert heads.mask(f"{block}.self_attn.o_proj.lora_A.default.weight", first)[:, :8].all()
    assert f"{block}.self_attn.q_proj.lora_A.default.weight" not in heads.labels
    neurons = UnitIndex.of(model, "neuron")
    assert neurons.groups == {f"{block}.mlp": (0, (24,))}
    assert f"{block}.mlp.down_proj.lora_A.default.weight" in neurons.labels
