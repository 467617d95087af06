"""Wrapped models, new heads and half precisions: any pair goes in as it is."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.model_pairs import PAIRS, tokens, tuned
from paramattr import (
    FAIG,
    ParamattrError,
    UnitIndex,
    absolute_change,
    cross_entropy,
    fisher_times_change,
    gradient_times_change,
    next_token_cross_entropy,
    squared_error,
    substitute,
    substituted,
)
from paramattr.units.selection import Selection

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(transformers|peft|torch)"),
]


def plain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    batch = torch.randn(3, 3), torch.randn(3, 2)
    return tuned(model, scale=0.3), model, batch


def in_ddp(model):
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS = {"compile": torch.compile, "DataParallel": nn.DataParallel}


def everything(model):
    index = UnitIndex.of(model, "layer")
    return Selection(index, torch.ones(len(index), dtype=torch.bool))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("sides", [(1, 0), (0, 1), (1, 1)])
def test_a_wrapped_model_is_as_the_plain_one(wrapper, sides):
    target, baseline, (x, y) = plain()
    wrap = WRAPPERS[wrapper]
    pair = [wrap(m) if side else m for m, side in zip((target, baseline), sides, strict=True)]
    expected = FAIG(target, baseline).attribute(x, y, n_steps=4)
    found = FAIG(*pair).attribute(x, y, n_steps=4)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    selection = everything(pair[0])
    edited = substitute(*pair, selection)
    with torch.no_grad():
        assert torch.equal(edited(x), baseline(x))
        before = target(x)
        with substituted(*pair, selection):
            assert torch.equal(target(x), baseline(x))
        assert torch.equal(target(x), before)
    assert torch.equal(
        absolute_change(*pair, reducer="layer").values,
        absolute_change(target, baseline, reducer="layer").values,
    )


def test_ddp_is_taken_off(tmp_path):
    target, baseline, (x, y) = plain()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        found = FAIG(in_ddp(target), in_ddp(baseline)).attribute(x, y, n_steps=4)
    finally:
        torch.distributed.destroy_process_group()
    for name, value in FAIG(target, baseline).attribute(x, y, n_steps=4).items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_a_state_dict_of_a_wrapped_model(prefix):
    target, baseline, (x, y) = plain()
    state = {prefix + name: value for name, value in baseline.state_dict().items()}
    found = FAIG(target, state).attribute(x, y, n_steps=4)
    for name, value in FAIG(target, baseline).attribute(x, y, n_steps=4).items():
        assert torch.equal(found[name], value)


class Inner(nn.Module):
    """A model whose own names start as those of a wrapped one do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_a_state_dict_of_a_model_whose_names_start_like_a_wrapped_ones(wrap):
    torch.manual_seed(0)
    baseline = Inner().eval()
    target, x, y = tuned(baseline, scale=0.3), torch.randn(3, 3), torch.randn(3, 2)
    found = FAIG(target, wrap(baseline).state_dict()).attribute(x, y, n_steps=4)
    for name, value in FAIG(target, baseline).attribute(x, y, n_steps=4).items():
        assert torch.equal(found[name], value)
    edited = substitute(target, wrap(baseline).state_dict(), everything(target))
    assert torch.equal(edited(x), baseline(x))


KINDS_OF_HOOK = {
    "forward": lambda module: module.register_forward_hook(lambda _, inputs, output: output * 10),
    "forward pre": lambda module: module.register_forward_pre_hook(lambda _, inputs: inputs),
    "backward": lambda module: module.register_full_backward_hook(lambda _, into, out: None),
    "backward pre": lambda module: module.register_full_backward_pre_hook(lambda _, out: None),
}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", KINDS_OF_HOOK)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_hook_on_a_wrapper_is_not_lost(wrapper, kind, side):
    pair = list(plain()[:2])
    pair[side] = WRAPPERS[wrapper](pair[side])
    handle = KINDS_OF_HOOK[kind](pair[side])
    with pytest.raises(ParamattrError, match=r"has a hook of its own.*register it on the model"):
        FAIG(*pair)
    handle.remove()
    FAIG(*pair)


@pytest.mark.parametrize("inner", [False, True])
def test_a_hook_on_a_peft_model_is_not_lost(inner):
    torch.manual_seed(0)
    pair = PAIRS["LoRA against its base"]()
    wrapper = pair.target.base_model if inner else pair.target
    handle = wrapper.register_forward_hook(lambda _, inputs, output: output)
    with pytest.raises(ParamattrError, match=r"\((PeftModel|LoraModel)\w*\) has a hook of its own"):
        FAIG(pair.target, pair.baseline, objective=pair.objective)
    handle.remove()
    FAIG(pair.target, pair.baseline, objective=pair.objective)


def test_an_adapter_that_is_switched_off_is_not_merged():
    torch.manual_seed(0)
    pair = PAIRS["LoRA against its base"]()
    with (
        pair.target.disable_adapter(),
        pytest.raises(ParamattrError, match=r"switched off.*leave that context"),
    ):
        FAIG(pair.target, pair.baseline, objective=pair.objective)
    FAIG(pair.target, pair.baseline, objective=pair.objective)


def test_a_model_of_torch_jit_is_refused_with_the_way_out():
    target, baseline, (x, y) = plain()
    for pair in (
        (torch.jit.script(target), baseline),
        (torch.jit.trace(target, x), baseline),
        (target, torch.jit.script(baseline)),
    ):
        with pytest.raises(ParamattrError, match=r"is compiled by torch.jit.*state_dict"):
            FAIG(*pair)
    with pytest.raises(ParamattrError, match=r"is compiled by torch.jit"):
        UnitIndex.of(torch.jit.script(target), "layer")
    found = FAIG(target, torch.jit.script(baseline).state_dict()).attribute(x, y, n_steps=2)
    for name, value in FAIG(target, baseline).attribute(x, y, n_steps=2).items():
        assert torch.equal(found[name], value)


def test_lora_against_its_base_is_attributed_in_the_merged_weight():
    torch.manual_seed(0)
    pair = PAIRS["LoRA against its base"]()
    before = {name: value.clone() for name, value in pair.target.state_dict().items()}
    merged = copy.deepcopy(pair.target).merge_and_unload()
    expected = FAIG(merged, pair.baseline, objective=pair.objective).attribute(pair.batch)
    found = FAIG(pair.target, pair.baseline, objective=pair.objective).attribute(pair.batch)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    for name, value in pair.target.state_dict().items():
        assert torch.equal(value, before[name])


def test_two_models_with_adapters_are_attributed_in_their_factors():
    torch.manual_seed(0)
    pair = PAIRS["LoRA against its base"]()
    off = copy.deepcopy(pair.target)
    with torch.no_grad():
        for name, parameter in off.named_parameters():
            if "lora_" in name:
                parameter.zero_()
    found, delta = FAIG(pair.target, off, objective=next_token_cross_entropy).attribute(
        pair.batch, return_convergence_delta=True
    )
    changed = [name for name, value in found.items() if value.any()]
    assert changed
    assert all("lora_" in name for name in changed)
    assert abs(float(delta)) < 1e-4


def headed(classes):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    torch.manual_seed(classes)
    return nn.Sequential(body, nn.Linear(4, classes)).eval()


def test_a_new_head_stays_the_targets():
    target, baseline = tuned(headed(3), scale=0.3), headed(2)
    x, classes = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    with pytest.raises(ParamattrError, match=r"shape \(3, 4\) in the model.*strict=False"):
        FAIG(target, baseline)
    with pytest.warns(UserWarning, match=r"'1.weight', '1.bias' of the target.*not attributed"):
        faig = FAIG(target, baseline, objective=cross_entropy, strict=False)
    found = faig.attribute(x, classes)
    assert not found["1.weight"].any()
    reference = copy.deepcopy(target)
    reference[0].load_state_dict(baseline[0].state_dict())
    with torch.no_grad():
        change = cross_entropy(reference(x), classes) - cross_entropy(target(x), classes)
    total = sum(value.double().sum() for value in found.values())
    torch.testing.assert_close(total, change.double().sum(), rtol=1e-4, atol=1e-6)
    edited = substitute(target, baseline, everything(target), strict=False)
    with torch.no_grad():
        assert torch.equal(edited(x), reference(x))


def normed(classes):
    model = headed(classes)
    model[1] = nn.Sequential(model[1], nn.BatchNorm1d(classes))
    torch.manual_seed(classes)
    model[1][1].running_mean.normal_()
    return model.eval()


@pytest.mark.parametrize("as_state", [False, True])
def test_a_new_heads_statistics_stay_the_targets(as_state):
    target, baseline = tuned(normed(3), scale=0.3), normed(2)
    x, classes = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    given = baseline.state_dict() if as_state else baseline
    with pytest.raises(ParamattrError, match=r"shape \(3, 4\) in the model.*strict=False"):
        FAIG(target, given)
    with pytest.warns(UserWarning, match=r"'1.1.running_mean', '1.1.running_var' of the target"):
        faig = FAIG(target, given, objective=cross_entropy, strict=False)
    found, delta = faig.attribute(x, classes, return_convergence_delta=True)
    assert not any("running" in name for name in found)
    assert abs(float(delta)) < 1e-4
    edited = substitute(target, given, everything(target), strict=False)
    assert torch.equal(edited[1][1].running_mean, target[1][1].running_mean)
    assert torch.equal(edited[0](x), baseline[0](x))


def test_statistics_of_another_shape_are_an_error_that_names_the_way_out():
    target, baseline = normed(3), normed(3)
    baseline[1][1] = nn.BatchNorm1d(3)
    baseline[1][1].running_mean = torch.zeros(2)
    with pytest.raises(ParamattrError, match=r"buffer '1.1.running_mean'.*strict=False"):
        FAIG(tuned(target), baseline.eval())


@pytest.mark.filterwarnings("ignore:.*of the target are missing.*")
def test_every_method_takes_a_new_head():
    target, baseline = tuned(headed(3), scale=0.3), headed(2)
    data = [(torch.randn(4, 3), torch.tensor([0, 1, 2, 2]))]
    options = {"reducer": "layer", "objective": cross_entropy, "strict": False}
    for method in (gradient_times_change, fisher_times_change):
        scores = method(target, baseline, data, **options)
        assert scores.by_layer()["1"] == 0 < scores.by_layer()["0.0"]
    change = absolute_change(target, baseline, reducer="layer", strict=False)
    assert change.by_layer()["1"] == 0 < change.by_layer()["0.0"]


def test_what_the_baseline_has_more_is_said():
    target, baseline, (x, y) = plain()
    state = {**baseline.state_dict(), "projection.weight": torch.ones(1)}
    with pytest.raises(ParamattrError, match=r"'projection.weight'.* missing in the model"):
        FAIG(target, state)
    with pytest.warns(UserWarning, match=r"'projection.weight' of the baseline are missing"):
        FAIG(target, state, strict=False).attribute(x, y)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [0.05, 0.005])
def test_half_precision_weights_have_a_delta_that_is_right(dtype, scale):
    """Also where the change is tiny: in half precision the path would not see it."""
    torch.manual_seed(0)
    baseline = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype).eval()
    target = tuned(baseline, scale=scale)
    x, y = torch.randn(3, 8).to(dtype), torch.randn(3, 4).to(dtype)
    found, delta = FAIG(target, baseline).attribute(x, y, return_convergence_delta=True)
    assert {value.dtype for value in found.values()} == {torch.float32}
    total = sum(value.double().sum() for value in found.values())
    wide = [copy.deepcopy(model).double() for model in (target, baseline)]
    exact = FAIG(*wide).attribute(x.double(), y.double())
    expected = sum(value.sum() for value in exact.values())
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)
    assert abs(float(delta)) < 1e-3 * abs(float(total))
    assert {parameter.dtype for parameter in target.parameters()} == {dtype}


def test_float32_on_a_half_model_is_the_default_and_draws_no_warning():
    torch.manual_seed(0)
    baseline = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).bfloat16().eval()
    target = tuned(baseline, scale=0.01)
    x, y = torch.randn(3, 8), torch.randn(3, 4)
    scores = [
        FAIG(target, baseline, dtype=dtype).score([(x, y)], reducer="layer", n_steps=2).values
        for dtype in (None, torch.float32)
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize("wide", [0, 1])
def test_a_pair_of_two_precisions_is_compared(wide):
    target, baseline, (x, y) = plain()
    expected = FAIG(target, baseline).attribute(x, y, n_steps=4)
    (target, baseline)[wide].double()
    x, y = (t if wide else t.double() for t in (x, y))
    found = FAIG(target, baseline).attribute(x, y, n_steps=4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].float(), value, rtol=1e-4, atol=1e-6)
    FAIG(target, baseline).score([(x, y)], reducer="layer")


def test_a_loader_of_half_inputs_for_a_half_model():
    torch.manual_seed(0)
    pair = PAIRS["bfloat16"]()
    scores = FAIG(pair.target, pair.baseline, objective=pair.objective).score(
        [tokens()], reducer="layer", n_steps=2
    )
    assert (scores.values > 0).any()
    images = torch.randn(2, 3).half()
    model = nn.Linear(3, 2).half().eval()
    FAIG(tuned(model), model, objective=squared_error).score(
        [(images, torch.zeros(2, 2).half())], reducer="layer", n_steps=2
    )
