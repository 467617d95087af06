"""`FAIG.score` against Eq. 7 as a loop, its reducers, and its checkpoints."""

import copy
from collections import namedtuple
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from paramattr import FAIG, Units, squared_error
from paramattr.errors import CheckpointError
from paramattr.quadrature import Rule, get_rule
from tests.kills import cut
from tests.models import ZOO, batches, other_weights, samples_of
from tests.reference import eq6
from tests.tiny import REDUCER_NAMES

pytestmark = pytest.mark.usefixtures("one_thread")
NODES = 2


def exact(model, baseline, inputs, targets, objective=squared_error):
    """Attributions `(B, *shape)` by the loop of Eq. 6."""
    rule = get_rule("gausslegendre", NODES)
    return eq6.attributions(model, baseline, objective, inputs, targets, rule.nodes, rule.weights)


def assert_close(found, expected):
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.fixture
def small():
    """Give a model, a baseline, five inputs and targets."""
    model, inputs, targets = samples_of("convolution", 5)
    return model, other_weights(model), inputs, targets


# Eq. 7


@pytest.mark.parametrize("name", ["convolution", "grouped", "depthwise", "conv1d", "conv3d"])
def test_kernel_scores_equal_the_loop_of_eq_7(name):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    attributions = exact(model, baseline, inputs, targets)
    scores = FAIG(model, baseline).score([(inputs, targets)], reducer="kernel", n_steps=NODES)
    expected = [
        score
        for name, value in attributions.items()
        if value.ndim > 3  # convolutions: the batch, two channels and at least one of space
        for row in eq6.kernel_scores(value)
        for score in row
    ]
    assert_close(scores.values, expected)
    assert scores.values.dtype == torch.float64


def test_magnitudes_come_before_the_mean_and_the_sum(small):
    model, baseline, inputs, targets = small
    attributions = exact(model, baseline, inputs, targets)["0.weight"]
    scores = FAIG(model, baseline).score([(inputs, targets)], reducer="kernel", n_steps=NODES)
    own = torch.tensor([n for n in range(len(scores)) if scores.index[n].name == "0.weight"])
    found = scores.values[own]
    assert_close(found, attributions.abs().sum((3, 4)).mean(0).flatten())
    # The two other orders are other numbers, and lower ones.
    after_mean = attributions.mean(0).abs().sum((2, 3)).flatten()
    after_sum = attributions.sum((3, 4)).abs().mean(0).flatten()
    assert bool((after_mean < 0.99 * found).all())
    assert bool((after_sum < 0.99 * found).all())


def test_splits_of_the_loader_do_not_matter(small):
    model, baseline, inputs, targets = small
    faig = FAIG(model, baseline)
    expected = faig.score([(inputs, targets)], reducer="scalar", n_steps=NODES).values
    for sizes in ((1, 4), (2, 2, 1), (1, 1, 1, 1, 1)):
        found = faig.score(
            batches((inputs, targets), *sizes), reducer="scalar", n_steps=NODES
        ).values
        assert_close(found, expected)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=3)
    for size in (1, 2, None):
        found = faig.score(loader, reducer="scalar", n_steps=NODES, internal_batch_size=size)
        assert_close(found.values, expected)
    generator = (batch for batch in loader)
    assert_close(faig.score(generator, reducer="scalar", n_steps=NODES).values, expected)


def test_parameters_that_are_not_reported_count_as_zero(small):
    model, baseline, inputs, targets = small
    whole = FAIG(model, baseline).score([(inputs, targets)], reducer="scalar", n_steps=NODES)
    part = FAIG(model, baseline, parameters=["2.weight"]).score(
        [(inputs, targets)], reducer="scalar", n_steps=NODES
    )
    assert part.index == whole.index
    for number, value in enumerate(part.values.tolist()):
        reported = whole.index[number].name == "2.weight"
        assert value == pytest.approx(float(whole.values[number]) if reported else 0.0, rel=1e-9)
    assert float(part.values.sum()) > 0


def test_a_loader_of_tensors_alone_for_an_objective_without_targets(small):
    model, baseline, inputs, _ = small

    def energy(output, targets):
        assert targets is None
        return output.square().flatten(1).sum(1)

    faig = FAIG(model, baseline, objective=energy)
    found = faig.score(inputs.split(2), reducer="layer", n_steps=NODES)
    attributions = exact(model, baseline, inputs, None, energy)
    expected = [
        sum(
            float(value.abs().sum()) / len(inputs)
            for name, value in attributions.items()
            if name.startswith(layer)
        )
        for layer in ("0.", "2.")
    ]
    assert_close(found.values, expected)
    one_each = DataLoader(TensorDataset(inputs), batch_size=2)  # gives lists of one tensor
    assert_close(faig.score(one_each, reducer="layer", n_steps=NODES).values, expected)


def test_targets_of_several_tensors(small):
    model, baseline, inputs, targets = small
    Weighted = namedtuple("Weighted", ["image", "weight"])
    weight = torch.arange(5, dtype=torch.float64)

    def weighted(output, targets):
        return targets.weight * squared_error(output, targets.image)

    found = FAIG(model, baseline, objective=weighted).score(
        [(inputs, Weighted(targets, weight))], reducer="scalar", n_steps=NODES
    )
    attributions = exact(model, baseline, inputs, targets)
    flat = torch.cat([value.abs().flatten(1) for value in attributions.values()], dim=1)
    assert_close(found.values, (weight[:, None] * flat).mean(0))


# Reducers


def explicit(attributions, model, reducer):
    """Group every entry by hand: unit to its score, in the order in which they are met."""
    modules = dict(model.named_modules())
    scores = {}
    for name, values in attributions.items():
        path, _, kind = name.rpartition(".")
        module = modules[path]
        transposed = isinstance(module, nn.ConvTranspose2d)
        convolution = transposed or isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        magnitudes = values.abs().mean(0)
        for place in torch.cartesian_prod(*map(torch.arange, magnitudes.shape)).reshape(
            -1, magnitudes.ndim
        ):
            place = tuple(place.tolist())
            if reducer == "layer":
                unit = path
            elif reducer == "scalar":
                unit = (name, *place)
            elif kind == "bias" or magnitudes.ndim < 2:
                continue
            elif reducer == "kernel":
                if not convolution:
                    continue
                unit = (name, place[0], place[1])
            else:
                out, inn = place[:2]  # the weight is (out, in / groups, ...)
                groups = module.groups if convolution else 1
                if transposed:  # the weight is (in, out / groups, ...)
                    inn, out = place[:2]
                    out += inn // (magnitudes.shape[0] // groups) * magnitudes.shape[1]
                elif convolution:
                    inn += out // (magnitudes.shape[0] // groups) * magnitudes.shape[1]
                unit = (name, out if reducer == "output_channel" else inn)
            scores[unit] = scores.get(unit, 0.0) + float(magnitudes[place])
    return scores


@pytest.mark.parametrize(
    "name", ["grouped", "depthwise", "transposed", "grouped_transposed", "group_norm", "linear"]
)
@pytest.mark.parametrize("reducer", REDUCER_NAMES)
def test_reducers_equal_explicit_loops(name, reducer):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    expected = explicit(exact(model, baseline, inputs, targets), model, reducer)
    faig = FAIG(model, baseline)
    if not expected:
        with pytest.raises(ValueError, match="leaves every parameter"):
            faig.score([(inputs, targets)], reducer=reducer, n_steps=NODES)
        return
    found = faig.score([(inputs, targets)], reducer=reducer, n_steps=NODES)
    units = [found.index[number] for number in range(len(found))]
    if reducer == "layer":
        assert [unit.name for unit in units] == list(expected)
    else:
        assert {(unit.name, *unit.position) for unit in units} == set(expected)
        names = [(unit.name, *unit.position) for unit in units]
        expected = {name: expected[name] for name in names}
    assert_close(found.values, list(expected.values()))


def test_a_users_attention_heads():
    model, inputs, targets = ZOO["attention"]()
    baseline = other_weights(model)
    heads, width = model.attention.num_heads, model.attention.embed_dim

    def head(name, parameter, module):
        """Take the rows of queries, keys and values that one head reads as a unit."""
        if not name.endswith("in_proj_weight"):
            return None
        one = torch.arange(heads).repeat_interleave(width // heads)
        return Units(name, (heads,), one.repeat(3)[:, None])

    found = FAIG(model, baseline).score([(inputs, targets)], reducer=head, n_steps=NODES)
    rows = exact(model, baseline, inputs, targets)["attention.in_proj_weight"].abs().mean(0).sum(1)
    # Queries are rows 0 to 3, keys 4 to 7, values 8 to 11; the first head has the first two each.
    expected = [
        float(rows[0] + rows[1] + rows[4] + rows[5] + rows[8] + rows[9]),
        float(rows[2] + rows[3] + rows[6] + rows[7] + rows[10] + rows[11]),
    ]
    assert_close(found.values, expected)
    assert found.index[1].position == (1,)


def test_a_users_units_that_weight_and_bias_share():
    model, inputs, targets = ZOO["linear"]()
    baseline = other_weights(model)

    def neuron(name, parameter, module):
        """Take a neuron with its bias as a unit."""
        count = parameter.shape[0]
        labels = torch.arange(count).reshape(-1, *[1] * (parameter.ndim - 1))
        return Units(name.rpartition(".")[0], (count,), labels)

    found = FAIG(model, baseline).score([(inputs, targets)], reducer=neuron, n_steps=NODES)
    parts = {n: v.abs().mean(0) for n, v in exact(model, baseline, inputs, targets).items()}
    expected = [
        *(parts["0.weight"].sum(1) + parts["0.bias"]).tolist(),
        *parts["2.weight"].sum(1).tolist(),
    ]
    assert_close(found.values, expected)


def test_a_users_units_that_leave_entries_out(small):
    model, baseline, inputs, targets = small

    def centre(name, parameter, module):
        """Take one entry of all the kernels of a layer as a unit."""
        if parameter.ndim < 4:
            return None
        labels = torch.full((1, 1, *parameter.shape[2:]), -1)
        labels[..., 1, 1] = 0
        return Units(name, (1,), labels)

    found = FAIG(model, baseline).score([(inputs, targets)], reducer=centre, n_steps=NODES)
    attributions = exact(model, baseline, inputs, targets)
    expected = [
        float(attributions[name][..., 1, 1].abs().mean(0).sum())
        for name in ("0.weight", "2.weight")
    ]
    assert_close(found.values, expected)


@pytest.mark.parametrize("name", ["tied", "used_twice", "tied_in_one_module"])
def test_tied_parameters_count_once(name):
    model, inputs, targets = ZOO[name]()
    baseline = other_weights(model)
    attributions = exact(model, baseline, inputs, targets)
    found = FAIG(model, baseline).score([(inputs, targets)], reducer="scalar", n_steps=NODES)
    assert len(found) == sum(parameter.numel() for parameter in model.parameters())
    expected = sum(float(value.abs().mean(0).sum()) for value in attributions.values())
    assert float(found.values.sum()) == pytest.approx(expected, rel=1e-9)


# Checkpoints


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("reducer", ["kernel", "scalar"])
def test_resumed_run_equals_the_unbroken_one_to_the_bit(small, tmp_path, after, reducer):
    model, baseline, inputs, targets = small
    parts = batches((inputs, targets), 2, 2, 1)
    options = {"reducer": reducer, "n_steps": NODES}
    file = tmp_path / "sums.safetensors"
    worked = []

    def counting(output, targets):
        worked.append(len(targets))
        return squared_error(output, targets)

    faig = FAIG(model, baseline, objective=counting)
    unbroken = FAIG(model, baseline).score(parts, **options)
    with pytest.raises(KeyboardInterrupt):
        faig.score(cut(parts, after), **options, checkpoint=file)
    worked.clear()
    resumed = faig.score(parts, **options, checkpoint=file)
    assert torch.equal(resumed.values, unbroken.values)
    sizes = [len(part[0]) for part in parts[after:]]
    # At both ends of the first batch, and at all of a later one before its first gradient.
    looked = 2 * sum(sizes[:1]) + sum(size for size in sizes[1:] if size > 1)
    assert sum(worked) == sum(sizes) * NODES + looked  # nothing that was done is done again
    worked.clear()
    again = faig.score(parts, **options, checkpoint=file)
    assert torch.equal(again.values, unbroken.values)
    assert not worked


def test_resuming_on_other_data_is_refused(small, tmp_path):
    model, baseline, inputs, targets = small
    parts = batches((inputs, targets), 2, 2, 1)
    file = tmp_path / "sums.safetensors"
    options = {"reducer": "kernel", "n_steps": NODES, "checkpoint": file}
    faig = FAIG(model, baseline)
    faig.score(parts, **options)
    other = [(batch + 1, target) for batch, target in parts]
    with pytest.raises(CheckpointError, match=r"made with other data.*same batches"):
        faig.score(other, **options)
    with pytest.raises(CheckpointError, match=r"holds 3 batches and the loader gave 2"):
        faig.score(parts[:2], **options)


def test_resuming_with_another_setting_of_an_objective_is_refused(small, tmp_path):
    model, baseline, inputs, targets = small

    def power(output, targets, exponent):
        return (output - targets).abs().pow(exponent).flatten(1).sum(1)

    file = tmp_path / "sums.safetensors"
    for exponent in (2, 3):
        faig = FAIG(model, baseline, objective=partial(power, exponent=exponent))
        run = partial(faig.score, [(inputs, targets)], reducer="kernel", n_steps=1, checkpoint=file)
        if exponent == 2:
            run()
        else:
            with pytest.raises(CheckpointError, match=r"objective differ"):
                run()


def square_model():
    """Give two layers of as many inputs as outputs, so that reducers have equally many units."""
    model, inputs, targets = ZOO["used_twice"]()
    return model, other_weights(model), [(inputs, targets)]


def absolute(output, targets):
    return (output - targets).abs().flatten(1).sum(1)


class Bowed:
    """A path whose ends are those of the straight line."""

    def __init__(self, target, baseline) -> None:
        self.start = {n: p.detach() for n, p in target.named_parameters()}
        self.end = {n: p.detach() for n, p in baseline.named_parameters()}

    def evaluate(self, alpha):
        return {n: s + alpha**2 * (self.end[n] - s) for n, s in self.start.items()}

    def derivative(self, alpha):
        return {n: 2 * alpha * (self.end[n] - s) for n, s in self.start.items()}


@pytest.mark.parametrize(
    "change",
    [
        "reducer",
        "n_steps",
        "method",
        "rule's weights",
        "baseline",
        "model",
        "objective",
        "parameters",
        "path",
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change):
    model, baseline, parts = square_model()
    rule = get_rule("gausslegendre", NODES)
    made = {"objective": squared_error}
    scored = {"reducer": "output_channel", "method": rule, "checkpoint": tmp_path / "sums"}
    FAIG(model, baseline, **made).score(parts, **scored)
    FAIG(copy.deepcopy(model), baseline.state_dict(), **made).score(parts, **scored)  # the same
    if change == "reducer":
        scored["reducer"] = "input_channel"  # as many units, of the same name
    elif change == "n_steps":
        scored["method"] = get_rule("gausslegendre", NODES + 1)
    elif change == "method":
        scored["method"] = get_rule("riemann_left", NODES)
    elif change == "rule's weights":
        scored["method"] = Rule(rule.name, rule.nodes, (0.25, 0.75), 0)
    elif change == "baseline":
        baseline = other_weights(model, seed=9)
    elif change == "model":
        model = other_weights(model, seed=9)
    elif change == "objective":
        made["objective"] = absolute
    elif change == "parameters":
        made["parameters"] = ["first.weight"]
    elif change == "path":
        made["path"] = Bowed(model, baseline)
    with pytest.raises(CheckpointError, match="other settings"):
        FAIG(model, baseline, **made).score(parts, **scored)
