"""`paramattr diff` as a command: what it keeps, prints and writes, and refuses in one line."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from paramattr import (
    save_state_dict,
)
from paramattr.commands.diff.report import columns
from tests.command_line import answer, call, refusal
from tests.folders import bert, gpt2, saved, transformers
from tests.kills import writes

pytestmark = pytest.mark.filterwarnings("ignore:.*doesn't match a supported version")


@pytest.fixture
def ran(ran):
    return partial(ran, "diff")


def test_a_killed_run_resumes(ran, tmp_path):
    words = ("base", "tuned", "--data", "two.jsonl", "--batch-size", "2", "--draws", "1", "--out")
    fresh, out = answer(ran, *words, tmp_path / "fresh"), tmp_path / "killed"
    with writes("*/progress.safetensors", killed_at=5):
        code, printed, err = ran(*words, out)
    assert (code, printed) == (130, "")
    assert err == (
        f"paramattr: stopped by SIGINT; the progress is kept in {out / 'progress.safetensors'}: "
        "run the same command again to resume\n"
    )
    assert [file.name for file in out.iterdir()] == ["progress.safetensors"]
    with writes("*/progress.safetensors") as kept:
        resumed = answer(ran, *words, out)
    assert len(kept) == 3  # of six batches three were done
    for key in ("top", "masked", "layers"):
        assert resumed[key] == fresh[key]
    assert "made with other settings" in refusal(ran, *words, out, "--steps", "5")


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(ran, tmp_path):
    out = tmp_path / "out"
    words = ("base", "tuned", "--data", "two.jsonl", "--steps", "2", "--out", out, "--dry-run")
    code, said, _ = ran(*words)
    assert code == 0
    assert "192 of 5,3" in said
    assert "attention_head: 8 units" in said
    assert "24 gradients" in said
    assert answer(ran, *words)["units"] == {"layer": 22, "attention_head": 8, "neuron": 48}
    assert not out.exists()


@pytest.mark.parametrize("width", [80, 40])
def test_no_line_is_wider_than_the_terminal(ran, width):
    code, said, err = ran("base", "tuned", "--data", "two.jsonl", width=width)
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
    where = () if "--out" in words else ("--out", out)
    assert match in refusal(ran, *words, *data, *where)
    assert not out.exists()


def prepare(folder: Path) -> None:
    """Write what the mistakes need, once."""
    if (folder / "broken.jsonl").exists():
        return
    peft = pytest.importorskip("peft")
    (folder / "broken.jsonl").write_text(BROKEN)
    (folder / "nothing.jsonl").write_text("\n")
    (folder / "label.jsonl").write_text('{"text": "word1", "label": 7}\n')
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
    code, _, err = ran(*words, str(tmp_path / "with"))
    assert (code, err) == (0, "")
    html = (tmp_path / "with" / "report.html").read_text()
    texts = [json.loads(one)["text"] for one in (folder / "two.jsonl").read_text().splitlines()]
    assert sum(text in html for text in set(texts)) >= 2
    for heading in ("Path profile", "Top attention heads", "Before and after", "Modulation"):
        assert f">{heading}</h2>" in html
    monkeypatch.setitem(sys.modules, "plotly", None)
    code, _, err = ran(*words, str(tmp_path / "without"))
    assert (code, err.count("\n")) == (0, 1)
    assert "report.html was not written" in err
    assert 'pip install "paramattr[report]"' in err
    assert not (tmp_path / "without" / "report.html").exists()
    assert (tmp_path / "without" / "diff.json").exists()


def test_what_diff_found_is_applied(ran, folder, tmp_path):
    out = tmp_path / "found"
    words = ("base", "tuned", "--data", "texts.jsonl", "--units", "attention_head", "--pct", "13")
    result = answer(ran, *words, "--draws", "1", "--out", out)
    assert next(row for row in result["masked"])["masked"] == 1
    chosen = str(out / "selection-attention_head-all.safetensors")
    code, said, err = call(
        "apply", "tuned", "--selection", chosen, "--out", tmp_path / "undone", folder=folder
    )
    assert (code, err) == (0, "")
    assert "268 of 5,314 entries" in said
    undone = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "undone")
    base = transformers.BertForSequenceClassification.from_pretrained(folder / "base")
    other = base.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in undone.state_dict().items())
