"""`paramattr blindsr compare` and its rows, on small networks."""

import csv
import json

import pytest
import torch

from blind_sr.compare import experiment
from blind_sr.compare.rows import TABLE, result_rows
from blind_sr.data.measures import PLANES, output_difference
from blind_sr.data.photographs import load_photographs
from blind_sr.labels import LABELS, MASKS
from blind_sr.models.outputs import restore
from blind_sr.models.pairs import load_pair
from blind_sr.rankings.search import find_filters
from paramattr import compare, squared_error
from tests.command_line import study

METHODS = ("taylor-middle", "taylor-middle-no-contrast", "faig", "random")
FRACTIONS = (0, 0.25, 0.5, 1)


@pytest.fixture
def data(folder, small):
    pair, photographs = load_pair("srresnet", folder), load_photographs(folder, crop=8)
    rankings = find_filters(pair, photographs, METHODS, n_steps=2, random_seeds=1)
    return pair, photographs, rankings, restore(pair.target, photographs)


def test_each_plane_is_compared_as_if_it_were_measured_alone(data):
    pair, photographs, rankings, target = data
    found = experiment.compare_methods(*data, fractions=FRACTIONS)
    assert list(found) == list(PLANES)

    def alone(plane, condition):
        def measure(model):
            outputs = restore(model, photographs, [condition])[condition]
            pairs = zip(outputs, target[condition], strict=True)
            return 1000 * torch.cat([output_difference(*pair, plane) for pair in pairs]).double()

        return measure

    for name, plane in PLANES.items():
        measures = {condition: alone(plane, condition) for condition in MASKS}
        fractions = found[name].fractions
        expected = compare(pair.target, pair.baseline, rankings, measures, fractions=fractions)
        truth = ("lost_share", "lost_low", "lost_high", "damage", "selective", "reason")
        rows = [{k: v for k, v in row.items() if k not in truth} for row in found[name].rows()]
        assert rows == expected.rows()
        assert found[name].areas() == expected.areas()
        assert found[name].leads(0.01) == expected.leads(0.01)
    assert found[""].rows() != found["_blue"].rows()


def test_the_truth_is_the_squared_error_of_the_same_runs(data):
    pair, photographs, rankings, _ = data

    def error(condition):
        def measure(model):
            outputs = restore(model, photographs, [condition])[condition]
            pairs = zip(outputs, photographs.high, strict=True)
            return torch.cat([squared_error(*pair).double() for pair in pairs])

        return measure

    measures = {condition: error(condition) for condition in MASKS}
    found = experiment.compare_methods(*data, fractions=FRACTIONS)[""]
    expected = compare(
        pair.target, pair.baseline, rankings, measures, truth=measures, fractions=found.fractions
    )
    for one, other in zip(found.damage(), expected.damage(), strict=True):
        assert one["reason"] == other["reason"]
        for key in ("lost_share", "low", "high"):
            assert one[key] == pytest.approx(other[key], nan_ok=True)


def test_the_network_runs_once_per_edit_and_photograph(data):
    pair, photographs, rankings, target = data
    runs, edits = [], []
    pair.target.register_forward_hook(lambda *arguments: runs.append(1))
    one = {"random": rankings["random"]}
    experiment.compare_methods(
        pair, photographs, one, target, fractions=FRACTIONS, advance=edits.append
    )
    assert len(edits) == len({*FRACTIONS, *TABLE})
    assert len(runs) == len(edits) * len(MASKS) * len(photographs.names)


def test_the_rows_hold_both_planes_and_every_lead(data):
    result = result_rows(experiment.compare_methods(*data, fractions=FRACTIONS))
    numbers = {"difference_x1000", "low", "high"}
    numbers |= {"difference_blue_x1000", "low_blue", "high_blue"}
    for row in result["rows"]:
        assert set(row) == {"method", "mask", "input", "pct", *numbers}
        for plane in PLANES:
            value = row[f"difference{plane}_x1000"]
            assert row[f"low{plane}"] <= value <= row[f"high{plane}"]
    for row in result["curves"]:
        assert set(row) == {"method", "mask", "input", "pct", *numbers}
        assert row["pct"] == [0, 1, 5, 25, 50, 100]
        assert all(len(row[number]) == len(row["pct"]) for number in numbers)
    leads = {(r["method"], r["other"], r["mask"], r["fraction"]) for r in result["leads"]}
    assert leads == {
        (METHODS[0], other, function, fraction)
        for other in METHODS[1:]
        for function in MASKS
        for fraction in TABLE
    }
    table = {(r["method"], r["mask"], r["input"], r["pct"]): r for r in result["rows"]}
    for row in result["leads"]:
        pct = 100 * row["fraction"]
        first, other = (table[m, row["mask"], row["mask"], pct] for m in (METHODS[0], row["other"]))
        for plane in PLANES:
            key = f"difference{plane}_x1000"
            assert row[f"value{plane}"] == pytest.approx(first[key] - other[key])
    for name in ("areas", "selectivity"):
        assert all({"value", "value_blue"} <= set(row) for row in result[name])
    assert all("mask" in row and "function" not in row for row in result["agreement"])


def test_the_tables_and_the_files(folder, small, tmp_path):
    words = ("--images", folder, "--weights", folder, "--crop", 8, "--steps", 1, "--points", 3)
    code, out, err = study("compare", *words, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("paper's)") == len(MASKS)
    result = json.loads((tmp_path / "compare.json").read_text())
    methods = {row["method"] for row in result["rows"]}
    assert {"ig", "ig-no-contrast", "fisher", "fisher-no-contrast"} < methods <= set(LABELS)
    for name in ("curves.png", "curves_blue.png"):
        assert (tmp_path / name).stat().st_size > 1000
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["difference_blue_x1000"]) > 0
    assert {path.stem for path in (tmp_path / "scores").iterdir()} == {
        f"{method}_{function}" for method in methods for function in MASKS
    }
