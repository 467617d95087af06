"""The command line: `paramattr COMMAND`; studies join it through an entry point.

A command is imported when it runs, so that help and bad options need no torch.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

from paramattr.errors import ParamattrError, printable
from paramattr.files.writing import signals
from paramattr.runtime.torchrun import alone, shared

try:
    import typer
except ModuleNotFoundError:  # pragma: no cover
    print("paramattr: the command line needs: pip install 'paramattr[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

STOPPED = 130
"""The exit code of a command that Ctrl-C stopped."""

app = typer.Typer(
    name="paramattr",
    help="Which parameters of a fine-tuned model carry a given function?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version("paramattr"))
        raise typer.Exit


@app.callback()
def _root(
    shown: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


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
    draws: Annotated[int, typer.Option(help="Number of random control selections.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Batch size for passes without gradients.")] = 16,
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
    from paramattr.commands.diff.config import Config
    from paramattr.commands.diff.present import present

    config = Config(
        base=base,
        tuned=tuned,
        data=data,
        units=tuple(name.strip() for name in units.split(",") if name.strip()),
        objective=objective,
        out=out,
        model=model,
        batches=batches,
        adapter=adapter,
        steps=steps,
        share=pct / 100,
        draws=draws,
        batch_size=batch_size,
        max_tokens=max_tokens,
        device=device,
        dtype=dtype,
        curve=curve,
        at=at,
        rank=rank,
    )
    present(config, as_json=as_json, dry_run=dry_run)


def apply(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", show_default=False, help="Folder of the tuned model or adapter."
        ),
    ],
    selection: Annotated[
        Path, typer.Option(show_default=False, help="File that Selection.save or diff wrote.")
    ],
    strength: Annotated[
        float, typer.Option(help="0 is the base's values, 1 the tuned model's.")
    ] = 0.0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="New folder of the edited model; FOLDER-edited by default."),
    ] = None,
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the base; what diff compared with, where it is known."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a copy of a model's folder in which the selected units are blended with the base's.

    All that is not selected stays as it is, bit for bit. Nothing is downloaded, and no code runs.

    Example: paramattr apply tuned --selection found/selection-neuron-all.safetensors --out undone
    """
    from paramattr.commands.apply import Config, Result, run

    out = out or folder.resolve().with_name(f"{folder.resolve().name}-edited")
    found: Result = run(Config(folder, selection, out, strength, base))
    if as_json:
        print(json.dumps(vars(found), indent=1, default=str))
        return
    said = (
        f"{found.out}: {found.entries:,} of {found.all_entries:,} entries in {found.tensors} "
        f"tensors ({found.units} of {found.all_units} units) are at strength {found.strength:g} "
        f"between {found.base or 'zero'} (0) and {folder} (1). All others are {folder}'s, bit for "
        "bit."
    )
    for line in (said, *(f"Note: {note}" for note in found.notes)):
        print(printable(line))


def info(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", show_default=False, help="A file of paramattr's, or a checkpoint."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file holds: scores, a selection, a run's progress, a state dict, a model.

    Example: paramattr info found/scores-neuron-all.safetensors
    """
    from paramattr.commands.info import describe

    found = describe(file)
    print(json.dumps(found, indent=1) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """Write nested entries, one per line."""
    said = []
    for key, value in found.items():
        label = f"{indent}{printable(key)}"
        if isinstance(value, dict):
            said += [f"{label}:", *_lines(value, f"{indent}  ")]
        elif isinstance(value, list):
            said.append(f"{label}: {', '.join(map(printable, value)) or '()'}")
        else:
            said.append(f"{label}: {'none' if value is None else printable(value)}")
    return said


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List versions, devices, extras and studies; put it into a report of a mistake."""
    from paramattr.commands.doctor import examine, missing

    found = examine()
    print(json.dumps(found, indent=1) if as_json else "\n".join([*_lines(found), *missing(found)]))


for command in (shared(diff), alone(apply), alone(info), alone(doctor)):
    app.command()(command)


def main() -> None:
    """Run the command line; bad options and files end in one line on stderr and exit code 2.

    A signal ends in one line too, which says what was kept, and exit code 130 or 143.
    """
    with signals():
        _run()


def _run() -> None:
    for study in sorted(entry_points(group="paramattr.studies"), key=lambda point: point.name):
        try:
            app.add_typer(study.load(), name=study.name)
        except Exception as error:  # noqa: PERF203 (one broken study must not take others along)
            print(
                f"paramattr: study {study.name!r} is left out: {printable(error)}", file=sys.stderr
            )
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # a full disk shows here, not while the interpreter ends
    except ModuleNotFoundError as error:
        _stop(f"{error.name} is not installed: pip install 'paramattr[blindsr]'")
    except ParamattrError as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error}: expected a place that can be read and written to, with room")
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Typer's usage errors have no public class of their own that all its versions share.
        if not hasattr(error, "format_message"):
            raise
        _stop(error.format_message() or "a command is missing: see --help")
    if code == STOPPED:  # Typer's own answer to Ctrl-C, which says nothing
        raise KeyboardInterrupt
    raise SystemExit(code if isinstance(code, int) else 0)


def _stop(reason: str) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter would try again, and say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print(f"paramattr: {printable(' '.join(reason.split()))}", file=sys.stderr)
    raise SystemExit(2) from None
