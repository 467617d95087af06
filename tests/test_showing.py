"""Scores and selections as objects: iterated, indexed, as data frames, HTML and figures."""

import sys

import pytest
import torch

from paramattr import (
    FAIG,
    ParamattrError,
    Scores,
    Selection,
    Unit,
    UnitIndex,
    compare,
    cross_entropy,
)
from paramattr.units.showing import name_of
from tests.tiny import ConvNet, seeded


@pytest.fixture
def scores() -> Scores:
    index = UnitIndex.of(seeded(ConvNet), "output_channel")
    values = torch.arange(len(index), dtype=torch.float64)
    return Scores(index, values, signed=-values, standard_error=values / 10)


def test_scores_give_units_with_their_scores(scores):
    pairs = list(scores)
    assert len(pairs) == len(scores)
    assert pairs[0] == scores[0] == (Unit("head.weight", (0,)), 0.0)
    assert pairs[-1] == scores[-1]
    assert [unit for unit, _ in pairs] == [scores.index[n] for n in range(len(scores))]
    assert dict(scores)[scores.index[2]] == 2.0
    assert sorted(scores, key=lambda pair: -pair[1])[0] == scores[int(scores.rank()[0])]
    with pytest.raises(IndexError):
        scores[len(scores)]


def test_a_selection_gives_its_units(scores):
    selection = scores.top(count=2)
    assert list(selection) == [scores.index[len(scores) - 2], scores.index[len(scores) - 1]]
    assert selection[0] == next(iter(selection))
    assert selection[-1] in selection
    assert scores.index[0] not in selection
    assert list(scores.top(count=0)) == []
    with pytest.raises(IndexError):
        selection[2]


def test_data_frames(scores):
    pytest.importorskip("pandas")
    frame = scores.to_dataframe()
    assert list(frame.columns) == ["name", "position", "score", "signed", "standard_error"]
    assert len(frame) == len(scores)
    assert frame.loc[1, "position"] == (1,)
    assert frame["score"].tolist() == scores.values.tolist()
    assert frame["signed"].tolist() == scores.signed.tolist()
    chosen = scores.top(count=2).to_dataframe()
    assert list(zip(chosen["name"], chosen["position"], strict=True)) == list(scores.top(count=2))


def test_without_pandas_and_matplotlib_the_way_out_is_named(scores, monkeypatch):
    for module in ("pandas", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ParamattrError, match="pip install pandas"):
        scores.to_dataframe()
    with pytest.raises(ParamattrError, match=r"paramattr\[plots\]"):
        scores.plot()


def test_html_names_the_first_units_and_escapes(scores):
    page = scores._repr_html_()
    best = scores.index[int(scores.rank()[0])]
    assert page.index(name_of(best)) < page.index(name_of(scores.index[0]))
    assert "<table>" in scores.top(count=1)._repr_html_()
    index = UnitIndex({"<b>": (1,)}, {"<b>": torch.zeros(1, dtype=torch.long)}, {"<b>": (0, (1,))})
    assert "<b>" not in Scores(index, torch.ones(1))._repr_html_()


def test_figures_can_be_written(scores, tmp_path):
    for shown in (scores, Scores(scores.index, scores.values), scores.top(count=3)):
        figure = shown.plot()
        figure.savefig(tmp_path / "figure.png")
    left, right = scores.plot().axes
    assert [bar.get_width() for bar in left.patches] == list(scores.by_layer().values())
    assert right.patches[0].get_width() == float(scores.values.max())


def test_short_reprs(scores):
    target, baseline = seeded(ConvNet).eval(), seeded(ConvNet, 1).eval()
    faig = FAIG(target, baseline, objective=cross_entropy)
    assert repr(faig) == "FAIG(ConvNet, ConvNet, cross_entropy)"
    assert repr(scores.top(count=2)) == f"Selection(2 of {len(scores)} units)"
    measures = {"a": lambda model: torch.zeros(2)}
    found = compare(target, baseline, {"mine": scores}, measures, fractions=(0, 1))
    assert repr(found) == "Comparison(mine, random; 1 functions, 2 fractions)"
    assert isinstance(scores.top(count=1), Selection)
