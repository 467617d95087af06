"""Retrain only the filters that were found: Tab. 3."""

from __future__ import annotations

import csv
import json as json_format
import statistics
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from blind_sr.options import (
    CropOption,
    DeviceOption,
    JsonOption,
    MethodsOption,
    Network,
    NetworkOption,
    StepsOption,
    WeightsOption,
    check_device,
    progress,
)

WIDTH = 80
"""Columns of a narrow terminal, which a table fits into."""


def retrain(
    images: Annotated[
        Optional[Path],  # noqa: UP045 (Typer on Python 3.10)
        typer.Option(
            help="Folder of photographs to train on; a real run wants one, apart from the test's.",
            show_default="those of scikit-image",
        ),
    ] = None,
    find: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder of photographs on which the filters are found.",
            show_default="those of scikit-image",
        ),
    ] = None,
    test: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of photographs to measure on.", show_default="as --find"),
    ] = None,
    pct: Annotated[float, typer.Option(help="Share of the filters to retrain, in percent.")] = 1.0,
    methods: MethodsOption = "faig,ig-no-contrast,absolute-change,random",
    iterations: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 500,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    all_rate: Annotated[
        float, typer.Option(help="Peak learning rate of the upper bound, where all weights move.")
    ] = 5e-4,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    patch: Annotated[int, typer.Option(min=16, help="Side of a patch, high resolution.")] = 64,
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions: other patches, and other random filters.")
    ] = 1,
    network: NetworkOption = Network.srresnet,
    weights: WeightsOption = None,
    steps: StepsOption = 8,
    crop: CropOption = 64,
    device: DeviceOption = "cpu",
    precision: Annotated[
        str, typer.Option(help="bfloat16, float32, or auto: the faster one of the device.")
    ] = "auto",
    out: Annotated[
        Path, typer.Option(help="Folder for the rows, the figure, the filters and the weights.")
    ] = Path("retrain-output"),
    json: JsonOption = False,
    force: Annotated[bool, typer.Option("--force", help="Start afresh over a run.")] = False,
) -> None:
    """Retrain only the filters that were found, from the baseline: Tab. 3 of the paper.

    Each method's deblurring and denoising filters, and all weights as the upper bound, are trained
    on blurry input alone and on noisy input alone, then measured by PSNR on such input. A run that
    is repeated goes on where it stopped; more methods or seeds are added to what is there.
    """
    from blind_sr import retraining, study
    from blind_sr.patches import read_photographs
    from blind_sr.rankings import attributed, named
    from blind_sr.training import Recipe, fast_precision
    from paramattr.checkpoints import fingerprint
    from paramattr.quadrature import get_rule

    # All that can be wrong is looked at before the work begins.
    names = named(methods)
    study.check_percents([pct])
    get_rule("gausslegendre", steps)
    check_device(device)
    recipe = Recipe(
        network=network.value,
        stage="blur",
        iterations=iterations,
        learning_rate=rate,
        batch_size=batch_size,
        patch=patch,
        precision=fast_precision(device) if precision == "auto" else precision,
        device=device,
    )
    replace(recipe, learning_rate=all_rate)  # looks at it
    pair = study.load_pair(network.value, weights, device=device, crop=crop)
    found_on = study.load_photographs(find, crop=crop, device=device)
    tested_on = found_on
    if test is not None:
        tested_on = study.load_photographs(test, crop=crop, device=device)
    trained_on = read_photographs(images, patch)
    options = {
        "network": network.value,
        "weights": fingerprint([pair.baseline.state_dict(), pair.target.state_dict()])[:16],
        "images": fingerprint([{p.name: image for p, image in trained_on.items()}])[:16],
        "find": fingerprint([dict(zip(found_on.names, found_on.high, strict=True))])[:16],
        "crop": crop,
        "steps": steps,
        "pct": pct,
        "iterations": iterations,
        "rate": rate,
        "all-rate": all_rate,
        "batch-size": batch_size,
        "patch": patch,
        "precision": recipe.precision,
        "device": device,
    }
    folder = retraining.Folder(out)
    folder.claim(options, force=force)

    with progress("attributing", attributed(folder.missing(names, seeds), found_on)) as advance:
        selections = retraining.select(
            pair, found_on, names, folder, pct=pct, seeds=seeds, n_steps=steps, advance=advance
        )
    trainings = retraining.plan(selections, seeds)
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    rows = list(
        retraining.rows(
            trainings,
            pair,
            list(trained_on.values()),
            tested_on,
            recipe,
            folder,
            all_rate=all_rate,
            console=console,
        )
    )
    stages = {"baseline": pair.baseline, "target": pair.target}
    result = {
        "network": network.value,
        "pct": pct,
        "iterations": iterations,
        "methods": names,
        "seeds": seeds,
        **{
            stage: study.quality(study.restore(model, tested_on, study.MASKS), tested_on)
            for stage, model in stages.items()
        },
        "rows": rows,
        "unchanged": True,  # or an error would have been raised
        "recipe": options,
        "images": {
            "train": [path.name for path in trained_on],
            "find": found_on.names,
            "test": tested_on.names,
        },
    }
    console = Console()
    if json:
        print(json_format.dumps(result), flush=True)
    else:
        for table in tables(result):
            console.print(table)
        console.print("Every weight outside the selection is the baseline's, to the bit.")
        if images is None:
            console.print("Trained on scikit-image's photographs: a real run wants --images.")
    figure = save(out, result)
    if not json:
        console.print(f"figure: {figure}")


def summary(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Give mean and standard deviation over the seeds of each method, kind of filters and input."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["method"], row["filters"], row["input"]), []).append(row["psnr"])
    return {
        key: (statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else 0.0)
        for key, own in found.items()
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Lay Tab. 3 out: a line an input, a column a method and kind of filters.

    As many methods stand in a table as a narrow terminal has room for.
    """
    from blind_sr.rankings import LABELS
    from blind_sr.report import INPUT_LABELS

    kinds = {"blur": "deblur", "noise": "denoise"}
    cells = summary(result["rows"])
    groups: list[list[str]] = []
    left = 0
    for method in result["methods"]:
        heads = [[kind, *LABELS[method].split()] for kind in kinds.values()]
        width = sum(1 + max(map(len, words)) for words in heads)
        if width > left:
            groups.append([])
            left = WIDTH - len(" blurry upper ")
        groups[-1].append(method)
        left -= width
    found = []
    for group in groups:
        columns = {("all", "all"): "upper\nbound"}
        for kind, head in kinds.items():
            for method in group:
                words = textwrap.fill(LABELS[method], 1, break_long_words=False)
                columns[method, kind] = f"{head}\n{words}"
        table = Table(
            title=f"Retraining {result['pct']:g}% of the filters from the baseline: PSNR in dB",
            caption="; ".join(
                f"{stage}: "
                + ", ".join(f"{INPUT_LABELS[c]} {v:.2f}" for c, v in result[stage].items())
                for stage in ("baseline", "target")
            ),
            box=box.SIMPLE_HEAD,
            padding=0,
        )
        table.add_column("input", no_wrap=True)
        for head in columns.values():
            table.add_column(head, justify="right", no_wrap=True)
        for condition in kinds:
            line = [cells[method, kind, condition] for method, kind in columns]
            table.add_row(
                INPUT_LABELS[condition],
                *(
                    f"{mean:.2f}" + (f"\n±{deviation:.2f}" if result["seeds"] > 1 else "")
                    for mean, deviation in line
                ),
            )
        found.append(table)
    return found


def save(out: Path, result: dict[str, Any]) -> Path:
    """Write `retrain.json`, `retrain.csv` and the bar chart.

    Returns:
        The path of the chart.
    """
    (out / "retrain.json").write_text(json_format.dumps(result, indent=1) + "\n")
    with (out / "retrain.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(result["rows"][0]))
        writer.writeheader()
        writer.writerows(result["rows"])
    figure = out / "retrain.png"
    _draw(figure, result)
    return figure


def _draw(path: Path, result: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    from blind_sr.rankings import LABELS
    from blind_sr.report import FUNCTIONS, INPUT_LABELS
    from paramattr.plots import COLOURS

    cells = summary(result["rows"])
    methods = result["methods"]
    figure = Figure(figsize=(max(9, 2.2 * len(methods)), 4.8), layout="constrained")
    figure.suptitle(f"{result['pct']:g}% of the filters retrained for {result['iterations']} steps")
    panels = figure.subplots(1, 2)
    for panel, condition in zip(panels, FUNCTIONS, strict=True):
        start = result["baseline"][condition]
        for place, (kind, label) in enumerate(FUNCTIONS.items()):
            own = [cells[method, kind, condition] for method in methods]
            bars = panel.bar(
                [number + 0.4 * place - 0.2 for number in range(len(methods))],
                [mean - start for mean, _ in own],
                width=0.4,
                yerr=[deviation for _, deviation in own] if result["seeds"] > 1 else None,
                label=f"{label} filters",
                color=COLOURS[place],
            )
            panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        mean, _ = cells["all", "all", condition]
        panel.axhline(
            mean - start, color="k", linestyle="--", label="upper bound: all weights retrained"
        )
        panel.axhline(0, color="k", linewidth=0.8)
        panel.margins(y=0.12)
        panel.set_title(f"{INPUT_LABELS[condition]} input")
        panel.set_ylabel("PSNR over the baseline's in dB")
        labels = [textwrap.fill(LABELS[method], 10) for method in methods]
        panel.set_xticks(range(len(methods)), labels)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
