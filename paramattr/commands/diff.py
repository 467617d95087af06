"""`paramattr diff`: what did fine-tuning change?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def diff(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", show_default=False, help="Folder of the base model.")
    ],
    tuned: Annotated[
        Path,
        typer.Argument(
            metavar="TUNED", show_default=False, help="Folder of the tuned model or adapter."
        ),
    ],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='JSON lines: {"text", "label"?, "condition"?}.'),
    ] = None,
    units: Annotated[
        str, typer.Option(help="Kinds of unit, such as layer,attention_head,neuron.")
    ] = "",
    objective: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="classification, next-token, squared-error, or package.module:function; by "
            "default what the model is for.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of what is written; a run that was killed resumes there."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="package.module:factory; BASE and TUNED are then state dicts."),
    ] = None,
    batches: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="package.module:loader, or of loaders by condition; with --model."),
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="merged (the weights) or factors (the adapter's A and B).")
    ] = "merged",
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Nodes on the path between the models; by default 2, 4, ... 32: as many as it "
            "takes for the attributions to add up.",
            show_default=False,
        ),
    ] = None,
    pct: Annotated[float, typer.Option(help="Percent of the units that is masked.")] = 1.0,
    draws: Annotated[int, typer.Option(help="Draws of random units.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Texts that run forward together.")] = 16,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut.")] = 128,
    device: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Such as cpu or cuda."),
    ] = None,
    dtype: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Precision of the gradients, such as bfloat16."),
    ] = None,
    curve: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of BezierPath.save: the path, in place of the straight line."),
    ] = None,
    at: Annotated[
        float, typer.Option(help="Place on the path whose values masked units take; 1: the base.")
    ] = 1.0,
    rank: Annotated[
        str, typer.Option(help="Rank by magnitude, or by sign: whose change lowered the objective.")
    ] = "magnitude",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Find the units that a fine-tuning changed, and mask the top of them.

    Nothing is downloaded. BASE and TUNED are folders that save_pretrained wrote; TUNED may be that
    of a PEFT adapter. With conditions in the data, each is contrasted with the others.

    Example: paramattr diff base tuned --data texts.jsonl --out found
    """
    from paramattr.diff.config import Config
    from paramattr.diff.present import present

    present(
        Config(
            base,
            tuned,
            data,
            tuple(name.strip() for name in units.split(",") if name.strip()),
            objective,
            out,
            model,
            batches,
            adapter,
            steps,
            pct / 100,
            draws,
            batch_size,
            max_tokens,
            device,
            dtype,
            curve,
            at,
            rank,
        ),
        as_json=as_json,
        dry_run=dry_run,
    )
