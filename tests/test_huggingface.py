"""Folders of Hugging Face: whole, sharded, adapters merged and in factors, and what is refused."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paramattr import FAIG, ParamattrError, cross_entropy, substitute
from paramattr.huggingface import load_pair, read_pair
from paramattr.parameters import named_parameters
from tests.folders import bert, save_tokenizer, saved, transformers, with_head

peft = pytest.importorskip("peft")
LAYERS = ("0.attention.self.query", "1.attention.self.value")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    return saved(base, folder / "base"), saved(with_head(base, 1, 2), folder / "tuned")


@pytest.fixture(scope="module")
def adapter(base, folders, tmp_path_factory):
    """LoRA on two chosen layers of the base."""
    model = peft.get_peft_model(
        transformers.BertForSequenceClassification.from_pretrained(folders[0]),
        peft.LoraConfig(r=2, target_modules=r".*\.(" + "|".join(LAYERS) + ")"),
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(folders[0].parent / "adapter")
    return folders[0].parent / "adapter", model.eval()


def changed(pair) -> set[str]:
    other = dict(pair[1].named_parameters())
    return {n for n, p in pair[0].named_parameters() if not torch.equal(p, other[n])}


def tokens() -> dict:
    draw = torch.Generator().manual_seed(3)
    return {"input_ids": torch.randint(4, 28, (4, 6), generator=draw)}


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(**tokens()).logits


def test_two_folders_are_read_as_they_were_saved(base, folders):
    target, baseline, tokenizer = load_pair(*folders)
    assert not target.training
    assert not baseline.training
    assert torch.equal(logits(baseline), logits(base))
    assert not torch.equal(logits(target), logits(base))
    assert tokenizer("word0 word1")["input_ids"] == [4, 5]
    scores = FAIG(target, baseline, objective=cross_entropy).score(
        [(tokens(), torch.zeros(4, dtype=torch.long))], reducer="attention_head"
    )
    (unit,) = scores.top(count=1)
    assert unit == ("bert.encoder.layer.1.attention", (2,))


def test_shards_and_bins_are_the_same_as_one_file(base, folders, tmp_path):
    target, _, _ = load_pair(*folders)
    sharded = saved(target, tmp_path / "sharded", max_shard_size="8KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    binary = saved(target, tmp_path / "binary")
    (binary / "model.safetensors").unlink()
    torch.save(target.state_dict(), binary / "pytorch_model.bin")
    for folder in (sharded, binary):
        assert torch.equal(logits(load_pair(folders[0], folder)[0]), logits(target))


def test_code_in_a_bin_file_is_not_run(folders, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    binary = saved(load_pair(*folders)[0], tmp_path / "binary")
    (binary / "model.safetensors").unlink()
    with (binary / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Trap()}, file)
    with pytest.raises(ParamattrError, match="cannot be read"):
        load_pair(folders[0], binary)


def test_a_merged_adapter_changes_the_weights_it_was_put_on(base, folders, adapter):
    folder, model = adapter
    pair = load_pair(folders[0], folder)
    assert changed(pair) == {f"bert.encoder.layer.{layer}.weight" for layer in LAYERS}
    torch.testing.assert_close(logits(pair[0]), logits(model))
    assert torch.equal(logits(pair[1]), logits(base))
    assert pair[2] is not None


def test_factors_go_to_zero_and_the_base_stays(base, folders, adapter):
    folder, model = adapter
    pair = load_pair(folders[0], folder, adapter="factors")
    assert {name.split("lora_")[0] for name in changed(pair)} == {
        f"bert.encoder.layer.{layer}." for layer in LAYERS
    }
    assert all("lora_" in name for name in changed(pair))
    torch.testing.assert_close(logits(pair[0]), logits(model))
    torch.testing.assert_close(logits(pair[1]), logits(base))
    assert not any(p.any() for n, p in pair[1].named_parameters() if "lora_" in n)


@pytest.mark.parametrize("how", ["merged", "factors"])
def test_both_ways_of_an_adapter_are_complete(folders, adapter, how):
    target, baseline, _ = load_pair(folders[0], adapter[0], adapter=how)
    faig = FAIG(target, baseline, objective=cross_entropy)
    batch = tokens(), torch.tensor([0, 1, 0, 1])
    found, delta = faig.attribute(*batch, return_convergence_delta=True)
    assert abs(float(delta)) < 1e-3 * sum(float(a.abs().sum()) for a in found.values())
    reducer = "rank_component" if how == "factors" else "layer"
    scores = faig.score([batch], reducer=reducer)
    layers = {name for name, value in scores.by_layer().items() if value}
    assert layers == {f"bert.encoder.layer.{layer}" for layer in LAYERS}
    everything = scores.top(fraction=1.0, warn=False)
    torch.testing.assert_close(logits(substitute(target, baseline, everything)), logits(baseline))


def test_an_adapter_with_a_head_of_its_own(folders, tmp_path, base):
    plain = transformers.BertModel.from_pretrained(folders[0])
    bare = saved(plain, tmp_path / "bare")
    model = peft.get_peft_model(
        transformers.BertForSequenceClassification.from_pretrained(bare, num_labels=3),
        peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.5)
    model.save_pretrained(tmp_path / "adapter")
    for how in ("merged", "factors"):
        pair = read_pair(bare, tmp_path / "adapter", adapter=how)
        assert pair.kept == ("classifier.weight", "classifier.bias")
        torch.testing.assert_close(logits(pair.target), logits(model.eval()))
        assert not any("classifier" in name for name in changed((pair.target, pair.baseline)))


def test_a_new_head_stays_the_targets_and_is_named(folders, tmp_path, base):
    bare = saved(transformers.BertModel.from_pretrained(folders[0]), tmp_path / "bare")
    with pytest.warns(UserWarning, match=r"'classifier.weight', 'classifier.bias' of .*tuned"):
        target, baseline, _ = load_pair(bare, folders[1])
    assert torch.equal(target.classifier.weight, baseline.classifier.weight)
    assert changed((target, baseline))


def test_half_precision_is_read_exactly_and_computed_in_float32(base, tmp_path, folders):
    half = saved(copy.deepcopy(base).to(torch.bfloat16), tmp_path / "half")
    target, _, _ = load_pair(folders[0], half)
    assert {parameter.dtype for parameter in target.parameters()} == {torch.float32}
    weight = base.classifier.weight
    assert torch.equal(target.classifier.weight, weight.to(torch.bfloat16).float())


def test_another_tied_head_is_no_new_one(tmp_path):
    from tests.folders import gpt2

    model = gpt2()
    one = saved(model, tmp_path / "one")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.add_(0.1)
    pair = read_pair(one, saved(model, tmp_path / "two"))
    assert pair.kept == pair.dropped == ()


def test_what_the_tuned_class_does_not_take_is_said(folders, tmp_path, base):
    more = saved(base, tmp_path / "more")
    tensors = load_file(more / "model.safetensors")
    save_file(
        {**tensors, "gate.weight": torch.ones(2)}, more / "model.safetensors", {"format": "pt"}
    )
    assert read_pair(folders[0], more).ignored == ("gate.weight",)
    with pytest.warns(UserWarning, match=r"'gate.weight' of .*more have no place"):
        load_pair(folders[0], more)
    assert read_pair(*folders).ignored == ()


def test_mistakes_are_named(folders, adapter, tmp_path, base):
    def refused(match, *paths, **options):
        with pytest.raises(ParamattrError, match=match):
            load_pair(*paths, **options)

    empty = tmp_path / "empty"
    empty.mkdir()
    refused("is not there: expected a local folder", "bert-base-uncased", folders[1])
    refused("holds no config.json", folders[0], empty)
    (empty / "config.json").write_text(json.dumps({"architectures": ["Ours"]}))
    refused("holds no weights", folders[0], empty)
    (empty / "model.safetensors").write_bytes(b"")
    refused("holds an Ours, which transformers", folders[0], empty)
    refused("expected 'merged' or 'factors'", *folders, adapter="both")
    broken = saved(base, tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused("broken cannot be read as BertForSequenceClassification", broken, folders[1])
    wider = saved(bert(hidden_size=32), tmp_path / "wider")
    refused("the adapter .* does not fit the base", wider, adapter[0])
    shallow = saved(bert(num_hidden_layers=1), tmp_path / "shallow")
    refused("the adapter .* does not fit the base", shallow, adapter[0])
    save_tokenizer(tmp_path / "gpt2")
    from tests.folders import gpt2

    refused("no parameter in common", saved(gpt2(), tmp_path / "gpt2"), folders[1])


def test_another_base_of_the_same_shapes_is_warned_of(adapter, tmp_path):
    other = saved(bert(), tmp_path / "other")
    with pytest.warns(UserWarning, match="names 'base' as its base"):
        load_pair(other, adapter[0])


def test_quantised_weights_of_torchao_are_frozen():
    class Int8Tensor(torch.Tensor):  # as torchao's: it calls itself a float
        __module__ = "torchao.quantization"

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight = nn.Parameter(torch.ones(2, 2).as_subclass(Int8Tensor), requires_grad=False)
    assert list(named_parameters(model)) == ["0.bias", "1.weight", "1.bias"]


def test_an_adapter_is_not_merged_into_a_quantised_base(folders, adapter, tmp_path):
    quantised = tmp_path / "quantised"
    shutil.copytree(folders[0], quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "torchao"}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParamattrError, match=r"is quantised.*take adapter='factors'"):
        load_pair(quantised, adapter[0])
