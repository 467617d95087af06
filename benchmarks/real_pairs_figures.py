"""Draw the figures of the page on real pairs, from the result file.

    python -m benchmarks.real_pairs_figures --find DIR [--docs DIR]

The photograph that the last one shows is one that scikit-image ships with. Its units are found and
trained anew on `--find`, with the settings of the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_real_pairs import Config
from benchmarks.environment import RESULTS
from benchmarks.real_pair import Pair
from benchmarks.retrained_units import retrained
from benchmarks.waifu2x import as_jpeg
from blind_sr.data.degradations import downsample, to_8bit
from blind_sr.data.images import bundled_files, read_image
from paramattr import FAIG, contrast, random_scores, substitute
from paramattr.figures import COLOURS, GREY, empty_figure

FAR, SHOWN = "PHOTO:UP2X:3X", "PHOTO:UP2X:1X"
"""Pairs: whose paths are drawn, and whose networks restore the photograph."""
LEFT, TOP, SIDE = 52, 26, 84
"""Where the photograph is cut, in pixels of the input."""
Row = dict[str, Any]


def draw_paths(rows: list[Row], file: Path) -> None:
    """Draw the PSNR along every path of one pair, as JPEG and clean."""
    figure = empty_figure((8.6, 3.6))
    axes = figure.subplots(1, 2)
    for axis, condition in zip(axes, ("jpeg", "clean"), strict=True):
        for number, row in enumerate(row for row in rows if row["pair"] == FAR):
            own = row[condition]
            label = f"{row['path']}: barrier {own['barrier']:.2g}"
            colour = COLOURS[number]
            axis.plot(row["places"], own["decibels"], "o-", color=colour, label=label, markersize=3)
        axis.set_title({"jpeg": "JPEG photographs", "clean": "clean photographs"}[condition])
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["3X", "0.25", "0.5", "0.75", "UP2X"])
        axis.set_xlabel("place on the path")
        axis.set_ylabel("PSNR, dB")
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def draw_edits(result: dict[str, list[Row]], file: Path) -> None:
    """Draw what each edit loses on JPEG and on clean photographs, a panel per pair."""
    pairs = list(dict.fromkeys(row["pair"] for row in result["edits"]))
    figure = empty_figure((3.3 * len(pairs), 4.3))
    axes = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axis, pair in zip(axes, pairs, strict=True):
        axis.fill_between([0.5, 16], -3, 0.2, color="#009e73", alpha=0.08, linewidth=0)
        axis.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
        axis.axhline(0.2, color=GREY, linestyle=":", linewidth=1)
        for label, marker, colour, rows in _groups(result, pair):
            places = [(row["lost"], row["lost_clean"]) for row in rows]
            axis.plot(*zip(*places, strict=True), marker, color=colour, label=label, markersize=5)
        _, before, after = pair.split(":")
        axis.set_title(f"{before} to {after}", fontsize=10)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_yscale("symlog", linthresh=1)
        axis.set_xlim(-0.3, 16)
        axis.set_ylim(-3, 16)
        axis.set_xticks([0, 0.5, 1, 2, 5, 10], ["0", "0.5", "1", "2", "5", "10"])
        axis.set_yticks([-1, 0, 0.2, 1, 2, 5, 10], ["-1", "0", "0.2", "1", "2", "5", "10"])
        axis.minorticks_off()
        axis.set_xlabel("lost on JPEG")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("lost on clean photographs")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def _groups(result: dict[str, list[Row]], pair: str) -> list[tuple[str, str, str, list[Row]]]:
    own = {key: [row for row in result[key] if row["pair"] == pair] for key in result}
    found = []
    for method, marker in (("faig", "o"), ("random", "x")):
        edits = [row for row in own["edits"] if row["method"] == method]
        trained = [row for row in own["retrained"] if row["method"] == method]
        edits += [
            {"toward": "baseline" if row["place"] == 1 else "near", **row}
            for row in own["channels"]
            if row["method"] == method
        ]
        groups = {
            "exchanged for the baseline's": [r for r in edits if r["toward"] == "baseline"],
            "exchanged for a nearer point's": [r for r in edits if r["toward"] != "baseline"],
            "trained to unlearn": [r for r in trained if r["how"] == "unlearn"],
        }
        name = {"faig": "FAIG's units", "random": "random units"}[method]
        for colour, (label, rows) in zip((5, 1, 0), groups.items(), strict=True):
            found.append((f"{name}, {label}", marker, COLOURS[colour], rows))
    return found


def draw_photograph(config: Config, file: Path) -> None:
    """Show one photograph as JPEG, restored by the networks and by edited ones."""
    pair = Pair(SHOWN, config)
    target, baseline = pair.target, pair.baseline
    data = {c: pair.finding.middles(c, pair.side)[: config.finding] for c in ("jpeg", "clean")}
    scores = FAIG(target, baseline).score(data, reducer="kernel", n_steps=config.nodes)
    ranking = contrast(scores["jpeg"], scores["clean"])

    def unlearned(units: Any) -> torch.nn.Module:
        batches = pair.finding.drawn(pair.small, config.training, seed=1)
        top = units.top(fraction=config.retrained[0], warn=False)
        return retrained("unlearn", target, baseline, top, batches, config.rate)

    share = f"{100 * config.retrained[0]:g}%"
    networks = {
        "before (UP2X)": baseline,
        "fine-tuned (1X)": target,
        "1% of the kernels\nexchanged, by FAIG": substitute(
            target, baseline, ranking.top(fraction=0.01, warn=False)
        ),
        f"{share} unlearned,\nby FAIG": unlearned(ranking),
        f"{share} unlearned,\nat random": unlearned(random_scores(target, reducer="kernel")),
    }
    high = read_image(next(f for f in bundled_files() if f.stem == "chelsea"))[None] / 255
    high = high[:, :, : high.shape[2] // 2 * 2, : high.shape[3] // 2 * 2]
    clean = to_8bit(downsample(high))
    inputs = {"JPEG": as_jpeg(clean, config.quality), "clean": clean}
    figure = empty_figure((1.9 * (len(networks) + 1), 4.6))
    axes = figure.subplots(2, len(networks) + 1)
    for line, (condition, image) in zip(axes, inputs.items(), strict=True):
        cut = image[:, :, TOP : TOP + SIDE, LEFT : LEFT + SIDE]
        lost = pair.finding.lost
        _show(line[0], cut[:, :, lost:-lost, lost:-lost], f"input, {condition}")
        for axis, (label, network) in zip(line[1:], networks.items(), strict=True):
            with torch.no_grad():
                _show(axis, network(cut), label if condition == "JPEG" else "")
    figure.savefig(file, dpi=130)


def _show(axis: Any, image: Tensor, title: str) -> None:
    axis.imshow(image[0].clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_pairs_figures")
    parser.add_argument("--find", type=Path, required=True, help="photographs that find the units")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent.parent / "docs")
    given = parser.parse_args()
    result = json.loads((RESULTS / "real_pairs.json").read_text())
    draw_paths(result["paths"], given.docs / "real-pairs-paths.png")
    rows = {key: result[key] for key in ("edits", "channels", "retrained")}
    draw_edits(rows, given.docs / "real-pairs-edits.png")
    draw_photograph(Config(given.find, given.find), given.docs / "real-pairs-photograph.png")


if __name__ == "__main__":
    main()
