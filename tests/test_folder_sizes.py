"""Folders whose settings ask for what their weights cannot hold, or name files elsewhere."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from paramattr.errors import CheckpointError, DataError, ParamattrError
from paramattr.huggingface import load_pair
from tests.folders import bert, saved, transformers, with_head, write_lines

pytestmark = pytest.mark.filterwarnings("ignore:.*doesn't match a supported version")
assert transformers


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    base = bert()
    saved(base, folder / "base")
    saved(with_head(base, 1, 2), folder / "tuned", max_shard_size="8KB")
    return folder


@pytest.fixture
def folder(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def changed(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers 1000000000, and the weights"),
        ({"num_hidden_layers": -1}, r"num_hidden_layers -1.*expected 0 to"),
        ({"hidden_size": 10**9}, r"hidden_size 1000000000"),
        ({"vocab_size": 10**8}, r"vocab_size 100000000"),
        ({"num_labels": 10**9}, r"num_labels 1000000000"),
        ({"intermediate_size": 10**5}, r"asks for a model of \d+ parameters, and the weights"),
        ({"architectures": 7}, r"architectures 7: expected a list"),
        ({"architectures": ["os"]}, r"holds an os, which transformers"),
    ],
)
def test_settings_that_no_such_weights_have_are_refused(folder, values, said):
    changed(folder / "tuned" / "config.json", **values)
    with pytest.raises(ParamattrError, match=said):
        load_pair(folder / "base", folder / "tuned")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("../base/model.safetensors", r"'\.\./base/model.*not inside its folder"),
        ("/etc/passwd", r"'/etc/passwd'.*not inside its folder"),
        ("C:\\\\a", r"not inside its folder"),
        ("", r"not inside its folder"),
        (7, r"not inside its folder"),
        ("gone.safetensors", r"'gone\.safetensors', which is not there"),
    ],
)
def test_an_index_names_files_beside_it_alone(folder, place, said):
    file = folder / "tuned" / "model.safetensors.index.json"
    places = json.loads(file.read_text())["weight_map"]
    changed(file, weight_map={**places, next(iter(places)): place})
    with pytest.raises(CheckpointError, match=rf"model\.safetensors\.index\.json names .*{said}"):
        load_pair(folder / "base", folder / "tuned")
    changed(file, weight_map=[1])
    with pytest.raises(CheckpointError, match="has no weight_map"):
        load_pair(folder / "base", folder / "tuned")


@pytest.mark.parametrize("text", ["[" * 10**5, "[1]", "\xff", ""])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_settings_that_are_no_object_are_refused(folder, name, text):
    (folder / "tuned" / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"{name}.*expected"):
        load_pair(folder / "base", folder / "tuned")


def test_a_tokenizer_of_another_model_is_told_from_its_numbers(folder):
    from paramattr.commands.diff.material import Tokens, read_texts

    target, _, tokenizer = load_pair(folder / "base", folder / "tuned")
    texts = read_texts(write_lines(folder / "texts.jsonl"))
    assert Tokens(tokenizer, target, labelled=True, max_tokens=8).batches(texts, 4)
    smaller = copy.deepcopy(target)
    smaller.resize_token_embeddings(8)
    with pytest.raises(DataError, match=r"line \d of .* has token \d+, and the model knows 0 to 7"):
        Tokens(tokenizer, smaller, labelled=True, max_tokens=8).batches(texts, 4)


def test_a_rank_that_no_such_matrices_have_is_refused(folder):
    peft = pytest.importorskip("peft")
    options = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    peft.get_peft_model(bert(), options).save_pretrained(folder / "adapter")
    changed(folder / "adapter" / "adapter_config.json", r=10**9)
    with pytest.raises(CheckpointError, match=r"its rank is 1000000000, and the largest side"):
        load_pair(folder / "base", folder / "adapter")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"weights of adapter .* cannot be read"):
        load_pair(folder / "base", folder / "adapter")
