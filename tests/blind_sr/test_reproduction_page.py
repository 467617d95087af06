"""The page of the reproduction: its tables over pairs are the rows of their result files."""

import json
from pathlib import Path

import pytest

from blind_sr.data.measures import PLANE_LABELS
from blind_sr.labels import INPUT_LABELS, MASKS, PAIR_LABELS, PAPER

RESULTS = Path("benchmarks/results")
PLACES = {label: plane for plane, label in PLANE_LABELS.items()}
PAGE = Path("docs/reproduction.md").read_text(encoding="utf-8")
TABLE_2 = PAGE.split("## Table 2")[1].split("\n## ")[0]


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def cells(table):
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table if "|" in line
    ]


def summary(network):
    return {
        (row["mask"], row["pct"], row["method"]): row for row in read(f"pairs_{network}")["summary"]
    }


def of(row, plane, part="mean"):
    return row[f"difference{plane}_x1000"][part]


@pytest.mark.parametrize("network", PAIR_LABELS)
def test_table_2_is_that_of_the_pairs(network):
    table = TABLE_2.split(f"\n{PAIR_LABELS[network]}, ")[-1] if network == "srcnn" else TABLE_2
    shown, where = {}, ""
    for first, source, *values in cells(table.split("FAIG over the others")[0].splitlines()):
        where = first or where
        if source.startswith("here, "):
            shown.setdefault((where, PLACES[source[6:]]), values)
    found = summary(network)
    assert len(shown) == len(PLANE_LABELS) * len(found) / len(PAPER)
    for (mask, pct, method), row in found.items():
        for plane in PLANE_LABELS:
            written = shown[f"{INPUT_LABELS[mask]}, {pct:.0f}%", plane][PAPER.index(method)]
            assert written == f"{of(row, plane):.2f} ± {of(row, plane, 'sd'):.2f}"


def test_the_leads_are_the_ratios_of_the_means():
    where, seen = "", 0
    for first, source, *values in cells(
        TABLE_2.split("FAIG over the others")[1].split("###")[0].splitlines()
    ):
        where = first or where
        for network, label in PAIR_LABELS.items():
            if source == label:
                mask, pct = next(
                    (m, p) for m in MASKS for p in (1, 5) if where == f"{INPUT_LABELS[m]}, {p}%"
                )
                own = summary(network)
                for other, written in zip(PAPER[1:], values, strict=True):
                    ratios = [
                        of(own[mask, pct, "faig"], p) / of(own[mask, pct, other], p)
                        for p in PLACES.values()
                    ]
                    grey, blue = ratios
                    assert written == f"{blue:.1f} / {grey:.1f}"
                    seen += 1
    assert seen == 24


def test_the_shares_of_the_whole_are_those_of_every_pair():
    rows = {
        (row["pair"], row["mask"], row["method"]): row
        for row in read("pairs_srresnet")["rows"]
        if row["pct"] == 1
    }
    distances = {row["pair"]: (k, row) for k, row in enumerate(read("distance_srresnet")["rows"])}
    distances["longer"] = distances.pop("srresnet_target")
    table = cells(TABLE_2.split("### Does")[1].splitlines())[2:]
    assert len(table) == len(distances)
    for name, _, distance, *values in table:
        [(k, row)] = [own for key, own in distances.items() if name.strip("`") in key]
        assert distance == f"{row['distance']:.1f} ({row['relative']:.2f})"
        for mask, written in zip(MASKS, values, strict=False):
            blue, grey = (
                rows[k, mask, "faig"][f"difference{p}_x1000"] / row[f"whole_{mask}{p}_x1000"]
                for p in ("_blue", "")
            )
            assert written == f"{100 * blue:.0f}% / {100 * grey:.0f}%"
        blue, grey = (
            rows[k, "noise", "faig"][key] / rows[k, "noise", "ig-no-contrast"][key]
            for key in ("difference_blue_x1000", "difference_x1000")
        )
        assert values[2] == f"{blue:.2f} / {grey:.2f}"
