"""Reports: one file, from which no request leaves, that shows texts and never runs them."""

import base64
import hashlib
import importlib.util
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from blind_sr.labels import METHODS
from paramattr import PathProfile, Scores, UnitIndex, compare, contrast
from paramattr.errors import DataError, ParamattrError
from paramattr.figures import METHOD_COLOURS, looks
from paramattr.plots import (
    plot_changes,
    plot_comparison,
    plot_distribution,
    plot_modulation,
    plot_units,
)
from paramattr.report import Change, Modulation, State, Wording, check_file, write_report
from paramattr.report import page as page_module
from paramattr.report.blocks import Spread, Table
from paramattr.report.page import bars_of, data_uri, marked
from paramattr.report.panels import network_of
from tests.tiny import seeded

TOOL = Path(__file__).parent.parent / "tools" / "check_report.py"
EVIL = "<script>window.hit = 1</script>"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Read(HTMLParser):
    """Collects scripts, addresses and the text that a person sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict, str]] = []
        self.addresses: list[str] = []
        self.text = ""
        self.policy = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [found[key] for key in ("src", "href", "data", "action") if key in found]
        if tag == "meta" and found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        self._open = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._open:
            self.text += data


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())


@pytest.fixture(scope="module")
def models() -> tuple[nn.Module, nn.Module]:
    return seeded(network, 0), seeded(network, 1)


@pytest.fixture(scope="module")
def scores(models) -> dict[str, Scores]:
    index, draw = UnitIndex.of(models[0], "kernel"), torch.Generator().manual_seed(0)

    def drawn() -> Scores:
        values = torch.rand(len(index), generator=draw)
        return Scores(index, values, standard_error=values / 9, signed=-values, samples=5)

    return {EVIL: drawn(), "b": drawn()}


@pytest.fixture(scope="module")
def comparison(models, scores):
    inputs = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))

    def measure(sign: float):
        def of(model: nn.Module) -> torch.Tensor:
            with torch.no_grad():
                return sign * model(inputs).sum(1)

        return of

    one, other = scores.values()
    rankings = {"faig": {EVIL: contrast(one, other), "b": contrast(other, one)}, "mine": one}
    measures = {EVIL: measure(1.0), "b": measure(-1.0)}
    return compare(*models, rankings, measures, fractions=[0.02, 0.5, 1], truth=measures)


@pytest.fixture
def changes() -> list[Change]:
    text = Change(EVIL, State("tuned", f"good {EVIL}"), State("masked", "bad"), State("text", EVIL))
    return [text, Change("image", State("tuned", PIXEL, "30 dB"), State("masked", PIXEL))]


@pytest.fixture
def modulation() -> Modulation:
    frames = {EVIL: [State("", f"{EVIL} {place}", EVIL) for place in range(3)]}
    values = {"a": [3.0, math.nan, 1.0], EVIL: [1.0, 2.0, 3.0]}
    return Modulation(f"kernels {EVIL}", [0.0, 0.5, 1.0], values, "loss", frames)


@pytest.fixture(scope="module")
def plotly():
    pytest.importorskip("plotly", reason="plotly is not installed: the report is not tested")


def written(path, found, **options) -> tuple[str, Read]:
    html = write_report(found, path / "report.html", **options).read_text(encoding="utf-8")
    return html, Read(html)


@pytest.mark.usefixtures("plotly")
def test_a_text_that_holds_a_script_is_shown_and_not_run(tmp_path, comparison, changes, modulation):
    profile = PathProfile(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 4.0, 3.0]), 5)
    html, read = written(
        tmp_path,
        comparison,
        title=EVIL,
        profile={EVIL: profile},
        changes=changes,
        modulations=[modulation],
        wording=Wording(labels={"faig": f"FAIG {EVIL}"}, units=f"kernels {EVIL}"),
        notes=[EVIL],
    )
    assert read.text.count(EVIL) > 20
    # A reader of this page that unescapes would find it; no element of it is there.
    run = [text for kind, text in read.scripts if kind.get("type") != "application/json"]
    assert len(run) == 2
    assert "window.hit" not in "".join(run)
    assert all("<" not in text for kind, text in read.scripts if kind)
    # The policy lets these two scripts run and no other.
    for script in run:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in read.policy
    assert read.policy.count("sha256-") == 2
    assert "script-src 'unsafe" not in html
    assert len(html.encode()) < 10_000_000


@pytest.mark.usefixtures("plotly")
def test_no_address_leads_out_of_the_file(tmp_path, comparison, scores, changes, modulation):
    for found in (comparison, scores, scores["b"]):
        html, read = written(tmp_path, found, changes=changes, modulations=[modulation])
        assert all(address.startswith(("#", "data:")) for address in read.addresses)
        assert "default-src 'none'" in read.policy
        assert "url(" not in html.split("<style>")[1].split("</style>")[0]
        blocks = [text for kind, text in read.scripts if kind.get("type") == "application/json"]
        assert blocks
        for block in blocks:
            json.loads(block, parse_constant=pytest.fail)


@pytest.mark.usefixtures("plotly")
def test_numbers_are_those_of_the_comparison(tmp_path, comparison):
    _, read = written(tmp_path, comparison)
    figures = [json.loads(text) for kind, text in read.scripts if kind.get("type")]
    drawn = next(f for f in figures if "square-root" in f["layout"]["xaxis"]["title"]["text"])
    lines = [trace for trace in drawn["data"] if "customdata" in trace and trace["meta"] == "mine"]
    curve = comparison.curves["mine", EVIL, EVIL]
    assert lines[0]["y"] == pytest.approx(curve.mean().tolist())
    assert [x**2 for x in lines[0]["x"]] == pytest.approx([100 * f for f in curve.fractions])
    assert f"{comparison.rows()[1]['value']:.3g}" in read.text


def test_each_method_has_one_colour_everywhere(comparison, tmp_path):
    names = [m for m in METHODS if m.removesuffix("-no-contrast") == m]
    assert len({METHOD_COLOURS[name] for name in names}) == len(names) == 10
    seen = looks(["random", "theirs", "faig", "faig-no-contrast", "mine"])
    assert len(set(seen.values())) == 5
    assert seen["faig"] == looks(["x", "FAIG"])["FAIG"]
    figure = plot_comparison(comparison)
    lines = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    for method, look in looks(list(comparison.rankings)).items():
        assert lines[method] == look.colour
    assert "square-root" in figure.axes[-1].get_xlabel()


def test_every_figure_is_there_as_matplotlib(comparison, scores, changes, modulation):
    drawn = plot_units(scores["b"], count=7).axes[0]
    assert len(drawn.get_yticks()) == 7
    line = plot_modulation(modulation).axes[0].lines[1]
    assert list(line.get_ydata()) == [1.0, 2.0, 3.0]
    axes = plot_changes(changes).axes
    assert len(axes) == 6
    assert len(axes[4].images) == 1
    assert axes[4].get_xlabel() == "30 dB"
    assert plot_distribution({"b": scores["b"].top(count=3)}).axes
    with pytest.raises(ParamattrError, match="at least one"):
        plot_changes([])


def test_the_network_holds_each_found_unit_in_its_layer(scores):
    chosen = scores["b"].top(count=5)
    drawn = network_of({"b": chosen})
    assert {layer.name: layer.lanes[0].found for layer in drawn.layers} == chosen.by_layer()
    # 4 and 16 kernels: no two ticks of a layer fall together.
    for layer in drawn.layers:
        assert layer.lanes[0].ticks.count("M") == layer.lanes[0].found
    first = scores["b"].top(count=1)
    shown = network_of({"b": first}, drawn=1)
    assert shown.left_out == 1
    assert [layer.lanes[0].found for layer in shown.layers] == [1]


def test_what_changed_is_marked():
    change = Change("", State("", "one two  three"), State("", "one 2  three four"))
    assert "".join(text for text, _ in marked(change, "before")) == "one two  three"
    assert [text for text, differs in marked(change, "after") if differs] == ["2", " four"]


def test_intervals_share_one_scale():
    table = Table("", ["", ""], [["a", Spread(1.0, -1.0, 3.0)], ["b", Spread(0.0)]])
    assert bars_of(table, 0) is None
    assert bars_of(table, 1) == [
        {"zero": 25.0, "value": 50.0, "low": 0.0, "high": 100.0},
        {"zero": 25.0, "value": 25.0, "low": None, "high": None},
    ]


def test_mistakes_are_named(tmp_path, monkeypatch, scores):
    with pytest.raises(DataError, match="PNG, JPEG, GIF or WebP"):
        data_uri(b"%PDF")
    with pytest.raises(DataError, match="expected two of one kind"):
        Change("x", State("", PIXEL), State("", "text"))
    with pytest.raises(DataError, match="'a' of modulation 'x' has 1 entries"):
        Modulation("x", [0.0, 1.0], {"a": [1.0]})
    with pytest.raises(DataError, match="do not rise"):
        Modulation("x", [1.0, 0.0], {"a": [1.0, 2.0]})
    with pytest.raises(ParamattrError, match="a dict has no report: expected Scores"):
        write_report({}, tmp_path / "report.html")
    monkeypatch.setattr(page_module, "find_spec", lambda name: None if name == "plotly" else name)
    with pytest.raises(ParamattrError, match=re.escape('pip install "paramattr[report]"')):
        write_report(scores, tmp_path / "report.html")
    with pytest.raises(ParamattrError, match="plotly is not installed"):
        check_file(tmp_path / "report.html")
    monkeypatch.setattr(page_module, "find_spec", lambda name: name)
    with pytest.raises(ParamattrError, match="is a folder"):
        check_file(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("plotly")
def test_a_report_works_in_chromium(tmp_path, comparison, changes, modulation, capsys):
    spec = importlib.util.spec_from_file_location("check_report", TOOL)
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    file = write_report(
        comparison, tmp_path / "report.html", changes=changes, modulations=[modulation]
    )
    try:
        found = check.check(file, None, None)
    except check.Absent as error:
        with capsys.disabled():
            print(f"\nNOT CHECKED in a browser: {error}")
        pytest.skip(f"NOT CHECKED in a browser: {error}")
    assert check.wrong(found) == []
    assert len(found["views"]) == 4
    assert all(view["sliders"] and view["tables"] for view in found["views"])
    # The check can fail: a page without its policy that asks for a picture.
    asks = "<img src='http://127.0.0.1:9/x.png' alt=''></main>"
    html = file.read_text().replace("default-src 'none'", "default-src *")
    broken = tmp_path / "broken.html"
    broken.write_text(html.replace("img-src", "font-src").replace("</main>", asks))
    said = "\n".join(check.wrong(check.check(broken, None, None)))
    assert "request: http://127.0.0.1:9/x.png" in said
