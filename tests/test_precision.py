"""`dtype` and `device`: where and how the model computes, and what stays as it was."""

import copy
import warnings

import pytest
import torch
from torch import nn

from paramattr import FAIG, Adaptive, self_reference
from paramattr.errors import CheckpointError, ParamattrError
from paramattr.runtime.compute import Compute
from tests.models import ZOO, other_weights

pytestmark = pytest.mark.usefixtures("one_thread")


class Seen(nn.Module):
    """A convolution with a buffer that says what it computes in."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 3, padding=1)
        self.register_buffer("shift", torch.ones(1))
        self.register_buffer("count", torch.ones(1, dtype=torch.int64))
        self.seen = []

    def forward(self, x):
        found = self.layer(x)
        self.seen.append((x.dtype, self.layer.weight.dtype, self.shift.dtype, self.count.dtype))
        self.seen.append(found.dtype)
        return found + self.shift


@pytest.fixture
def pair():
    torch.manual_seed(0)
    target = Seen().eval()
    baseline = copy.deepcopy(target)
    with torch.no_grad():
        baseline.layer.weight.add_(0.3 * torch.randn_like(baseline.layer.weight))
    return target, baseline, torch.rand(4, 2, 6, 6), torch.rand(4, 3, 6, 6)


# Half precision is mixed: what is given stays float32, and the layer alone computes in half.
@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_the_model_computes_in_dtype_and_the_results_do_not(pair, dtype, given, own):
    target, baseline, x, y = (part.to(own) for part in pair)
    before = copy.deepcopy(target.state_dict())
    faig = FAIG(target, baseline, dtype=dtype)
    found = faig.attribute(x, y, n_steps=4)
    assert set(target.seen) >= {(given, given, given, torch.int64), dtype}
    several = faig.attribute(x, y, n_steps=4, per_sample=True, internal_batch_size=4)
    assert all(value.dtype is own for value in (*found.values(), *several.values()))
    for name, value in target.state_dict().items():
        assert value.dtype is before[name].dtype
        assert torch.equal(value, before[name])
    plain = FAIG(target, baseline).attribute(x, y, n_steps=4)
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float64 else {"rtol": 0.1, "atol": 0.05}
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, **near)
        torch.testing.assert_close(several[name].sum(0), value, **near)
        assert dtype is torch.float64 or not torch.equal(found[name], value) or not value.any()


def test_float64_shrinks_the_residual_of_a_float32_model(pair):
    target, baseline, x, y = pair
    deltas = [
        FAIG(target, baseline, dtype=dtype)
        .attribute(x, y, n_steps=4, return_convergence_delta=True)[1]
        .abs()
        for dtype in (torch.bfloat16, torch.float32, torch.float64)
    ]
    assert deltas[0] > deltas[1] > deltas[2]


def test_a_precision_that_is_too_narrow_warns_once(pair):
    target, baseline, x, y = pair
    with torch.no_grad():  # a change that bfloat16 cannot see
        baseline.layer.weight.copy_(target.layer.weight)
        baseline.layer.bias.copy_(target.layer.bias * 1.0002)
    faig = FAIG(target, baseline, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match=r"in torch.bfloat16 the objective of the first.*apart"):
        faig.attribute(x, y, n_steps=2)
    with pytest.warns(UserWarning, match="apart") as said:
        faig.score([(x[:2], y[:2]), (x[2:], y[2:])], reducer="kernel", n_steps=2)
    assert len(said) == 1
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="apart") as said:
        faig.attribute(x, y, n_steps=2)
    assert said[0].filename == __file__


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64, torch.bfloat16])
def test_no_warning_where_none_is_due(pair, dtype):
    target, baseline, x, y = pair
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FAIG(target, baseline, dtype=dtype).score([(x, y)], reducer="kernel", n_steps=2)
        faig = FAIG(target, baseline, objective=self_reference, dtype=dtype)
        faig.score([x], reducer="kernel", method=Adaptive(rtol=0.05))


@pytest.mark.parametrize("name", list(ZOO))
def test_every_model_takes_another_precision(name):
    model, inputs, targets = ZOO[name]()  # in float64
    faig = FAIG(model, other_weights(model, scale=0.1), dtype=torch.float32)
    found = faig.attribute(inputs, targets, n_steps=3)
    exact = FAIG(model, faig.baseline).attribute(inputs, targets, n_steps=3)
    for parameter, value in exact.items():
        assert found[parameter].dtype is value.dtype
        scale = value.abs().max()
        torch.testing.assert_close(found[parameter], value, rtol=1e-2, atol=float(1e-2 * scale))


def test_a_device_is_where_it_computes(pair):
    target, baseline, x, y = pair
    faig = FAIG(target, baseline, device="cpu")
    plain = FAIG(target, baseline).attribute(x, y, n_steps=2)
    for name, value in faig.attribute(x, y, n_steps=2).items():
        assert torch.equal(value, plain[name])
    faig.compute = Compute(device="meta")
    with pytest.raises(NotImplementedError, match="Meta tensors"):  # it has shapes alone
        faig.attribute(x, y, n_steps=2)
    assert {p.device.type for p in target.parameters()} == {"cpu"}


@pytest.mark.parametrize("method", ["gausslegendre", Adaptive(rtol=1e-3)])
@pytest.mark.parametrize("several", [{}, {"per_sample": True}, {"internal_batch_size": 1}])
def test_an_accelerator_computes_the_same_where_there_is_one(pair, method, several):
    target, baseline, x, y = pair
    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = {"n_steps": 3, "method": method, **several}
    plain = FAIG(target, baseline).attribute(x, y, **own)
    found = FAIG(target, baseline, device=device).attribute(x, y, **own)
    for name, value in plain.items():
        assert found[name].device.type == device
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-2, atol=1e-2)


def test_whole_numbers_in_the_output_stay_whole(pair):
    target, baseline, x, _ = pair

    def chosen(output, targets):
        values, places = output
        return values.flatten(1).gather(1, places).square().sum(1)

    class Choosing(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            values = self.inner(x)
            return values, values.flatten(1).topk(3).indices

    faig = FAIG(Choosing(target), Choosing(baseline), objective=chosen, dtype=torch.float64)
    assert faig.attribute(x, n_steps=2)["inner.layer.weight"].any()


class Output(dict):
    """What some models give: a dictionary that has a field of its own as well."""

    scale = 1.0


def test_an_output_stays_of_its_kind(pair):
    target, baseline, x, _ = pair

    class Giving(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            found = Output(values=self.inner(x))
            found.scale = 3.0
            return found

    def objective(output, targets):
        return output.scale * output["values"].square().flatten(1).sum(1)

    wide = FAIG(Giving(target), Giving(baseline), objective=objective, dtype=torch.float64)
    plain = FAIG(Giving(target), Giving(baseline), objective=objective)
    for name, value in plain.attribute(x, n_steps=2).items():
        torch.testing.assert_close(wide.attribute(x, n_steps=2)[name], value, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_another_precision_is_refused(pair, tmp_path):
    target, baseline, x, y = pair
    options = {"reducer": "kernel", "n_steps": 2, "checkpoint": tmp_path / "sums.safetensors"}
    FAIG(target, baseline, dtype=torch.float64).score([(x, y)], **options)
    with pytest.raises(CheckpointError, match="dtype"):
        FAIG(target, baseline).score([(x, y)], **options)


@pytest.mark.parametrize("dtype", [torch.int8, "bfloat16"])
def test_what_is_no_precision_is_refused(pair, dtype):
    with pytest.raises(ParamattrError, match=r"dtype is .*: expected a floating-point"):
        FAIG(*pair[:2], dtype=dtype)
