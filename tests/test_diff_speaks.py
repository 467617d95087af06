"""What `paramattr diff` says: how many nodes it takes, of which condition, and whose answer."""

import json
import re
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from paramattr import Scores, save_state_dict
from paramattr.commands.diff.config import Config
from paramattr.commands.diff.examples import illustrate
from paramattr.commands.diff.experiment import Result, run
from paramattr.commands.diff.material import gather
from paramattr.commands.diff.names import file_names
from paramattr.commands.diff.report import as_json, print_result
from paramattr.commands.diff.result import page_of
from tests.command_line import answer, call, refusal
from tests.folders import bert, saved, transformers, with_head, write_gpt_pair, write_lines
from tests.steep_pair import STEEP

pytestmark = pytest.mark.filterwarnings("ignore:.*doesn't match a supported version")


@pytest.fixture
def ran(ran):
    return partial(ran, "diff", width=600)


PAIR = (str(STEEP / "base"), str(STEEP / "tuned"), "--data", str(STEEP / "texts.jsonl"))
LAYERS = ("--units", "layer", "--draws", "1")


@pytest.fixture(scope="module")
def converged() -> tuple[Result, dict, str]:
    """What is found of the steep pair by default, its rows, and what is printed."""
    config = Config(*map(Path, PAIR[:2]), Path(PAIR[3]), ("layer",), draws=1)
    result = run(config, gather(config))
    console = Console(file=StringIO(), width=600)
    print_result(console, config, result)
    return result, as_json(config, result), console.file.getvalue()


@pytest.fixture(scope="module")
def heads(folder) -> tuple[dict, str]:
    """What two nodes find of the steep pair's heads: its rows, and what is printed."""
    words = ("diff", *PAIR, "--units", "attention_head", "--draws", "1", "--steps", "2")
    ran = partial(call, folder=folder, width=600)
    return answer(ran, *words), ran(*words)[1]


def layers_of(result: dict, condition: str) -> list[str]:
    rows = sorted(result["layers"], key=lambda row: -row["attributed"][condition])
    return [row["layer"] for row in rows[:5]]


def test_nodes_are_added_until_the_attributions_add_up(converged):
    _, result, _ = converged
    looks = {look["nodes"]: look["residual"] for look in result["nodes"]["looks"]}
    assert looks[2]["food"] > 0.5
    assert looks[2]["heat"] > 0.5
    assert list(looks) == [2, 4, 8, 16, 32]
    assert result["nodes"]["taken"] == result["settings"]["steps"] == 32
    assert max(result["nodes"]["residual"].values()) < 0.05
    assert result["gradients"] == 32 * 32 + 16 * (2 + 4 + 8 + 16 + 32)


def test_the_layers_are_those_of_many_nodes(ran, converged):
    result, many = converged[1], answer(ran, *PAIR, *LAYERS, "--steps", "64")
    for condition in ("food", "heat"):
        assert layers_of(result, condition) == layers_of(many, condition)


def test_the_nodes_it_takes_are_said_with_what_fewer_miss(converged):
    said = converged[2]
    assert "Nodes: 32. With 2 the attributions miss up to 87% of the change, with 4 40%" in said
    assert re.search(r"Residual, .*: food 0\.2%, heat 0\.0%\.", said)


def test_nodes_that_were_asked_for_are_kept_and_warned_of(ran):
    result = answer(ran, *PAIR, *LAYERS, "--steps", "2")
    assert result["nodes"]["taken"] == 2
    assert result["nodes"]["looks"] == []
    [said] = [note for note in result["notes"] if "miss" in note]
    assert said.startswith("With 2 nodes the attributions miss 87% of the change on food, 60% of")
    assert "leave --steps out" in said
    assert layers_of(result, "heat")[0] == "bert.pooler.dense"  # another layer than with 64
    assert not any("miss" in note for note in answer(ran, *PAIR, *LAYERS, "--steps", "32")["notes"])


def test_a_path_that_32_nodes_cannot_follow_is_said(ran, folder):
    steep = with_head(bert(), 1, 2)
    with torch.no_grad():
        steep.classifier.weight.mul_(-600)
        steep.bert.pooler.dense.weight.mul_(-30)
        steep.bert.encoder.layer[1].output.LayerNorm.weight.mul_(-30)
    saved(steep, folder / "steeper")
    result = answer(ran, "base", "steeper", "--data", "texts.jsonl", *LAYERS)
    assert result["nodes"]["taken"] == 32
    assert result["nodes"]["residual"]["all"] > 0.05
    assert any("32 nodes are not enough" in note for note in result["notes"])


def test_the_residual_is_that_of_the_saved_scores(ran, tmp_path):
    result = answer(ran, *PAIR, *LAYERS, "--steps", "4", "--out", str(tmp_path))
    for name, residual in result["nodes"]["residual"].items():
        assert Scores.load(tmp_path / f"scores-layer-{name}.safetensors").residual == residual


def test_a_run_that_was_finished_is_called_again_with_its_own_nodes(ran, tmp_path):
    words = ("base", "tuned", "--data", "texts.jsonl", *LAYERS, "--out", str(tmp_path))
    first = answer(ran, *words)
    again = answer(ran, *words)
    assert [look["nodes"] for look in first["nodes"]["looks"]] == [2, 4]
    assert [look["nodes"] for look in again["nodes"]["looks"]] == [4]  # the file says how many
    assert again["top"] == first["top"]
    assert "made with other settings" in refusal(ran, *words, "--steps", "5")


def test_a_dry_run_says_how_many_gradients_there_may_be(ran):
    _, said, _ = ran(*PAIR, *LAYERS, "--dry-run")
    assert "96 to 2016 gradients" in said
    assert "64 gradients" in ran(*PAIR, *LAYERS, "--steps", "2", "--dry-run")[1]


def uneven(folder: Path) -> Config:
    """Texts whose order by length is not the file's, and whose answers differ."""
    texts = ["word1 word2 word3 word4 word5 word6", "word7", "word8 word9 word10", "word11 word12"]
    lines = [json.dumps({"text": text, "label": n % 2}) for n, text in enumerate(texts)]
    (folder / "uneven.jsonl").write_text("\n".join(lines) + "\n")
    data = folder / "uneven.jsonl"
    return Config(folder / "base", folder / "tuned", data, ("attention_head",), batch_size=2)


def test_every_text_stands_beside_its_own_answer(folder):
    config = uneven(folder)
    material = gather(config)
    shown = illustrate(material, run(config, material)).changes
    tuned = transformers.BertForSequenceClassification.from_pretrained(folder / "tuned")
    assert len(shown) == 2
    for change in shown:
        batch = material.tokenizer(change.given.content, return_tensors="pt")
        chances = tuned(batch["input_ids"]).logits.softmax(1)[0].tolist()
        likeliest = max(range(2), key=lambda number: chances[number])
        said = change.before.content.splitlines()[0]
        assert said == f"LABEL_{likeliest}: {100 * chances[likeliest]:.1f}%"


def test_a_text_is_named_by_its_line(folder):
    config = uneven(folder)
    material = gather(config)
    lines = (folder / "uneven.jsonl").read_text().splitlines()
    for change in illustrate(material, run(config, material)).changes:
        [number] = re.findall(r"line (\d+)", change.title)
        assert json.loads(lines[int(number) - 1])["text"] == change.given.content


def test_what_lies_in_no_unit_is_said_of_each_condition(heads):
    result, said = heads
    [line] = [line for line in said.splitlines() if "lies in no attention_head" in line]
    shares = dict(re.findall(r"([\d.]+)% on (\w+)", line))
    unassigned = result["unassigned"]["attention_head"]
    assert {name: f"{100 * unassigned[name]:.1f}" for name in ("food", "heat")} == {
        name: share for share, name in shares.items()
    }


def test_the_largest_share_is_said_of_each_condition(converged):
    words = page_of(converged[0]).sections[0].blocks[0].sentences
    [said] = [sentence for sentence in words if "largest share" in sentence]
    assert "bert.embeddings.word_embeddings on food (22%)" in said
    assert "classifier on heat (22%)" in said or "classifier on heat (21%)" in said


def test_a_condition_called_all_beside_another_is_refused(ran, folder):
    write_lines(folder / "called.jsonl", 8, ("all", "other"))
    said = "condition 'all', which stands for all"
    assert said in refusal(ran, "base", "tuned", "--data", "called.jsonl")
    (folder / "ours_with_all.py").write_text(
        "import torch\n"
        "def model():\n"
        "    return torch.nn.Linear(2, 2)\n"
        "def with_all():\n"
        "    return dict.fromkeys(('all', 'other'), [(torch.eye(2), torch.eye(2))])\n"
    )
    for name, weight in (("one", 2.0), ("two", 1.0)):
        state = {"weight": weight * torch.eye(2), "bias": torch.zeros(2)}
        save_state_dict(folder / f"{name}.safetensors", state)
    own = ("--model", "ours_with_all:model", "--batches", "ours_with_all:with_all")
    own += ("--objective", "squared-error", "--units", "layer")
    assert said in refusal(ran, "one.safetensors", "two.safetensors", *own)


def test_a_condition_that_a_terminal_would_obey_is_refused(ran, folder):
    write_lines(folder / "coded.jsonl", 8, ("red", "blue\x1b[2J"))
    said = refusal(ran, "base", "tuned", "--data", "coded.jsonl")
    assert "control codes" in said
    assert "\x1b" not in said


CONDITIONS = ("x", "a!", "a_-1", "L" * 300, "漢" * 120, "A!", "X", "a?")


@pytest.mark.filterwarnings("ignore:Glyph")  # of the figure's font
def test_every_condition_has_files_of_its_own(ran, folder, tmp_path):
    write_lines(folder / "odd.jsonl", len(CONDITIONS), CONDITIONS)
    words = ("base", "tuned", "--data", "odd.jsonl", "--units", "attention_head", "--draws", "1")
    answer(ran, *words, "--steps", "1", "--out", str(tmp_path / "out"))
    names = [file.name.casefold() for file in (tmp_path / "out").iterdir()]
    assert sum(name.startswith("scores-attention_head-") for name in names) == len(CONDITIONS)
    assert sum(name.startswith("selection-attention_head-") for name in names) == 9
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) < 140  # the least that file systems take


def test_scores_and_selection_of_a_condition_have_one_name():
    names = file_names(["red", "a b", "a-b", "a/b", "Red", "é", "e\u0301"])
    assert names["red"] == "red"
    assert names["a b"] == "a_b-1"
    assert len({name.casefold() for name in names.values()}) == len(names)


def test_what_the_fine_tuning_gained_is_said_and_losses_are_shares_of_it(ran):
    words = (*PAIR, "--units", "attention_head", "--draws", "1", "--steps", "2", "--pct", "50")
    result, said = answer(ran, *words), ran(*words)[1]
    for name, worth in result["objective"].items():
        gain = worth["base"] - worth["tuned"]
        assert worth["gain"] == pytest.approx(gain)
        assert re.search(rf"^{name} .* {gain:.3g} ", said, re.MULTILINE)
    row = next(row for row in result["masked"] if row["sought"] == "food")
    gain = result["objective"]["food"]["gain"]
    assert row["lost_share"] == pytest.approx(row["lost"] / gain)
    assert f"({round(100 * row['lost_share'])}%)" in said


def test_where_nothing_is_found_one_sentence_says_so(heads):
    said = heads[1]
    sentence = "No short list was found"
    assert said.count(sentence) == 1
    line = next(line for line in said.splitlines() if sentence in line)
    assert "food" in line
    assert "of what the fine-tuning gained" in line


def test_a_list_that_carries_the_gain_is_not_called_nothing(ran, folder):
    base = bert()
    with torch.no_grad():
        base.classifier.weight.mul_(100)
    saved(base, folder / "loud")
    saved(with_head(base, 1, 2), folder / "loud-tuned")
    words = ("--data", "texts.jsonl", "--units", "attention_head", "--steps", "2")
    gain = answer(ran, "loud", "loud-tuned", *words)["objective"]["all"]["gain"]
    pair = ("loud", "loud-tuned") if gain > 0 else ("loud-tuned", "loud")
    said = ran(*pair, *words)[1]
    assert "No short list" not in said
    assert "(100%)" in said


def test_where_nothing_was_gained_it_is_said(ran):
    said = ran("base", "tuned", "--data", "texts.jsonl", "--units", "layer", "--steps", "2")[1]
    assert "gained less than 1.0% of the objective" in said
    assert "No short list" not in said


def test_swapped_models_are_said_once_in_the_words_of_diff(ran):
    base, tuned, *rest = PAIR
    code, said, err = ran(tuned, base, *rest, *LAYERS, "--steps", "2")
    assert (code, err) == (0, "")
    assert said.count("swapped") == 1
    assert "the tuned model is worse than its base" in said
    assert "diff BASE TUNED" in said


def test_few_texts_that_got_worse_are_said(ran, folder):
    lines = Path(PAIR[3]).read_text().splitlines()
    (folder / "three.jsonl").write_text("\n".join([*lines[:3], *lines[-3:]]) + "\n")
    words = ("--data", str(folder / "three.jsonl"), *LAYERS, "--steps", "2")
    said = ran(PAIR[1], PAIR[0], *words)[1]
    assert said.count("swapped") == 1
    assert "swapped" not in ran(*PAIR[:2], *words)[1]


VOCABULARY = re.compile(r"\b(target|baseline|FAIG|ParameterPathIntegratedGradients)\b")


def test_base_and_tuned_are_the_only_words_for_the_two_models(ran, tmp_path):
    base, tuned, *rest = PAIR
    words = (*rest, "--units", "layer,attention_head", "--draws", "1", "--steps", "2")
    for pair in ((base, tuned), (tuned, base)):
        said = ran(*pair, *words)[1]
        assert not VOCABULARY.search(said.replace(str(STEEP), "")), said
    assert not VOCABULARY.search(refusal(ran, base, base, *rest))


def test_names_in_quotes_are_left_as_they_are():
    from paramattr.commands.diff.names import spoken

    said = "the baseline model's 'target' of 'baseline x' is worse than the target's"
    assert (
        spoken(said) == "the base model's 'target' of 'baseline x' is worse than the tuned model's"
    )


def test_the_report_speaks_of_base_and_tuned(folder):
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")
    config = uneven(folder)
    material = gather(config)
    result = run(config, material)
    html = page_of(result, illustrate(material, result)).html()
    visible = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", html, flags=re.DOTALL)
    assert not VOCABULARY.search(visible)


def test_a_causal_language_model_needs_no_objective(ran, folder):
    write_gpt_pair(folder)
    words = ("gpt", "gpt-tuned", "--data", "plain.jsonl", "--units", "neuron", "--draws", "1")
    chosen, named = (answer(ran, *words, *m) for m in ((), ("--objective", "next-token")))
    assert chosen["settings"]["objective"] == "next-token"
    assert chosen["objective"] == named["objective"]
    assert "next-token" in ran(*words)[1]


def test_a_missing_label_is_told_of_the_first_line(ran, folder):
    lines = [{"text": "word1 word2 word3"}, {"text": "word1", "label": 0}, {"text": "word2"}]
    (folder / "missing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = refusal(ran, "base", "tuned", "--data", "missing.jsonl")
    assert 'line 1 of missing.jsonl has no "label"' in said


def test_the_first_line_that_is_too_short_is_named(ran, folder):
    write_gpt_pair(folder)
    (folder / "short.jsonl").write_text('{"text": "word10"}\n{"text": "word1"}\n')
    said = refusal(ran, "gpt", "gpt-tuned", "--data", "short.jsonl")
    assert "line 1 of short.jsonl has 1 token" in said


def test_one_unit_of_few_is_not_called_one_percent(ran):
    words = ("base", "tuned", "--data", "texts.jsonl", "--units", "attention_head", "--draws", "1")
    said = ran(*words, "--steps", "2")[1]
    assert "1 of 8" in said
    assert "1% of 8 attention heads is less than one: 1 is masked, 12.5%" in said
    assert "less than one" not in ran(*words, "--steps", "2", "--pct", "25")[1]


def test_a_share_of_right_answers_that_never_moves_is_said_once(heads):
    said = heads[1]
    assert said.count("100.0%") <= 2  # of the models, on the two conditions
    assert "as many answers are right as with nothing masked" in said


def test_the_help_of_objective_names_all_of_them(ran):
    code, said, _ = ran("--help")
    assert code == 0
    for name in ("classification", "next-token", "squared-error", "package.module:function"):
        assert name in said.replace("\n", " ")
