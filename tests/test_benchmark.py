"""What every benchmark is: its options, its file, and what it says where something is missing."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import benchmark, environment
from paramattr.errors import DataError


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
    words = ["--images", "/far/Set14", "--weights", "/a/seed1", "--weights", "/a/seed2"]
    benchmark.start(Config, run, [*words, "--pct", "1", "5", "--name", "own"])
    result = json.loads((results / "own.json").read_text())
    assert result["command"] == (
        "python -m tests.test_benchmark --images Set14 --weights seed1 --weights seed2 "
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
