"""A selection in other tools' forms, each read back by the other tool."""

import copy
import warnings

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

from paramattr import ParamattrError, UnitIndex, save_state_dict, substitute
from paramattr.commands.apply import Config, run
from paramattr.surgery.export import (
    lora_config,
    masks,
    pruning_masks,
    shira_config,
    task_adapter,
    task_vector,
    train_only_selected,
)
from tests.folders import gpt2, saved, some, transformers
from tests.tiny import SMALL, convnet, selections_of, tied

peft = pytest.importorskip("peft")
peft_utils = pytest.importorskip("peft.utils.merge_utils")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*lie in no layer that .* knows"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set"),
]


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return model(input_ids=torch.randint(4, 28, (4, 6), generator=draw)).logits


def weights(masked: dict) -> int:
    return sum(int(mask.sum()) for name, mask in masked.items() if name.endswith("weight"))


@given(selections_of(SMALL))
def test_masks_are_those_of_the_selection(selection):
    found = masks(selection)
    assert found.keys() == SMALL.shapes.keys() | SMALL.buffers.keys()
    assert all(torch.equal(mask, selection.mask(name)) for name, mask in found.items())


def test_safetensors_reads_the_boolean_state_dict(tuned, tmp_path):
    selection = some(tuned, "attention_head", 1, 6)
    save_state_dict(tmp_path / "masks.safetensors", masks(selection))
    read = load_file(tmp_path / "masks.safetensors")
    state = tuned.state_dict()
    assert read.keys() == state.keys()
    assert all(mask.dtype == torch.bool for mask in read.values())
    assert all(mask.shape == state[name].shape for name, mask in read.items())
    assert sum(int(mask.sum()) for mask in read.values()) == 536  # 2 (3 (4 x 16 + 4) + 16 x 4)


def test_torch_prunes_the_selected_entries(tuned):
    selection = some(tuned, "neuron", 0, 5, 47)
    pruned = copy.deepcopy(tuned)
    for module, name, mask in pruning_masks(pruned, selection):
        prune.custom_from_mask(module, name, mask)
    zeros = {n: torch.zeros_like(v) for n, v in tuned.state_dict().items()}
    assert torch.equal(logits(pruned), logits(substitute(tuned, zeros, selection)))
    sparse = sum(
        int((~mask.bool()).sum())
        for _, mask in pruned.named_buffers(recurse=True)
        if mask.dim() and mask.shape != (1, 32)
    )
    assert sparse == 3 * (16 + 1 + 16)
    for module, name, _ in pruning_masks(tuned, selection):
        assert not prune.is_pruned(module), name


def test_a_tied_weight_is_pruned_in_both_of_its_modules():
    model = tied()
    numbers = {unit.name: n for n, unit in enumerate(UnitIndex.of(model, "layer"))}
    found = pruning_masks(model, some(model, "layer", numbers["first"]))
    modules = [module for module, name, _ in found if name == "weight"]
    assert model.first in modules
    assert model.second in modules
    for module, name, mask in found:
        prune.custom_from_mask(module, name, mask)
    assert not model.first.weight.any()
    assert not model.second.weight.any()


def test_lora_is_put_where_the_units_are(base, tuned):
    selection = some(tuned, "attention_head", 1, 4, 5, 6)  # one head of block 0, three of block 1
    config = lora_config(tuned, selection, task_type="SEQ_CLS", scaling=2.0)
    adapted = peft.get_peft_model(copy.deepcopy(tuned), config)
    ranks = {
        name: layer.r["default"]
        for name, layer in adapted.get_base_model().named_modules()
        if hasattr(layer, "lora_A")
    }
    # 64 and 192 of 256 entries selected, 16 + 16 numbers per rank
    names = [
        f"attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")
    ]
    expected = {
        f"bert.encoder.layer.{n}.{name}": rank for n, rank in ((0, 2), (1, 6)) for name in names
    }
    assert ranks == expected
    scalings = {layer.scaling["default"] for layer in adapted.modules() if hasattr(layer, "lora_A")}
    assert scalings == {2.0}
    lora = [p for n, p in adapted.named_parameters() if "lora_" in n and p.requires_grad]
    assert sum(p.numel() for p in lora) == 1024  # as many as are selected: 4 x 256
    assert torch.equal(logits(adapted.eval()), logits(tuned))


def test_lora_knows_convolutions_embeddings_and_conv1d():
    model = gpt2()
    config = lora_config(model, some(model, "layer", *range(len(UnitIndex.of(model, "layer")))))
    adapted = peft.get_peft_model(model, config)
    adapted = {type(layer).__name__ for layer in adapted.modules() if hasattr(layer, "lora_A")}
    assert adapted == {"Linear", "Embedding"}
    model = convnet()
    config = lora_config(model, some(model, "kernel", 0, 1, 7))
    assert config.target_modules == {"head", "tail"}
    layers = peft.get_peft_model(model, config)
    assert {layer.r["default"] for layer in layers.modules() if hasattr(layer, "lora_A")} == {1}


def test_names_that_are_endings_of_others_are_told_apart():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    config = lora_config(model, some(model, "output_channel", 0))
    adapted = peft.get_peft_model(model, config)
    assert [n for n, m in adapted.named_modules() if hasattr(m, "lora_A")] == ["base_model.model.0"]


def test_shira_trains_the_selected_entries_and_no_other(tuned, tmp_path):
    selection = some(tuned, "attention_head", 1, 6)
    model = copy.deepcopy(tuned)
    config = shira_config(model, selection)
    adapted = peft.get_peft_model(model, config)
    assert torch.equal(logits(adapted.eval()), logits(tuned))
    assert adapted.get_nb_trainable_parameters()[0] == 8 * 2 * (16 + 16)
    assert train_only_selected(adapted, selection) == weights(masks(selection)) == 512
    _train(adapted)
    merged = adapted.merge_and_unload()
    moved = 0
    for name, before in tuned.state_dict().items():
        changed = merged.state_dict()[name] != before
        assert not bool((changed & ~selection.mask(name)).any()), name
        moved += int(changed.sum())
    assert 500 < moved <= 512


def test_shira_fills_up_what_peft_wants_and_keeps_it_at_zero(tuned, tmp_path):
    selection = some(tuned, "neuron", 0, 5)  # 32 of 24 x 16 entries; r = 1 wants 40
    model = copy.deepcopy(tuned)
    adapted = peft.get_peft_model(model, shira_config(model, selection))
    assert adapted.get_nb_trainable_parameters()[0] == 2 * 40
    assert train_only_selected(adapted, selection) == 2 * 32
    _train(adapted)
    expected = logits(adapted.eval())
    adapted.save_pretrained(tmp_path / "adapter")
    read = peft.PeftModel.from_pretrained(copy.deepcopy(tuned), tmp_path / "adapter")
    assert torch.equal(logits(read.eval()), expected)
    assert not torch.equal(expected, logits(tuned))
    state = read.merge_and_unload().state_dict()
    for name, before in tuned.state_dict().items():
        assert torch.equal(state[name][~selection.mask(name)], before[~selection.mask(name)])


def test_what_finds_no_place_in_shira_is_said(tuned):
    whole = some(tuned, "layer", *range(len(UnitIndex.of(tuned, "layer"))))
    model = copy.deepcopy(tuned)
    with pytest.warns(UserWarning, match="find no place in SHiRA's r = 8") as caught:
        config = shira_config(model, whole)
    assert any("lie in no layer that SHiRA knows" in str(one.message) for one in caught)
    adapted = peft.get_peft_model(model, config)
    # 16 x 16 is 8 times 32, 24 x 16 at most 9 times 40, and the head of 2 x 16 at most once 18.
    assert adapted.get_nb_trainable_parameters()[0] == 9 * 8 * 32 + 4 * 8 * 40
    assert train_only_selected(adapted, whole) == 9 * 8 * 32 + 4 * 8 * 40


def test_a_task_vector_is_the_change_and_is_added_and_negated(base, tuned, tmp_path):
    selection = some(tuned, "neuron", *range(0, 48, 2))
    save_state_dict(tmp_path / "change.safetensors", task_vector(tuned, base, selection))
    change = load_file(tmp_path / "change.safetensors")
    assert len(change) == 2 * 3
    assert sum(int((value != 0).sum()) for value in change.values()) == 24 * (16 + 1 + 16)
    state, other = tuned.state_dict(), base.state_dict()
    added = {n: v + change[n] if n in change else v for n, v in other.items()}
    taken = {}
    for name, value in state.items():  # PEFT's own task arithmetic: Σ weight · vector
        vectors = [value, change[name]] if name in change else [value]
        weights = torch.tensor([1.0, -1.0][: len(vectors)])
        taken[name] = peft_utils.task_arithmetic(vectors, weights)
    undone = substitute(tuned, base, selection).state_dict()
    for name in state:
        mask = selection.mask(name)
        torch.testing.assert_close(taken[name], undone[name])
        assert torch.equal(taken[name][~mask], state[name][~mask])
        torch.testing.assert_close(added[name][mask], state[name][mask])
        assert torch.equal(added[name][~mask], other[name][~mask])


def test_an_adapter_of_the_change_is_read_added_and_negated_by_peft(base, tuned, tmp_path):
    selection = some(tuned, "attention_head", 6) | some(tuned, "attention_head", 1)
    adapter = task_adapter(tuned, base, selection)
    adapter.save_pretrained(tmp_path / "adapter")
    read = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").eval()
    matrices = {
        name: value
        for name, value in tuned.state_dict().items()
        if ".attention." in name and value.dim() == 2
    }
    expected = copy.deepcopy(base)
    state = expected.state_dict()
    for name, value in matrices.items():
        state[name][selection.mask(name)] = value[selection.mask(name)]
    expected.load_state_dict(state)
    torch.testing.assert_close(logits(read), logits(expected))
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(v.numel() for n, v in stored.items() if n.endswith("shira_weight")) == 512
    on_tuned = peft.PeftModel.from_pretrained(copy.deepcopy(tuned), tmp_path / "adapter")
    for layer in on_tuned.modules():
        if hasattr(layer, "shira_weight"):
            layer.set_scale("default", -1.0)
    merged = on_tuned.merge_and_unload().state_dict()
    undone = substitute(tuned, base, selection).state_dict()
    for name in matrices:
        torch.testing.assert_close(merged[name], undone[name])


@pytest.mark.filterwarnings("default")
def test_mergekit_adds_and_negates_the_folders_of_apply(tmp_path):
    config = pytest.importorskip("mergekit.config")
    merge = pytest.importorskip("mergekit.merge")
    base = gpt2()
    tuned = copy.deepcopy(base)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    selection = some(tuned, "neuron", *range(0, 128, 3))
    one, two = saved(base, tmp_path / "base"), saved(tuned, tmp_path / "tuned")
    selection.save(tmp_path / "found")
    run(Config(one, tmp_path / "found", tmp_path / "part", 0.0, two))  # the two are exchanged
    rest = substitute(tuned, base, selection)
    for models, expected in (
        ({"part": 1.0}, substitute(base, tuned, selection)),
        ({"tuned": 1.0, "part": -1.0}, rest),
    ):
        given = {
            "merge_method": "task_arithmetic",
            "base_model": str(one),
            "dtype": "float32",
            "parameters": {"normalize": False},
            "models": [
                {"model": str(tmp_path / name), "parameters": {"weight": weight}}
                for name, weight in models.items()
            ],
        }
        out = tmp_path / "-".join(models)
        wanted = config.MergeConfiguration.model_validate(given)
        merge.run_merge(wanted, f"{out}-merged", options=merge.MergeOptions(copy_tokenizer=False))
        read = transformers.GPT2LMHeadModel.from_pretrained(f"{out}-merged").eval()
        torch.testing.assert_close(logits(read), logits(expected))
        assert not torch.allclose(logits(read), logits(tuned), atol=1e-3)


def test_mistakes_are_named(base, tuned):
    heads = some(tuned, "attention_head", 1)
    none = some(tuned, "attention_head")
    other = some(gpt2(), "layer", 0)
    for call in (lora_config, shira_config, pruning_masks):
        with pytest.raises(ParamattrError, match="select"):
            call(tuned, none)
        with pytest.raises(ParamattrError, match="is of another model"):
            call(tuned, other)
    with pytest.raises(ParamattrError, match="the selection is empty"):
        task_vector(tuned, base, none)
    with pytest.raises(ParamattrError, match="is of another model"):
        task_vector(tuned, base, other)
    with pytest.raises(ParamattrError, match="scaling is 0: expected a number above 0"):
        lora_config(tuned, heads, scaling=0)
    with pytest.raises(ParamattrError, match="has no SHiRA adapter"):
        train_only_selected(tuned, heads)
    with pytest.raises(ParamattrError, match="the very model that shira_config was given"):
        peft.get_peft_model(copy.deepcopy(tuned), shira_config(copy.deepcopy(tuned), heads))
    with pytest.raises(ParamattrError, match="no layer that SHiRA knows"):
        shira_config(convnet(), some(convnet(), "kernel", 0))
    small = nn.Linear(1, 3)
    with pytest.raises(ParamattrError, match="too small for SHiRA"):
        shira_config(small, some(small, "scalar", 0))


def test_what_lies_elsewhere_is_warned_of(tuned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            UserWarning, match="12 of 268 selected entries lie in no layer that LoRA"
        ):
            lora_config(tuned, some(tuned, "attention_head", 1))


def _train(adapted: nn.Module) -> None:
    moving = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=0.1, weight_decay=0.1)
    draw = torch.Generator().manual_seed(4)
    for _ in range(3):
        optimiser.zero_grad()
        tokens = torch.randint(4, 28, (8, 6), generator=draw)
        nn.functional.cross_entropy(adapted(input_ids=tokens).logits, tokens[:, 0] % 2).backward()
        optimiser.step()
