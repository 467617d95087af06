"""`paramattr apply`: the edited folder against `modulate`, and against the folder it is of."""

import copy
import json
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paramattr import ParamattrError, Selection, UnitIndex, modulate
from paramattr.commands.apply import Config, run
from paramattr.huggingface import read_pair
from tests.command_line import answer, call, refusal
from tests.folders import bert, gpt2, saved, transformers
from tests.folders import some as selected

peft = pytest.importorskip("peft")


def some(model, reducer: str = "attention_head", *numbers: int) -> Selection:
    """Select units: the second and the last but one, where none is named."""
    return selected(model, reducer, *(numbers or (1, -2)))


@pytest.fixture(scope="module")
def place(base, tuned, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("apply")
    saved(base, place / "base")
    saved(tuned, place / "tuned")
    saved(tuned, place / "sharded", max_shard_size="8KB")
    binary = saved(tuned, place / "binary")
    (binary / "model.safetensors").unlink()
    torch.save(tuned.state_dict(), binary / "pytorch_model.bin")
    some(tuned).save(place / "heads.safetensors")
    return place


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    for file in folder.glob("*.bin"):
        found |= torch.load(file, weights_only=True)
    return found


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one.view(torch.uint8), two.view(torch.uint8))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, -1.0, 2.5])
@pytest.mark.parametrize("folder", ["tuned", "sharded", "binary"])
def test_the_folder_is_modulate_s_model_and_the_rest_is_its_own(
    base, tuned, place, tmp_path, folder, strength
):
    found = run(
        Config(
            place / folder, place / "heads.safetensors", tmp_path / "out", strength, place / "base"
        )
    )
    expected = modulate(tuned, base, some(tuned), strength).state_dict()
    written, before = tensors(tmp_path / "out"), tensors(place / folder)
    assert written.keys() == before.keys()
    assert all(same_bits(written[name], expected[name]) for name in written)
    masks = {name: some(tuned).mask(name) for name in written}
    assert all(same_bits(written[n][~m], before[n][~m]) for n, m in masks.items())
    assert found.entries == sum(int(mask.sum()) for mask in masks.values()) == 536
    assert found.all_entries == sum(value.numel() for value in before.values())
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(path.name for path in (place / folder).iterdir())
    for file in (place / folder).iterdir():
        if file.suffix not in (".safetensors", ".bin") or strength == 1:
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    if strength != 1:
        assert any(not torch.equal(written[n], before[n]) for n in written)
    assert not list(tmp_path.glob(".*"))


def test_only_the_bytes_of_selected_entries_differ_in_a_file(place, tmp_path):
    run(Config(place / "tuned", place / "heads.safetensors", tmp_path / "out", 0, place / "base"))
    one, two = ((f / "model.safetensors").read_bytes() for f in (place / "tuned", tmp_path / "out"))
    assert len(one) == len(two)
    differ = sum(one[n : n + 4] != two[n : n + 4] for n in range(len(one) % 4, len(one), 4))
    assert 0 < differ <= 536


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precisions_stay_and_are_rounded_once(base, tuned, place, tmp_path, dtype):
    folder = saved(copy.deepcopy(tuned).to(dtype), tmp_path / "half")
    out = tmp_path / "out"
    run(Config(folder, place / "heads.safetensors", out, 0.25, place / "base"))
    wide = tensors(folder)
    for name, value in tensors(out).items():
        mask, own = some(tuned).mask(name), base.state_dict()[name].double()
        assert value.dtype == dtype
        assert same_bits(value[~mask], wide[name][~mask])
        exact = (own + 0.25 * (wide[name].double() - own))[mask]
        torch.testing.assert_close(
            value[mask].double(), exact, rtol=float(torch.finfo(dtype).eps), atol=1e-7
        )


def test_the_base_is_what_diff_noted_or_what_the_folder_names(base, tuned, place, tmp_path):
    with pytest.raises(ParamattrError, match="is not known: give --base"):
        run(Config(place / "tuned", place / "heads.safetensors", tmp_path / "out"))
    some(tuned).save(tmp_path / "found" / "heads.safetensors")
    noted = json.dumps({"settings": {"base": str(place / "base")}})
    (tmp_path / "found" / "diff.json").write_text(noted)
    found = run(Config(place / "tuned", tmp_path / "found" / "heads.safetensors", tmp_path / "out"))
    assert found.base == place / "base"
    assert found.strength == 0


def test_a_head_that_the_base_lacks_stays_and_is_named(base, tuned, place, tmp_path):
    bare = saved(base.bert, tmp_path / "bare")
    some(tuned, "layer", *range(len(UnitIndex.of(tuned, "layer")))).save(tmp_path / "all")
    found = run(Config(place / "tuned", tmp_path / "all", tmp_path / "out", 0, bare))
    assert found.notes == (
        "'classifier.weight', 'classifier.bias' have no counterpart in the base: they stay as "
        "they are.",
    )
    written = tensors(tmp_path / "out")
    assert same_bits(written["classifier.weight"], tuned.classifier.weight)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert same_bits(written[name], base.state_dict()[name])


def test_both_formats_of_a_folder_are_edited(base, tuned, place, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(place / "tuned", folder)
    shutil.copy(place / "binary" / "pytorch_model.bin", folder)
    (folder / "training_args.bin").write_bytes(b"not a model's")
    run(Config(folder, place / "heads.safetensors", tmp_path / "out", 0.5, place / "base"))
    expected = modulate(tuned, base, some(tuned), 0.5).state_dict()
    out = tmp_path / "out"
    assert (out / "training_args.bin").read_bytes() == b"not a model's"
    for written in (
        load_file(out / "model.safetensors"),
        torch.load(out / "pytorch_model.bin", weights_only=True),
    ):
        assert all(same_bits(written[name], value) for name, value in expected.items())


def test_older_names_of_norms_are_known(base, tuned, place, tmp_path):
    old = saved(base, tmp_path / "old")
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in load_file(old / "model.safetensors").items()
    }
    save_file(state, old / "model.safetensors")
    some(tuned, "layer", *range(len(UnitIndex.of(tuned, "layer")))).save(tmp_path / "all")
    found = run(Config(place / "tuned", tmp_path / "all", tmp_path / "out", 0, old))
    assert not found.notes
    assert all(same_bits(own, base.state_dict()[n]) for n, own in tensors(tmp_path / "out").items())


def test_a_tied_matrix_that_the_file_holds_twice_is_edited_twice(tmp_path):
    model = gpt2()
    one = saved(model, tmp_path / "one")
    with torch.no_grad():
        model.transformer.wte.weight.add_(0.1)
    two = saved(model, tmp_path / "two")
    state = load_file(two / "model.safetensors")
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    save_file(state, two / "model.safetensors", {"format": "pt"})
    some(model, "embedding_row", 3, 5).save(tmp_path / "rows")
    run(Config(two, tmp_path / "rows", tmp_path / "out", 0, one))
    written = tensors(tmp_path / "out")
    assert torch.equal(written["lm_head.weight"], written["transformer.wte.weight"])
    assert torch.equal(written["lm_head.weight"][3], gpt2().transformer.wte.weight[3])
    read = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert read.lm_head.weight is read.transformer.wte.weight


def test_one_rank_of_an_adapter_is_switched_off(base, place, tmp_path):
    model = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=3, target_modules=["query", "word_embeddings"])
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(tmp_path / "adapter")
    pair = read_pair(place / "base", tmp_path / "adapter", adapter="factors")
    chosen = some(pair.target, "rank_component", 1, 4)
    chosen.save(tmp_path / "ranks")
    found = run(Config(tmp_path / "adapter", tmp_path / "ranks", tmp_path / "out", 0))
    assert found.base is None
    assert not found.notes
    given = tmp_path / "adapter", tmp_path / "ranks", tmp_path / "two", 0, place / "base"
    assert "is not read" in run(Config(*given)).notes[0]
    expected = modulate(pair.target, pair.baseline, chosen, 0.0)
    read = read_pair(place / "base", tmp_path / "out", adapter="factors").target
    for (name, one), (_, two) in zip(
        read.named_parameters(), expected.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name


def test_forms_that_are_not_edited_are_not_copied(place, tmp_path):
    folder = tmp_path / "tuned"
    shutil.copytree(place / "tuned", folder)
    (folder / "model.safetensors").unlink()
    (folder / "weights").mkdir()
    shutil.copy(place / "tuned" / "model.safetensors", folder / "weights")
    (folder / "model.safetensors").symlink_to("weights/model.safetensors")
    (folder / "tf_model.h5").write_bytes(b"old")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"old")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    found = run(Config(folder, place / "heads.safetensors", tmp_path / "out", 0, place / "base"))
    assert found.notes == (
        "'model.onnx', 'tf_model.h5' hold the model unedited: they are not copied.",
    )
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert not list((tmp_path / "out").rglob("*.onnx"))
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()
    before = (place / "tuned" / "model.safetensors").read_bytes()
    assert before != (tmp_path / "out" / "model.safetensors").read_bytes()


def test_a_failure_leaves_no_folder(place, tmp_path, monkeypatch):
    def full(number):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ParamattrError, match=r"out cannot be written \(no space left\)"):
        run(
            Config(
                place / "tuned", place / "heads.safetensors", tmp_path / "out", 0, place / "base"
            )
        )
    assert not list(tmp_path.iterdir())


def adapter(base, folder: Path) -> Path:
    config = peft.LoraConfig(target_modules=["query"])
    peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(folder)
    return folder


def cut_short(tuned, folder: Path) -> Path:
    file = saved(tuned, folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return folder


def quantised(tuned, folder: Path) -> Path:
    file = saved(tuned, folder) / "model.safetensors"
    state = load_file(file)
    name = "bert.encoder.layer.1.attention.self.query.weight"
    save_file({**state, name: state[name].to(torch.int8)}, file)
    return folder


def written(selection: Selection, file: Path) -> Path:
    selection.save(file)
    return file


def empty(model) -> Selection:
    return Selection(UnitIndex.of(model, "neuron"), torch.zeros(48, dtype=torch.bool))


@pytest.mark.parametrize(
    ("match", "given"),
    [
        ("expected a finite number", lambda t: {"strength": float("nan")}),
        ("expected a finite number", lambda t: {"strength": 1e39}),
        ("is there already", lambda t: {"out": t.place / "base"}),
        ("lies in .*tuned, which stays", lambda t: {"out": t.place / "tuned" / "out"}),
        ("is not there: expected a local folder", lambda t: {"folder": t.place / "nowhere"}),
        ("is not there: expected a local folder", lambda t: {"base": t.place / "nowhere"}),
        ("is not there: give the path", lambda t: {"selection": t.place / "nowhere.safetensors"}),
        ("expected a selection", lambda t: {"selection": t.place / "tuned" / "model.safetensors"}),
        (
            "is empty: there is nothing to apply",
            lambda t: {"selection": written(empty(t.tuned), t.new)},
        ),
        (
            "is of another model: 'bert.encoder.layer.2",
            lambda t: {"selection": written(some(bert(num_hidden_layers=3)), t.new)},
        ),
        (
            r"of another model: .* is \(32, 16\) there and \(32, 32\) in",
            lambda t: {"folder": saved(bert(hidden_size=32), t.new)},
        ),
        (
            "new holds none of the selected entries",
            lambda t: {"base": saved(bert(hidden_size=32), t.new)},
        ),
        (
            "values that are not finite in torch.float16",
            lambda t: {"folder": saved(copy.deepcopy(t.tuned).half(), t.new), "strength": 1e9},
        ),
        ("is not a whole safetensors file", lambda t: {"folder": cut_short(t.tuned, t.new)}),
        ("is not a whole safetensors file", lambda t: {"base": cut_short(t.tuned, t.new)}),
        (
            "is of a whole model, and .*new holds an adapter: merge it",
            lambda t: {"folder": adapter(t.whole, t.new)},
        ),
        (
            "is an adapter: expected the folder of a whole model",
            lambda t: {"base": adapter(t.whole, t.new)},
        ),
        (
            "holds whole numbers, as quantised weights do",
            lambda t: {"folder": quantised(t.tuned, t.new)},
        ),
    ],
)
def test_mistakes_are_named(base, tuned, place, tmp_path, match, given):
    there = SimpleNamespace(place=place, whole=base, tuned=tuned, new=tmp_path / "new")
    config = {
        "folder": place / "tuned",
        "selection": place / "heads.safetensors",
        "out": tmp_path / "out",
        "strength": 0.0,
        "base": place / "base",
    }
    with pytest.raises(ParamattrError, match=match):
        run(Config(*(config | given(there)).values()))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.partial"))


def test_a_running_variance_does_not_become_negative(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_channels=1
    )
    one = transformers.ResNetForImageClassification(config).eval()
    two = copy.deepcopy(one)
    with torch.no_grad():
        two.resnet.embedder.embedder.normalization.running_var.fill_(4)
    for model, name in ((one, "base"), (two, "tuned")):
        model.save_pretrained(tmp_path / name)
    some(two, "layer", *range(len(UnitIndex.of(two, "layer")))).save(tmp_path / "all")
    given = tmp_path / "tuned", tmp_path / "all", tmp_path / "out"
    with pytest.raises(ParamattrError, match="a variance cannot be negative"):
        run(Config(*given, -1.0, tmp_path / "base"))
    run(Config(*given, 0.5, tmp_path / "base"))
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        found = file.get_tensor("resnet.embedder.embedder.normalization.running_var")
    assert found.tolist() == [2.5] * 4


def test_the_command_line(place, tmp_path):
    ran = partial(call, "apply")
    words = (place / "tuned", "--selection", place / "heads.safetensors", "--base", place / "base")
    code, out, _ = ran(*words, "--strength", 0, "--out", tmp_path / "out")
    assert code == 0
    assert "536 of 5,314 entries in 14 tensors (2 of 8 units) are at strength 0 between" in out
    two = answer(ran, *words, "--strength", -0.5, "--out", tmp_path / "two")
    assert two["strength"] == -0.5
    shutil.copytree(place / "tuned", tmp_path / "mine")
    code, out, _ = ran(tmp_path / "mine", *words[1:])
    assert code == 0
    assert (tmp_path / "mine-edited" / "model.safetensors").is_file()
    said = f"paramattr: --out {tmp_path / 'out'} is there already: choose a new folder\n"
    assert refusal(ran, *words, "--out", tmp_path / "out") == said
