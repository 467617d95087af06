"""`paramattr diff` on folders and state dicts made here, and what it refuses in one line."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from paramattr import (
    BezierPath,
    Scores,
    Selection,
    StraightLine,
    against_rest,
    cli,
    save_state_dict,
)
from paramattr.diff.columns import columns
from paramattr.huggingface import load_pair
from paramattr.resume import Unfinished
from tests.folders import bert, gpt2, saved, transformers, with_head, write_lines

pytestmark = pytest.mark.filterwarnings("ignore:.*doesn't match a supported version")
ALTERED = "bert.encoder.layer.1.attention[2]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base, the same with one head altered, and texts."""
    folder = tmp_path_factory.mktemp("diff")
    base = bert()
    saved(base, folder / "base")
    saved(with_head(base, 1, 2), folder / "tuned")
    saved(with_head(base, 1, 2), folder / "sharded", max_shard_size="8KB")
    write_lines(folder / "texts.jsonl")
    write_lines(folder / "two.jsonl", 12, ("red", "blue", "red"))
    return folder


@pytest.fixture
def ran(monkeypatch, capsys, folder):
    """Call the command line in the folder: its exit code, what it printed, and its complaints."""

    def call(*words: str, width: int = 80) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", ["paramattr", *words])
        monkeypatch.setattr("paramattr.cli.entry_points", lambda group: [])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code, said.out, said.err

    return call


def found(ran, *words: str) -> dict:
    code, out, err = ran("diff", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def first(result: dict, units: str, condition: str = "all") -> str:
    row = next(
        row for row in result["top"] if (row["units"], row["condition"]) == (units, condition)
    )
    return f"{row['name']}[{', '.join(map(str, row['position']))}]"


@pytest.mark.parametrize("tuned", ["tuned", "sharded"])
def test_the_altered_head_comes_first(ran, tuned):
    result = found(ran, "base", tuned, "--data", "texts.jsonl", "--draws", "1")
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
    result = found(ran, "base", "tuned", "--data", "two.jsonl", "--out", str(out))
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
    [far] = found(ran, *words)["masked"]
    [near] = found(ran, *words, "--at", "0.5")["masked"]
    # This curve's middle lies on the line: half of it is 0.5 * 0.25 + 0.25 of the way.
    curve = ("--curve", str(tmp_path / "curve.safetensors"))
    [bent] = found(ran, *words, *curve, "--at", "0.5")["masked"]
    [plain] = found(ran, *words, "--at", "0.375")["masked"]
    assert bent["lost"] == pytest.approx(plain["lost"], rel=1e-4)
    assert len({far["lost"], near["lost"], plain["lost"]}) == 3
    assert found(ran, *words, *curve)["masked"][0]["lost"] == pytest.approx(far["lost"])
    code, _, err = ran("diff", *words, "--at", "0")
    assert (code, err.count("\n")) == (2, 1)


def test_a_killed_run_resumes(ran, folder, tmp_path, monkeypatch):
    words = ("base", "tuned", "--data", "two.jsonl", "--batch-size", "2", "--draws", "1")
    fresh = found(ran, *words, "--out", str(tmp_path / "fresh"))
    saves, keep = [], Unfinished.save

    def save(self, *arguments, **options):
        keep(self, *arguments, **options)
        saves.append(1)
        if len(saves) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Unfinished, "save", save)
    out = tmp_path / "killed"
    code, printed, err = ran("diff", *words, "--out", str(out))
    assert (code, printed) == (130, "")
    assert err == (
        f"paramattr: stopped by SIGINT; the progress is kept in {out / 'progress.safetensors'}: "
        "run the same command again to resume\n"
    )
    assert [file.name for file in out.iterdir()] == ["progress.safetensors"]
    before = len(saves)
    resumed = found(ran, *words, "--out", str(out))
    assert len(saves) - before == 3  # of six batches three were done
    for key in ("top", "masked", "layers"):
        assert resumed[key] == fresh[key]
    code, _, err = ran("diff", *words, "--steps", "5", "--out", str(out))
    assert (code, err.count("\n")) == (2, 1)
    assert "made with other settings" in err


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(ran, tmp_path):
    out = tmp_path / "out"
    words = ("base", "tuned", "--data", "two.jsonl", "--steps", "2", "--out", str(out), "--dry-run")
    code, said, _ = ran("diff", *words)
    assert code == 0
    assert "192 of 5,3" in said
    assert "attention_head: 8 units" in said
    assert "24 gradients" in said
    assert found(ran, *words)["units"] == {"layer": 22, "attention_head": 8, "neuron": 48}
    assert not out.exists()


def test_next_token_needs_no_labels(ran, folder):
    model = gpt2()
    saved(model, folder / "gpt")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight[5] += 1
    saved(model, folder / "gpt-tuned")
    (folder / "plain.jsonl").write_text('{"text": "word1 word2 word3"}\n{"text": "word4 word1"}\n')
    words = ("gpt", "gpt-tuned", "--data", "plain.jsonl", "--objective", "next-token")
    result = found(ran, *words, "--draws", "1")
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
    result = found(ran, *words, "--draws", "1")
    layers = {row["layer"] for row in result["layers"] if row["attributed"]["all"]}
    ends = ("query", "key")
    factors = (".lora_A.default", ".lora_B.default") if how == "factors" else ("",)
    block = "bert.encoder.layer.1.attention.self"
    assert layers == {f"{block}.{end}{factor}" for end in ends for factor in factors}


def test_state_dicts_with_a_model_and_batches(ran, folder, monkeypatch):
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
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    save_state_dict(folder / "one.safetensors", model.state_dict())
    with torch.no_grad():
        model[0].weight[1] += 1
    torch.save(model.state_dict(), folder / "two.pt")
    words = ("one.safetensors", "two.pt", "--model", "ours:model", "--batches", "ours:batches")
    for objective in ("squared-error", "ours:largest"):
        result = found(ran, *words, "--objective", objective, "--units", "output_channel")
        assert first(result, "output_channel") == "0.weight[1]"
    without = found(ran, *words, "--objective", "squared-error")
    assert list(without["units"]) == ["layer", "neuron"]
    assert without["notes"] == [
        "The model has no unit of kind 'attention_head' that is known: it is left out.",
        "The tuned model is worse than the base on a.",
    ]


@pytest.mark.parametrize("width", [80, 40])
def test_no_line_is_wider_than_the_terminal(ran, width):
    code, said, err = ran("diff", "base", "tuned", "--data", "two.jsonl", width=width)
    assert (code, err) == (0, "")
    assert max(map(len, said.splitlines())) <= width
    assert "random" in said


def test_columns_wrap_what_is_too_long():
    assert columns(["name", "n"], [["a" * 10, "1"]], 8) == "name\n    n\naaaaaaaa\naa\n    1"


BROKEN = '{"text": "word1", "label": 0}\n' * 16 + '{"text": "word1", \n'
MISTAKES = {
    "no folder": (("nowhere", "tuned"), "is not there"),
    "line 17": (("base", "tuned", "--data", "broken.jsonl"), "line 17 of broken.jsonl"),
    "no text": (("base", "tuned", "--data", "nothing.jsonl"), "is empty"),
    "label": (("base", "tuned", "--data", "label.jsonl"), "line 1 of label.jsonl has label 7"),
    "no label": (("base", "tuned", "--data", "unlabelled.jsonl"), 'has no "label"'),
    "tokenizer": (("bare", "bare"), "holds a tokenizer"),
    "equal": (("base", "base"), "there is no change"),
    "common": (("gpt", "tuned"), "no parameter in common"),
    "adapter": (("wider", "lora"), "does not fit the base"),
    "gpu": (("base", "tuned", "--device", "cuda"), "'cuda' cannot be used"),
    "unit": (("base", "tuned", "--units", "hat"), "'hat' is not known"),
    "ranks": (("base", "tuned", "--units", "rank_component"), "rank_component"),
    "objective": (("base", "tuned", "--objective", "best"), "expected one of classification"),
    "dtype": (("base", "tuned", "--dtype", "int8"), "dtype 'int8'"),
    "share": (("base", "tuned", "--pct", "0"), "expected one above 0"),
    "steps": (("base", "tuned", "--steps", "0"), "--steps is below 1"),
    "file": (("one.safetensors", "tuned"), "one.safetensors is a file"),
    "model": (("base", "tuned", "--model", "ours:model"), "go together"),
    "no head": (("encoder", "encoder2"), "an output with logits"),
    "out": (("base", "tuned", "--out", "texts.jsonl"), "is a file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_mistakes_are_one_line_and_leave_nothing(ran, folder, tmp_path, mistake):
    words, match = MISTAKES[mistake]
    prepare(folder)
    out = tmp_path / "out"
    data = () if "--data" in words else ("--data", "texts.jsonl")
    where = () if "--out" in words else ("--out", str(out))
    code, said, err = ran("diff", *words, *data, *where)
    assert (code, said, err.count("\n")) == (2, "", 1), err
    assert match in err
    assert not out.exists()


def prepare(folder: Path) -> None:
    """Write what the mistakes need, once."""
    if (folder / "broken.jsonl").exists():
        return
    peft = pytest.importorskip("peft")
    (folder / "broken.jsonl").write_text(BROKEN)
    (folder / "nothing.jsonl").write_text("\n")
    (folder / "label.jsonl").write_text('{"text": "word1", "label": 7}\n')
    (folder / "unlabelled.jsonl").write_text('{"text": "word1"}\n')
    bert().save_pretrained(folder / "bare")
    saved(gpt2(), folder / "gpt")
    saved(bert(hidden_size=32), folder / "wider")
    base = transformers.BertForSequenceClassification.from_pretrained(folder / "base")
    saved(base.bert, folder / "encoder")
    with torch.no_grad():
        base.bert.pooler.dense.weight.add_(0.1)
    saved(base.bert, folder / "encoder2")
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"])).save_pretrained(
        folder / "lora"
    )
    save_state_dict(folder / "one.safetensors", {"weight": torch.zeros(1)})


def test_the_report_shows_texts_and_says_how_to_get_it(ran, folder, tmp_path, monkeypatch):
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")
    words = ("base", "tuned", "--data", "two.jsonl", "--pct", "15", "--out")
    code, _, err = ran("diff", *words, str(tmp_path / "with"))
    assert (code, err) == (0, "")
    html = (tmp_path / "with" / "report.html").read_text()
    texts = [json.loads(one)["text"] for one in (folder / "two.jsonl").read_text().splitlines()]
    assert sum(text in html for text in set(texts)) >= 2
    for heading in ("Path profile", "Top attention heads", "Before and after", "Modulation"):
        assert f">{heading}</h2>" in html
    monkeypatch.setattr("paramattr.report.page.find_spec", lambda name: None)
    code, _, err = ran("diff", *words, str(tmp_path / "without"))
    assert (code, err.count("\n")) == (0, 1)
    assert "report.html was not written" in err
    assert 'pip install "paramattr[report]"' in err
    assert not (tmp_path / "without" / "report.html").exists()
    assert (tmp_path / "without" / "diff.json").exists()


def test_any_number_of_conditions(ran, folder, tmp_path):
    names = ("red", "blue", "green", "a/b", "a b")
    write_lines(folder / "five.jsonl", 10, names)
    out = tmp_path / "found"
    words = ("base", "tuned", "--data", "five.jsonl", "--units", "attention_head", "--draws", "1")
    result = found(ran, *words, "--out", str(out))
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
    code, said, _ = ran("diff", *words)
    assert code == 0
    assert "others" in said  # of more than three, none has a column of its own


def test_the_sign_ranks_what_lowered_the_objective(ran, folder, tmp_path):
    words = ("base", "tuned", "--data", "two.jsonl", "--units", "attention_head", "--draws", "1")
    found(ran, *words, "--out", str(tmp_path / "plain"))
    result = found(ran, *words, "--rank", "sign", "--out", str(tmp_path / "sign"))
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
    code, _, err = ran("diff", *words, "--rank", "size")
    assert (code, err.count("\n")) == (2, 1)
    assert "magnitude or sign" in err


def test_what_diff_found_is_applied(ran, folder, tmp_path):
    out = tmp_path / "found"
    words = ("base", "tuned", "--data", "texts.jsonl", "--units", "attention_head", "--pct", "13")
    result = found(ran, *words, "--draws", "1", "--out", str(out))
    assert next(row for row in result["masked"])["masked"] == 1
    chosen = str(out / "selection-attention_head-all.safetensors")
    code, said, err = ran(
        "apply", "tuned", "--selection", chosen, "--out", str(tmp_path / "undone")
    )
    assert (code, err) == (0, "")
    assert "268 of 5,314 entries" in said
    undone = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "undone")
    base = transformers.BertForSequenceClassification.from_pretrained(folder / "base")
    other = base.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in undone.state_dict().items())
