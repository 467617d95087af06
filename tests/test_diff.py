"""`paramattr diff` on folders and state dicts made here: what it finds."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from paramattr import (
    BezierPath,
    Scores,
    Selection,
    StraightLine,
    against_rest,
    save_state_dict,
)
from paramattr.huggingface import load_pair
from tests.command_line import answer, refusal
from tests.folders import transformers, write_gpt_pair, write_lines

pytestmark = pytest.mark.filterwarnings("ignore:.*doesn't match a supported version")
ALTERED = "bert.encoder.layer.1.attention[2]"


@pytest.fixture
def ran(ran):
    return partial(ran, "diff")


def first(result: dict, units: str, condition: str = "all") -> str:
    row = next(
        row for row in result["top"] if (row["units"], row["condition"]) == (units, condition)
    )
    return f"{row['name']}[{', '.join(map(str, row['position']))}]"


@pytest.mark.parametrize("tuned", ["tuned", "sharded"])
def test_the_altered_head_comes_first(ran, tuned):
    result = answer(ran, "base", tuned, "--data", "texts.jsonl", "--draws", "1")
    assert first(result, "attention_head") == ALTERED
    assert result["distance"]["changed"] == 3 * 4 * 16
    changed = {row["layer"] for row in result["layers"] if row["attributed"]["all"]}
    block = "bert.encoder.layer.1.attention"
    assert changed == {f"{block}.{end}" for end in ("self.query", "self.value", "output.dense")}
    head = next(row for row in result["masked"] if row["units"] == "attention_head")
    values = result["objective"]["all"]
    assert head["lost"] == pytest.approx(values["base"] - values["tuned"], abs=1e-6)
    assert result["unassigned"]["neuron"]["all"] == pytest.approx(1.0)
    assert not [row for row in result["masked"] if row["units"] == "neuron"]


def test_conditions_are_contrasted_and_saved(ran, folder, tmp_path):
    out = tmp_path / "found"
    result = answer(ran, "base", "tuned", "--data", "two.jsonl", "--out", out)
    assert result["samples"] == {"red": 8, "blue": 4}
    red, blue = (
        Scores.load(out / f"scores-attention_head-{name}.safetensors") for name in ("red", "blue")
    )
    rows = {
        row["condition"]: row["score"]
        for row in result["top"]
        if row["units"] == "attention_head" and row["name"].endswith("1.attention")
        if row["position"] == [2]
    }
    here = 6
    assert rows["red"] == pytest.approx(float((red - blue).values[here]))
    assert rows["all"] == pytest.approx(float(((red * 2 + blue) / 3).values[here]))
    selection = Selection.load(out / "selection-attention_head-all.safetensors")
    assert [unit.position for unit in selection] == [(2,)]
    assert (out / "diff.png").stat().st_size > 1000
    assert json.loads((out / "diff.json").read_text()) == result


def test_masked_units_take_the_values_of_a_place_on_the_path(ran, folder, tmp_path):
    words = ("base", "tuned", "--data", "texts.jsonl", "--draws", "1", "--units", "attention_head")
    target, baseline, _ = load_pair(folder / "base", folder / "tuned")
    line = StraightLine(target, baseline)
    BezierPath(target, line.evaluate(0.25), baseline).save(tmp_path / "curve.safetensors")
    [far] = answer(ran, *words)["masked"]
    [near] = answer(ran, *words, "--at", "0.5")["masked"]
    # This curve's middle lies on the line: half of it is 0.5 * 0.25 + 0.25 of the way.
    curve = ("--curve", str(tmp_path / "curve.safetensors"))
    [bent] = answer(ran, *words, *curve, "--at", "0.5")["masked"]
    [plain] = answer(ran, *words, "--at", "0.375")["masked"]
    assert bent["lost"] == pytest.approx(plain["lost"], rel=1e-4)
    assert len({far["lost"], near["lost"], plain["lost"]}) == 3
    assert answer(ran, *words, *curve)["masked"][0]["lost"] == pytest.approx(far["lost"])
    refusal(ran, *words, "--at", "0")


def test_next_token_needs_no_labels(ran, folder):
    write_gpt_pair(folder)
    words = ("gpt", "gpt-tuned", "--data", "plain.jsonl", "--objective", "next-token")
    result = answer(ran, *words, "--draws", "1")
    assert first(result, "neuron") == "transformer.h.0.mlp[5]"
    assert result["objective"]["all"]["tuned_accuracy"] is None


@pytest.mark.parametrize("how", ["merged", "factors"])
def test_an_adapter(ran, folder, how):
    peft = pytest.importorskip("peft")
    base = transformers.BertForSequenceClassification.from_pretrained(folder / "base")
    made = peft.LoraConfig(r=2, target_modules=r".*\.1\.attention\.self\.(query|key)")
    model = peft.get_peft_model(base, made)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.ones_like(parameter).cumsum(0) * 0.1)
    model.save_pretrained(folder / "adapter")
    units = "layer,attention_head" + (",rank_component" if how == "factors" else "")
    words = ("base", "adapter", "--data", "texts.jsonl", "--adapter", how, "--units", units)
    result = answer(ran, *words, "--draws", "1")
    layers = {row["layer"] for row in result["layers"] if row["attributed"]["all"]}
    ends = ("query", "key")
    factors = (".lora_A.default", ".lora_B.default") if how == "factors" else ("",)
    block = "bert.encoder.layer.1.attention.self"
    assert layers == {f"{block}.{end}{factor}" for end in ends for factor in factors}


def test_state_dicts_with_a_model_and_batches(ran, folder):
    (folder / "ours.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def model():\n"
        "    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))\n"
        "def batches():\n"
        "    return {'a': [(torch.eye(2), torch.eye(2))], 'b': [(-torch.eye(2), torch.eye(2))]}\n"
        "def largest(output, targets):\n"
        "    return (output - targets).abs().amax(1)\n"
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    save_state_dict(folder / "one.safetensors", model.state_dict())
    with torch.no_grad():
        model[0].weight[1] += 1
    torch.save(model.state_dict(), folder / "two.pt")
    words = ("one.safetensors", "two.pt", "--model", "ours:model", "--batches", "ours:batches")
    for objective in ("squared-error", "ours:largest"):
        result = answer(ran, *words, "--objective", objective, "--units", "output_channel")
        assert first(result, "output_channel") == "0.weight[1]"
    without = answer(ran, *words, "--objective", "squared-error")
    assert list(without["units"]) == ["layer", "neuron"]
    assert without["notes"] == [
        "The model has no unit of kind 'attention_head' that is known: it is left out.",
        "The tuned model is worse than the base on a.",
    ]


def test_any_number_of_conditions(ran, folder, tmp_path):
    names = ("red", "blue", "green", "a/b", "a b")
    write_lines(folder / "five.jsonl", 10, names)
    out = tmp_path / "found"
    words = ("base", "tuned", "--data", "five.jsonl", "--units", "attention_head", "--draws", "1")
    result = answer(ran, *words, "--out", out)
    assert result["samples"] == dict.fromkeys(names, 2)
    head = {row["sought"]: row for row in result["masked"]}
    assert all(set(row["by_condition"]) == set(names) for row in head.values())
    saved_scores = {
        name: Scores.load(out / f"scores-attention_head-{file}.safetensors")
        for name, file in zip(names, ("red", "blue", "green", "a_b-3", "a_b-4"), strict=True)
    }
    ranked = against_rest(saved_scores)["blue"]
    rows = [row for row in result["top"] if row["units"] == "attention_head"]
    own = [row["score"] for row in rows if row["condition"] == "blue"]
    assert own == pytest.approx(ranked.values.sort(descending=True).values[: len(own)].tolist())
    code, said, _ = ran(*words)
    assert code == 0
    assert "others" in said  # of more than three, none has a column of its own


def test_the_sign_ranks_what_lowered_the_objective(ran, folder, tmp_path):
    words = ("base", "tuned", "--data", "two.jsonl", "--units", "attention_head", "--draws", "1")
    answer(ran, *words, "--out", tmp_path / "plain")
    result = answer(ran, *words, "--rank", "sign", "--out", tmp_path / "sign")
    whole = {
        name: Scores.load(tmp_path / "plain" / f"scores-attention_head-{name}.safetensors")
        for name in result["samples"]
    }
    for name, contrasted in against_rest(whole).items():
        rows = [
            r for r in result["top"] if r["units"] == "attention_head" and r["condition"] == name
        ]
        ranked = contrasted.by("sign")
        order = ranked.rank()[: len(rows)]
        assert [row["score"] for row in rows] == pytest.approx(ranked.values[order].tolist())
        errors = ranked.standard_error[order].tolist()
        assert [row["standard_error"] for row in rows] == pytest.approx(errors)
        assert not all(math.isnan(error) for error in errors)
    assert "magnitude or sign" in refusal(ran, *words, "--rank", "size")
