"""Each mistake has an error of its own, which says what to do, before any gradient is computed."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paramattr import (
    FAIG,
    InputPathIntegratedGradients,
    PiecewiseLinear,
    Scores,
    Selection,
    StraightLine,
    UnitIndex,
    absolute_change,
    contrast,
    load_state_dict,
    modulate,
    random_scores,
    retrain_only,
    squared_error,
    substitute,
)
from paramattr.errors import (
    CheckpointError,
    DataError,
    ModelError,
    ObjectiveError,
    ParamattrError,
    UnitError,
)
from paramattr.integration.integrand import Integrand
from paramattr.quadrature import RULES, Rule
from tests.tiny import Attention, attention, convnet, inputs_for, moved, seeded, tied

X = inputs_for(convnet)
Y = seeded(lambda: torch.randn(3, 2))
LINE = UnitIndex.of(seeded(lambda: nn.Linear(2, 2)), "scalar")


def attribute(model=None, baseline=None, inputs=X, targets=Y, *, objective=squared_error, **more):
    model = convnet() if model is None else model
    baseline = moved(model) if baseline is None else baseline
    return FAIG(model, baseline, objective=objective).attribute(inputs, targets, **more)


def score(loader, *, reducer="kernel", model=None, **more):
    model = convnet() if model is None else model
    return FAIG(model, moved(model)).score(loader, reducer=reducer, **more)


def changed(model: nn.Module, **entries) -> dict[str, Tensor]:
    """Give a state dict like a moved model's, some entries replaced, or left out by None."""
    state = {**moved(model).state_dict(), **{n.replace("__", "."): t for n, t in entries.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def holding(name: str, value: float, *, model: nn.Module | None = None) -> nn.Module:
    model = convnet() if model is None else model
    with torch.no_grad():
        model.get_parameter(name).flatten()[1] = value
    return model


def training(model: nn.Module, *paths: str) -> nn.Module:
    for path in paths:
        model.get_submodule(path).train()
    return model


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lazy layers are new
        return nn.Sequential(nn.LazyLinear(2))


def untied() -> nn.Module:
    baseline = moved(tied())
    baseline.second.weight = nn.Parameter(baseline.first.weight.detach() + 1)
    return baseline


def nan_in_one_sample() -> Tensor:
    x = X.clone()
    x[1, 0, 2, 2] = float("nan")
    return x


def code(tmp_path):
    class RunsCode:
        def __reduce__(self):
            return (open, (str(tmp_path / "mark"), "w"))

    torch.save({"weight": RunsCode()}, tmp_path / "s.pth")
    return tmp_path / "s.pth"


def flat(output, targets):
    return squared_error(output, targets).sum()


def column(output, targets):
    return squared_error(output, targets)[:, None]


def no_tensor(output, targets):
    return squared_error(output, targets).tolist()


def detached(output, targets):
    return squared_error(output.detach(), targets)


def reversed_path():
    model = convnet()
    baseline = moved(model)
    FAIG(model, baseline, path=StraightLine(baseline, model))


class FunctionalDropout(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), training=self.training)

    @classmethod
    def score(cls):
        model = cls(2, 2)
        FAIG(model, moved(model)).score([(torch.ones(1, 2), torch.ones(1, 2))], reducer="layer")


def batch_statistics():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval()
    FAIG(model, moved(model)).attribute(torch.rand(2, 2), torch.rand(2, 2))


def path_of_less():
    model = convnet()
    baseline = moved(model)
    one, two = (dict(list(m.named_parameters())[1:]) for m in (model, baseline))
    FAIG(model, baseline, path=StraightLine(one, two))


def first_parameters() -> dict[str, Tensor]:
    return dict(list(convnet().named_parameters())[:-1])


def chosen(model: nn.Module, *, nothing: bool = False) -> Selection:
    index = UnitIndex.of(model, "scalar")
    return Selection(index, torch.full((len(index),), not nothing))


def wider() -> nn.Module:
    model = convnet()
    model.fc = nn.Linear(2, 5)
    return model


class Holding(nn.Module):
    """A layer, and a frozen parameter or buffer of an unusual kind."""

    def __init__(self, extra: Tensor, *, as_buffer: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        if as_buffer:
            self.register_buffer("extra", extra)
        else:
            self.extra = nn.Parameter(extra, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x @ self.extra.to_dense().to(x.dtype))

    @classmethod
    def pair(cls, extra: Tensor, *, as_buffer: bool = False) -> tuple[nn.Module, nn.Module]:
        return tuple(
            seeded(lambda: cls(extra.clone(), as_buffer=as_buffer), n).eval() for n in (0, 1)
        )


class Checkpointed(nn.Module):
    """Activation checkpointing of a kind; the first layer's input needs no gradient."""

    def __init__(self, *, first: bool, reentrant: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.first, self.reentrant = first, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return self.two(checkpoint(self.one, x, use_reentrant=self.reentrant))
        return checkpoint(self.two, self.one(x), use_reentrant=self.reentrant)


def checkpointing(use, *, first: bool, reentrant: bool = True):
    model = seeded(lambda: Checkpointed(first=first, reentrant=reentrant)).eval()
    faig = FAIG(model, moved(model))
    data = torch.rand(3, 2), torch.rand(3, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        return faig.attribute(*data) if use == "attribute" else faig.score([data], reducer="layer")


def complex_objective(output, targets):
    return output.sum(1) + 1j


def eight_bit_objective(output, targets):
    return output.sum(1).to(torch.float8_e4m3fn)


MISTAKES = {
    # Kinds of tensors that have no values, or no arithmetic.
    "model without values": (
        lambda _: FAIG(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2)),
        ModelError,
        r"'weight' of the model has no values \(it is on the meta device\).*load its weights",
    ),
    "baseline without values": (
        lambda _: FAIG(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")),
        ModelError,
        r"'weight' of the baseline has no values",
    ),
    **{
        f"{what} {kind}": (
            lambda _, extra=extra, as_buffer=as_buffer: FAIG(
                *Holding.pair(extra, as_buffer=as_buffer)
            ),
            ModelError,
            rf"'extra' of the model {message}",
        )
        for what, as_buffer in (("parameter", False), ("buffer", True))
        for kind, extra, message in (
            ("sparse", torch.eye(2).to_sparse(), r"is torch.sparse_coo: expected.*to_dense\(\)"),
            ("without values", torch.eye(2, device="meta"), r"has no values"),
        )
    },
    "parameter of eight bits": (
        lambda _: FAIG(*Holding.pair(torch.eye(2).to(torch.float8_e4m3fn))),
        ModelError,
        r"'extra' of the model is torch.float8_e4m3fn, which.*expected.*bfloat16",
    ),
    "inputs without values": (
        lambda _: attribute(inputs=X.to("meta")),
        DataError,
        r"the inputs hold a tensor on the meta device, which has no values: expected",
    ),
    "sparse inputs": (
        lambda _: attribute(inputs=X.to_sparse()),
        DataError,
        r"the inputs hold a torch.sparse_coo tensor: expected.*to_dense\(\)",
    ),
    "nested inputs": (
        lambda _: attribute(inputs=torch.nested.nested_tensor(list(X), layout=torch.jagged)),
        DataError,
        r"the inputs hold a nested tensor: expected.*to_padded_tensor",
    ),
    "sparse targets": (
        lambda _: attribute(targets=Y.to_sparse()),
        DataError,
        r"the targets hold a torch.sparse_coo tensor",
    ),
    "inputs of eight bits": (
        lambda _: score([(X.to(torch.float8_e4m3fn), Y)]),
        DataError,
        r"the inputs hold a tensor of torch.float8_e4m3fn: expected.*float\(\)",
    ),
    "sparse further arguments": (
        lambda _: attribute(additional_forward_args=X.to_sparse()),
        DataError,
        r"the additional_forward_args hold a torch.sparse_coo tensor",
    ),
    "complex objective": (
        lambda _: attribute(objective=complex_objective),
        ObjectiveError,
        r"the objective gave torch.complex64: expected real numbers.*\.abs\(\)",
    ),
    "objective of eight bits": (
        lambda _: attribute(objective=eight_bit_objective),
        ObjectiveError,
        r"the objective gave torch.float8_e4m3fn: expected real numbers",
    ),
    "reentrant checkpointing": (
        lambda _: checkpointing("score", first=True),
        ModelError,
        r"Checkpointed\).*use_reentrant=True.*expected.*use_reentrant=False",
    ),
    # Two models that do not fit together.
    "another shape": (
        lambda _: attribute(baseline=wider()),
        ModelError,
        r"'fc.weight' has shape \(2, 2\) in the model and \(5, 2\) in the baseline: expected",
    ),
    "missing": (
        lambda _: attribute(baseline=changed(convnet(), fc__weight=None)),
        ModelError,
        r"'fc.weight' of shape \(2, 2\) is missing in the baseline: expected.*'head.weight'",
    ),
    "missing in an empty baseline": (
        lambda _: attribute(baseline={}),
        ModelError,
        r"'head.weight'.* missing in the baseline.*is empty",
    ),
    "left over": (
        lambda _: attribute(baseline=changed(convnet(), fc__scale=torch.ones(2))),
        ModelError,
        r"'fc.scale' of shape \(2,\) in the baseline is missing in the model: expected",
    ),
    "equal": (
        lambda _: attribute(baseline=convnet()),
        ModelError,
        r"baseline equals the model in every parameter.*before the fine-tuning",
    ),
    "tied in the model alone": (
        lambda _: FAIG(tied(), untied()),
        ModelError,
        r"'first.weight' and 'second.weight' are tied in the model but differ.*tie them there",
    ),
    # What is no model.
    "model is a state dict": (
        lambda _: FAIG(convnet().state_dict(), convnet()),
        ModelError,
        r"model is an OrderedDict: expected a torch.nn.Module.*load_state_dict",
    ),
    "model without parameters": (
        lambda _: FAIG(nn.ReLU(), nn.ReLU()),
        ModelError,
        r"model ReLU has no floating-point parameter",
    ),
    "baseline is a path": (
        lambda _: FAIG(convnet(), "baseline.pth"),
        ModelError,
        r"baseline is a str: expected a torch.nn.Module or a mapping.*load_state_dict",
    ),
    "baseline wraps a state dict": (
        lambda _: FAIG(convnet(), {"params": convnet().state_dict()}),
        ModelError,
        r"'params' of the baseline is an OrderedDict: expected a tensor.*load_state_dict",
    ),
    "lazy": (
        lambda _: FAIG(lazy(), lazy()),
        ModelError,
        r"'0.weight' has no shape yet: run the model once",
    ),
    "complex": (
        lambda _: FAIG(nn.Linear(1, 1, dtype=torch.complex64), nn.Linear(1, 1)),
        ModelError,
        r"'weight' is complex \(torch.complex64\): expected real numbers.*view_as_real",
    ),
    "not finite in the model": (
        lambda _: attribute(holding("fc.bias", float("nan")), moved(convnet())),
        ModelError,
        r"'fc.bias' of the model has 1 of 2 entries that are not finite: expected finite numbers",
    ),
    "not finite in the baseline": (
        lambda _: attribute(baseline=holding("head.weight", float("inf"), model=moved(convnet()))),
        ModelError,
        r"'head.weight' of the baseline has 1 of 54 entries that are not finite",
    ),
    # Modes.
    "batch norm in training mode": (
        lambda _: attribute(training(convnet(), "norm")),
        ModelError,
        r"'norm' \(BatchNorm2d\) is in training mode.*call model.eval\(\)",
    ),
    "functional dropout in training mode": (
        lambda _: FunctionalDropout.score(),
        ModelError,
        r"\(FunctionalDropout\) is in training mode and draws random numbers.*model.eval\(\)",
    ),
    "batch norm without running statistics": (
        lambda _: batch_statistics(),
        ModelError,
        r"'1' \(BatchNorm1d\) keeps no running statistics.*expected samples that are independent",
    ),
    "objective that is no function": (
        lambda _: FAIG(convnet(), moved(convnet()), objective="mse"),
        ObjectiveError,
        r"the objective is 'mse': expected a function of \(output, targets\)",
    ),
    "targets that are numbers": (
        lambda _: attribute(targets=[1, 0]),
        DataError,
        r"the targets hold an int: expected a tensor with the batch first",
    ),
    "contrast of a list": (
        lambda _: contrast(random_scores(convnet()), [random_scores(convnet())]),
        UnitError,
        r"contrast takes Scores, one per condition: found a list",
    ),
    "dropout in training mode": (
        lambda _: score([(X, Y)], model=training(convnet(), "dropout")),
        ModelError,
        r"'dropout' \(Dropout\) is in training mode.*call model.eval\(\)",
    ),
    "attention with dropout in training mode": (
        lambda _: FAIG(Attention(0.1), moved(attention())).attribute(inputs_for(attention)),
        ModelError,
        r"'attention' \(MultiheadAttention\) is in training mode.*call model.eval\(\)",
    ),
    # Objectives.
    "scalar objective": (
        lambda _: attribute(objective=flat),
        ObjectiveError,
        r"gave a scalar: expected one number per sample, shape \(3,\).*reduction='none'",
    ),
    "objective of a column": (
        lambda _: attribute(objective=column),
        ObjectiveError,
        r"gave shape \(3, 1\): expected \(3,\), one number per sample; sum",
    ),
    "objective of a list": (
        lambda _: attribute(objective=no_tensor),
        ObjectiveError,
        r"gave a list: expected a tensor of shape \(3,\)",
    ),
    "detached objective": (
        lambda _: attribute(objective=detached),
        ObjectiveError,
        r"does not depend on the parameters: expected.*autograd.*remove detach",
    ),
    "loss that is not finite": (
        lambda _: attribute(inputs=nan_in_one_sample()),
        ObjectiveError,
        r"objective is nan for sample 1: expected a finite number; check that sample",
    ),
    "targets of another shape": (
        lambda _: attribute(targets=Y[:, :1]),
        ObjectiveError,
        r"squared_error needs targets of the output's shape.*\(3, 2\).*\(3, 1\); reshape",
    ),
    "no targets": (
        lambda _: attribute(targets=None),
        ObjectiveError,
        r"squared_error needs targets: expected a tensor.*\(3, 2\), found None; pass them",
    ),
    # Rules.
    **{
        f"n_steps={n!r}": (
            lambda _, n=n: attribute(n_steps=n),
            ParamattrError,
            rf"gausslegendre takes at least 1 node: found n_steps={n!r}",
        )
        for n in (0, -1, 2.5, True)
    },
    "trapezoid of one node": (
        lambda _: attribute(n_steps=1, method="riemann_trapezoid"),
        ParamattrError,
        r"riemann_trapezoid takes at least 2 nodes: found n_steps=1",
    ),
    "unknown method": (
        lambda _: attribute(method="gauss"),
        ParamattrError,
        rf"'gauss' is not known: expected one of {', '.join(RULES)}",
    ),
    "rule of other lengths": (
        lambda _: attribute(method=Rule("mine", (0.0, 1.0), (1.0,), 0)),
        ParamattrError,
        r"rule 'mine' has 2 nodes and 1 weights: expected as many",
    ),
    "rule beyond the path": (
        lambda _: attribute(method=Rule("mine", (0.0, 1.5), (0.5, 0.5), 0)),
        ParamattrError,
        r"rule 'mine' has nodes outside \[0, 1\]: expected points.*found \(0.0, 1.5\)",
    ),
    # Selections.
    **{
        f"fraction {fraction}": (
            lambda _, f=fraction: random_scores(convnet()).top(fraction=f),
            UnitError,
            rf"fraction is {fraction}: expected a share above 0 and up to 1",
        )
        for fraction in (0, 1.5, float("nan"), -0.1)
    },
    "fraction and count": (
        lambda _: random_scores(convnet()).top(fraction=0.1, count=3),
        UnitError,
        r"either a fraction or a count: write top\(fraction=0.01\)",
    ),
    "count too large": (
        lambda _: random_scores(convnet()).top(count=13),
        UnitError,
        r"count is 13: expected a whole number from 0 to 12, the number of units",
    ),
    "selection of another model": (
        lambda _: substitute(convnet(), moved(convnet()), chosen(attention())),
        UnitError,
        r"selection is of another model: parameter 'head.weight' is \(3, 2, 3, 3\) here and miss",
    ),
    "empty selection": (
        lambda _: retrain_only(convnet(), chosen(convnet(), nothing=True)),
        UnitError,
        r"selection is empty.*select at least one unit",
    ),
    "strength": (
        lambda _: modulate(convnet(), moved(convnet()), chosen(convnet()), float("nan")),
        ModelError,
        r"strength is nan: expected a finite number, 0 for the baseline",
    ),
    # Data.
    "empty loader": (
        lambda _: score([]),
        DataError,
        r"loader gave no batch: expected at least one \(inputs, targets\)",
    ),
    "loader of strings": (
        lambda _: score(["x"]),
        DataError,
        r"loader gave a str: expected \(inputs, targets\).*wrap the loader",
    ),
    "loader of threes": (
        lambda _: score([(X, Y, Y)]),
        DataError,
        r"loader gave a tuple of 3: expected \(inputs, targets\)",
    ),
    "fewer targets than inputs": (
        lambda _: attribute(targets=Y[:2]),
        DataError,
        r"inputs hold 3 samples and the targets 2: expected as many",
    ),
    "fewer arguments than inputs": (
        lambda _: attribute(additional_forward_args=Y[:1]),
        DataError,
        r"inputs hold 3 samples and the additional_forward_args 1: expected as many",
    ),
    "no sample": (
        lambda _: attribute(inputs=X[:0], targets=Y[:0]),
        DataError,
        r"inputs hold no sample: expected at least one",
    ),
    "no input": (
        lambda _: attribute(inputs=()),
        DataError,
        r"there is no input: expected a tensor, a tuple of tensors, or a mapping",
    ),
    "inputs that are a list of numbers": (
        lambda _: attribute(inputs=[1.0, 2.0]),
        DataError,
        r"input 0 is a float: expected a tensor with the batch first",
    ),
    "inputs that are an array": (
        lambda _: attribute(inputs=X.numpy()),
        DataError,
        r"input 0 is a ndarray: expected a tensor",
    ),
    "internal_batch_size": (
        lambda _: attribute(internal_batch_size=0),
        ParamattrError,
        r"internal_batch_size is 0: expected a whole number of at least 1, or None",
    ),
    # What is reported, and the units.
    "unknown parameter": (
        lambda _: FAIG(convnet(), moved(convnet()), parameters=["fc.weights"]),
        ModelError,
        r"'fc.weights' is not one of the model's: expected names such as 'head.weight'",
    ),
    "predicate that picks nothing": (
        lambda _: FAIG(convnet(), moved(convnet()), parameters=lambda name, p: p.ndim > 9),
        ModelError,
        r"parameters picks none.*at least one name, or a predicate",
    ),
    "unknown reducer": (
        lambda _: score([(X, Y)], reducer="filter"),
        UnitError,
        r"reducer 'filter' is not known: expected one of scalar, kernel",
    ),
    "kernels without convolutions": (
        lambda _: score([(X, Y)], model=attention()),
        UnitError,
        r"'kernel' leaves every parameter of Attention out.*'output_channel' takes linear",
    ),
    "scores of other units": (
        lambda _: random_scores(convnet()) + Scores(LINE, torch.ones(6)),
        UnitError,
        r"add of scores needs the same units.*12 units.*6 units.*score both",
    ),
    # Paths.
    "path the wrong way round": (
        lambda _: reversed_path(),
        ModelError,
        r"path at alpha=0 is not the model: parameter 'head.weight' differs.*reverse a list",
    ),
    "path that holds less": (
        lambda _: path_of_less(),
        ModelError,
        r"path has no parameter 'head.weight' of shape \(3, 2, 3, 3\): expected",
    ),
    "path of one point": (
        lambda _: PiecewiseLinear([convnet()]),
        ModelError,
        r"path needs at least two models, its ends: found 1; pass \[target, ..., baseline\]",
    ),
    "path through another architecture": (
        lambda _: PiecewiseLinear([convnet(), wider()]),
        ModelError,
        r"'fc.weight' has shape \(2, 2\) in the path's first model and \(5, 2\) in point 1",
    ),
    "path through fewer parameters": (
        lambda _: PiecewiseLinear([convnet(), moved(convnet()), first_parameters()]),
        ModelError,
        r"'fc.bias' of shape \(2,\) is missing in point 2 of the path: expected models",
    ),
    # Files.
    "pickled code": (
        lambda tmp_path: load_state_dict(code(tmp_path)),
        CheckpointError,
        r"holds pickled code.*expected only tensors and plain containers.*save its state dict",
    ),
    "missing file": (
        lambda tmp_path: load_state_dict(tmp_path / "gone"),
        CheckpointError,
        r"gone is not there: give the path",
    ),
}


@pytest.fixture
def gradients(monkeypatch):
    """Count the gradients that came out."""
    calls = []
    real = Integrand.gradients

    def counted(*args, **more):
        found = real(*args, **more)
        calls.append(1)
        return found

    monkeypatch.setattr(Integrand, "gradients", counted)
    return calls


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_any_gradient(mistake, tmp_path, gradients):
    call, kind, said = MISTAKES[mistake]
    with pytest.raises(ParamattrError, match=f"(?s){said}") as caught:
        call(tmp_path)
    assert type(caught.value) is kind
    assert isinstance(caught.value, ValueError)
    assert not gradients
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("use", ["attribute", "score"])
@pytest.mark.parametrize("first", [True, False])
def test_only_reentrant_checkpointing_is_refused(use, first, gradients):
    with pytest.raises(ModelError, match="use_reentrant=True"):
        checkpointing(use, first=first)
    assert not gradients
    checkpointing(use, first=first, reentrant=False)


@pytest.mark.parametrize("first", [True, False])
def test_the_input_path_refuses_it_too(first):
    model = seeded(lambda: Checkpointed(first=first, reentrant=True)).eval()
    method = InputPathIntegratedGradients(model)
    with pytest.raises(ModelError, match="use_reentrant=True"):
        method.attribute(torch.rand(3, 2), torch.zeros(3, 2))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_look_leaves_a_part_that_is_compiled_as_a_whole_alone():
    class Compiled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.rest = torch.compile(torch.tanh, fullgraph=True, backend="eager")

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(super().forward(x))

    target, baseline = seeded(Compiled).eval(), seeded(Compiled, 1).eval()
    x, y = torch.rand(3, 2), torch.rand(3, 2)
    found = FAIG(target, baseline).attribute(x, y)
    change = squared_error(baseline(x), y) - squared_error(target(x), y)
    torch.testing.assert_close(sum(v.sum() for v in found.values()), change.sum())


def test_no_two_mistakes_have_one_message(tmp_path):
    said = {}
    for mistake, (call, _, _) in MISTAKES.items():
        with pytest.raises(ParamattrError) as caught:
            call(tmp_path)
        message = str(caught.value)
        assert message not in said, f"{mistake!r} says the same as {said[message]!r}"
        said[message] = mistake
    for message in said:
        assert len(message) > 30
        assert "\n" not in message


@pytest.mark.parametrize(
    "call",
    [
        lambda x: attribute(inputs=x, per_sample=True),
        lambda x: attribute(inputs=x, internal_batch_size=1),
        lambda x: attribute(inputs=x, internal_batch_size=2),
        lambda x: score([(x, Y)]),
    ],
)
@pytest.mark.parametrize("sample", [1, 2])
def test_a_bad_sample_is_found_before_the_good_ones_before_it_are_worked_on(
    call, sample, gradients
):
    x = X.clone()
    x[sample] = float("inf")
    with pytest.raises(ObjectiveError, match=rf"is (nan|inf) for sample {sample}: "):
        call(x)
    assert not gradients


def test_the_count_of_gradients_sees_them(gradients):
    """The counter-test: what is right does compute gradients, one at each node."""
    attribute(n_steps=3)
    assert len(gradients) == 3
    score([(X, Y)], n_steps=2)
    assert len(gradients) == 3 + 2 * 3


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (training(convnet(), "head", "tail", "fc"), X),
        (nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.0), nn.LayerNorm(2)).train(), X[:, 0, 0, :4]),
        (nn.Sequential(nn.Linear(4, 2), nn.GroupNorm(1, 2)).train(), X[:, 0, 0, :4]),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.InstanceNorm2d(2)).train(), X),
        (seeded(lambda: Attention(0.0)).train(), inputs_for(attention)),
        (nn.LSTM(4, 2).train(), inputs_for(attention)),
    ],
)
def test_training_mode_is_allowed_where_it_changes_nothing(model, inputs):
    def mean(output, targets):
        output = output[0] if isinstance(output, tuple) else output
        return output.square().flatten(1).sum(1)

    assert attribute(model, moved(model), inputs, None, objective=mean, n_steps=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: absolute_change(m, m),
        lambda m: random_scores(m, reducer="scalar"),
        lambda m: UnitIndex.of(m, "scalar"),
        lambda m: substitute(m, m, chosen(convnet())),
        lambda m: retrain_only(m, chosen(convnet())),
    ],
)
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lazy, "has no shape yet"),
        (lambda: nn.Linear(1, 1, dtype=torch.complex64), "is complex"),
        (lambda: "a model", "model is a str"),
    ],
)
def test_every_call_names_a_model_that_it_cannot_take(call, model, said):
    with pytest.raises(ModelError, match=said):
        call(model())


def test_a_model_put_in_training_mode_later_is_noticed():
    model = convnet()
    method = FAIG(model, moved(model))
    method.attribute(X, Y, n_steps=1)
    model.train()
    for call in (
        lambda: method.attribute(X, Y),
        lambda: method.score([(X, Y)], reducer="kernel"),
        lambda: method.compute_convergence_delta({}, X, Y),
    ):
        with pytest.raises(ModelError, match="in training mode"):
            call()


def test_errors_survive_pickling():
    """So that a worker process can hand them on."""
    for kind in (ParamattrError, ModelError, DataError, ObjectiveError, UnitError, CheckpointError):
        found = pickle.loads(pickle.dumps(kind("what is wrong")))
        assert (type(found), str(found)) == (kind, "what is wrong")
        assert copy.copy(found).args == found.args


def test_a_loss_that_is_not_finite_along_the_path_names_its_sample():
    model, baseline = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for one, weight in ((model, 1.0), (baseline, 3.0)):
        nn.init.constant_(one.weight, weight)

    def inverse(output, targets):
        return (1 / (output - targets)).sum(1)

    faig = FAIG(model, baseline, objective=inverse)
    x, y = torch.ones(2, 1), torch.tensor([[0.0], [2.0]])  # the second's pole is in the middle
    for take in (
        lambda: faig.attribute(x, y, n_steps=1),
        lambda: faig.score([(x, y)], reducer="scalar", n_steps=3),
        lambda: faig.score([(x, y)], reducer="scalar", n_steps=3, internal_batch_size=2),
    ):
        with pytest.raises(ObjectiveError, match="the objective is inf for sample 1"):
            take()
    assert faig.attribute(x[:1], y[:1], n_steps=1)["weight"].isfinite().all()
