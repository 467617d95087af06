"""What the study's commands share: help without torch, places that cannot be, narrow terminals."""

import subprocess
import sys

import pytest
import typer
from rich.console import Console
from rich.table import Table

from blind_sr.cli import app
from blind_sr.compare.report import comparison_tables
from blind_sr.console import fitted
from blind_sr.data.measures import PLANES
from blind_sr.labels import LABELS, MASKS, METHODS, RULES, UNITS, marked
from tests.command_line import refusal, study

COMMANDS = typer.main.get_command(app).commands


def test_the_commands_load_no_torch():
    code = "import sys, blind_sr.cli; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_with_a_duration(name):
    text = COMMANDS[name].help
    assert f"paramattr blindsr {name}" in text
    assert "Example, about " in text
    assert "DURATION" not in text
    assert all(one.help for one in COMMANDS[name].params if not one.hidden), name


def test_help_names_methods_rules_and_units():
    helps = {one.name: one.help for one in COMMANDS["compare"].params}
    assert all(method.removesuffix("-no-contrast") in helps["methods"] for method in METHODS)
    assert all(rule in helps["quadrature"] for rule in RULES)
    assert all(unit in helps["units"] for unit in UNITS)
    hidden = {(name, p.name) for name, c in COMMANDS.items() for p in c.params if p.hidden}
    assert hidden == {
        ("predict", "image"),
        ("predict", "classifier"),
        ("restore", "output"),
        ("modulate", "image"),
        ("modulate", "strength"),
        ("modulate", "output"),
    }


@pytest.mark.parametrize(
    "command", ["mask", "compare", "predict", "conditions", "severity", "modulate", "retrain"]
)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--out", "FILE"), "FILE is a file: expected a folder"),
        (("--out", ""), "the name is empty: expected a folder"),
        (("--weights", ""), "the name is empty: expected a folder"),
    ],
)
def test_folders_that_cannot_be_are_named(command, words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    err = refusal(study, command, *words)
    assert f"'{words[0]}'" in err
    assert expected in err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.parametrize(("command", "option"), [("mask", "--images"), ("predict", "--fit")])
def test_a_file_is_no_folder_of_photographs(command, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").touch()
    said = "photo.png is a file: expected a folder of photographs"
    assert said in refusal(study, command, option, "photo.png", "--crop", 8)


def printed(table, width):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(fitted(table, width))
    return captured.get()


def test_tables_fold_and_cut_no_number():
    numbers = {key: 88.88 for plane in PLANES for key in (f"low{plane}", f"high{plane}")}
    numbers |= {f"difference{plane}_x1000": 77.77 for plane in PLANES}
    names = [{"method": method, "mask": mask} for method in LABELS for mask in MASKS]
    result = {
        "units": "kernel",
        "edit": "masking",
        "rows": [
            {**name, "input": name["mask"], "pct": pct, **numbers}
            for name in names
            for pct in (1, 5)
        ],
        "areas": [{**name, "value": -0.55} for name in names],
        "selectivity": [{**name, "fraction": 0.01, "value": 333.3} for name in names],
        "damage": [{**name, "damage": True, "selective": False} for name in names],
    }
    for width in (30, 40, 80):
        for table in comparison_tables(result):
            text = printed(table, width)
            assert "…" not in text
            assert max(map(len, text.splitlines())) <= width
            for cell, count in (("77.77", 4), ("(88.88-88.88)", 2), ("-0.55", 1), ("333.3", 1)):
                assert text.count(cell) == count * len(LABELS)


def test_a_table_that_fits_is_left_alone():
    table = Table("a", "b")
    table.add_row("123.4567", "765.4321")
    assert fitted(table, 40) is table
    assert printed(table, 16).split() == ["123.4567", "b:", "765.4321"]


def test_damage_and_what_is_not_selective_have_marks_of_their_own():
    fine, broken, costly = (
        {"damage": damage, "selective": selective}
        for damage, selective in ((False, True), (True, None), (False, False))
    )
    assert [marked("FAIG", row) for row in (fine, broken, costly)] == ["FAIG", "FAIG !", "FAIG ~"]
    assert marked("FAIG", fine, broken, costly) == "FAIG ! ~"
    assert marked("FAIG", {"damage": True}) == "FAIG !"  # a result of before
