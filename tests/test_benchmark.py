"""What every benchmark is: its options, its file, and what it says where something is missing."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as all_of_them
from benchmarks import benchmark, environment
from benchmarks.bench_budget import split, taken
from benchmarks.score_tables import Samples, score_table
from paramattr import FAIG
from paramattr.errors import DataError
from tests.models import ZOO, other_weights


@dataclass(frozen=True)
class Config:
    images: Path | None = None
    weights: tuple[Path, ...] = ()
    pct: tuple[float, ...] = (1.0,)
    crop: int = 4


def run(config):
    if config.crop == 0:
        raise DataError("there is no crop")
    if config.crop == 1:
        raise ModuleNotFoundError(name="captum")
    return {"rows": [benchmark.say({"crop": config.crop, "value": 1 / 3})]}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    for module in (benchmark, environment):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "benchmarks" / "results")
    return tmp_path / "benchmarks" / "results"


def written(results):
    return {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}


def test_without_a_name_no_committed_result_is_written_over(results, capsys):
    benchmark.start(Config, run, [])
    assert written(results) == {"local/tests.test_benchmark.json"}
    benchmark.start(Config, run, ["--name", "own"])
    assert written(results) == {"local/tests.test_benchmark.json", "own.json"}
    assert "crop 4, value 0.3333" in capsys.readouterr().out


def test_the_command_says_what_was_given_and_names_no_place_of_this_machine(results):
    words = ["--images", "/far/Set14", "--weights", "/a/seed1", "--weights", "/a/seed 2"]
    benchmark.start(Config, run, [*words, "--pct", "1", "5", "--name", "own"])
    result = json.loads((results / "own.json").read_text())
    assert result["command"] == (
        "python -m tests.test_benchmark --images Set14 --weights seed1 --weights 'seed 2' "
        "--pct 1.0 5.0"
    )
    assert result["rows"] == [{"crop": 4, "value": 1 / 3}]
    assert "commit" in result["environment"]


def test_growing_results_are_written_each(results):
    seen = []

    def growing(config):
        for number in range(3):
            yield {"rows": list(range(number))}
            seen.append(json.loads((results / "own.json").read_text())["rows"])

    benchmark.start(Config, growing, ["--name", "own"])
    assert seen == [[], [0], [0, 1]]


@pytest.mark.parametrize(("crop", "said"), [(0, "there is no crop"), (1, "captum is missing")])
def test_what_is_missing_ends_in_one_line(crop, said, results, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.start(Config, run, ["--crop", str(crop)])
    err = capsys.readouterr().err
    assert (stopped.value.code, err.count("\n")) == (2, 1)
    assert said in err
    assert not results.exists()


# Budgets


def test_a_draw_ranks_from_one_half_and_its_population_is_the_other():
    starts = []
    for number in range(5):
        known, others = split(20, number, 5)
        assert sorted(known + others) == list(range(20))
        starts.append(known[:4])
    assert sorted(place for start in starts for place in start) == list(range(20))


def test_the_answer_for_a_budget_is_the_best_way_that_it_pays_for():
    def row(way, samples, gradients, overlap):
        return {"model": "m", "way": way, "samples": samples, "gradients": gradients} | {
            "overlap": overlap
        }

    rows = [row("a", 8, 8, 0.5), row("b", 4, 8, 0.6), row("b", 24, 48, 0.8), row("c", 6, 48, 0.795)]
    answers = {row["gradients"]: row["take"] for row in taken([*rows, row("b", 99, 400, 1.0)])}
    assert answers == {8: ["b x 4"], 48: ["b x 24", "c x 6"], 240: ["b x 24", "c x 6"]}


def test_scores_of_samples_are_kept_and_drawn_nodes_differ_from_sample_to_sample(tmp_path):
    model, inputs, targets = ZOO["convolution"]()
    data = [(inputs[:1].float(), targets[:1].float())] * 2
    models = (model.float(), other_weights(model).float())
    samples = Samples(FAIG(*models), "kernel", {"a": data})
    same, other = (score_table(samples, way, "a", tmp_path) for way in ("gauss 2", "drawn 1"))
    assert torch.equal(same[0], same[1])
    assert not torch.equal(other[0], other[1])
    expected = samples.faig.score(data, reducer="kernel", n_steps=2)
    torch.testing.assert_close(same.mean(0), expected.values.float())
    assert torch.equal(score_table(Samples(None, "", {}), "gauss 2", "a", tmp_path), same)


def test_every_benchmark_is_listed_and_what_is_run_here_is_there():
    there = {path.stem.removeprefix("bench_") for path in all_of_them.HERE.glob("bench_*.py")}
    found = all_of_them.listed()
    names, run_here, questions = ([*column.cells] for column in found.columns)
    assert set(names) == there
    assert all(questions)
    marked = {name for name, mark in zip(names, run_here, strict=True) if mark}
    assert marked == {words.split()[0] for words in all_of_them.RUNS}
    assert marked < there
