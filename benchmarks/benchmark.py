"""What every benchmark is: a config whose fields are its options, `run(config)`, one file.

    python -m benchmarks.bench_NAME [--OPTION VALUE ...] [--name NAME]

With `--name NAME` the result is `benchmarks/results/NAME.json`. Without it, it goes into
`benchmarks/results/local/`, which git ignores, so that no committed result is written over.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from benchmarks.environment import RESULTS, write_result
from paramattr.errors import ParamattrError

Row = dict[str, Any]
Found = TypeVar("Found", bound=Mapping[str, Any])


def _weight(word: str) -> float | str:
    return word if word.isalpha() else float(word)


KINDS: dict[Any, dict[str, Any]] = {
    Path: {"type": Path},
    Path | None: {"type": Path},
    tuple[Path, ...]: {"type": Path, "action": "append"},
    tuple[float, ...]: {"type": float, "nargs": "+"},
    tuple[str, ...]: {"type": str, "nargs": "+"},
    tuple[float | str, ...]: {"type": _weight, "nargs": "+"},
}
"""Type of a field to what makes an option of it; any other type reads its option itself."""
HELP = {
    "images": "folder of photographs; those of scikit-image by default",
    "weights": "folder of a pair; may be repeated",
    "targets": "file of a target tuned from the bundled baseline; may be repeated",
    "pct": "shares of the filters, in percent",
    "count": "photographs, for what takes long",
    "largest": "millions of parameters",
    "excerpts": "held out, for measuring",
}


def start(
    config: type, run: Callable[[Any], Any], arguments: list[str] | None = None
) -> Mapping[str, Any]:
    """Read the options, run the benchmark and write its result beside the environment.

    Args:
        config: a frozen dataclass, of the module that is run.
        run: its function: a config to a result with its `rows`, or to an iterator over growing
            ones, each of which is written, so that a run that is cut keeps its rows.
        arguments: of the command line; this process's by default.
    """
    own = run.__globals__
    module = own["__spec__"].name
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=own["__doc__"])
    hints = get_type_hints(config)
    for one in fields(config):
        kind = KINDS.get(hints[one.name], {"type": hints[one.name]})
        default = list(one.default) if isinstance(one.default, tuple) else one.default
        needed = {"required": True} if default is MISSING else {"default": default}
        option = one.name.replace("_", "-")
        parser.add_argument(f"--{option}", help=HELP.get(one.name), **kind, **needed)
    parser.add_argument("--name", help="of the result; in results/local without it")
    given = vars(parser.parse_args(arguments))
    name = given.pop("name") or f"local/{module.rsplit('bench_', 1)[-1]}"
    made = config(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    try:
        found = run(made)
        for result in found if isinstance(found, Iterator) else [found]:
            path = write_result(name, f"python -m {module}{_words(made)}", result)
    except ModuleNotFoundError as error:
        parser.exit(2, f"{parser.prog}: {error.name} is missing: pip install -e '.[dev]'\n")
    except (ParamattrError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")
    print(path.relative_to(RESULTS.parent.parent))
    return result


def say(row: Found) -> Found:
    """Print a row as it is made, and give it back."""
    print(", ".join(f"{key} {_shown(value)}" for key, value in row.items()), flush=True)
    return row


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(config: Any) -> str:
    """Give the options that differ from their defaults; of folders the last part of the path."""
    words = ""
    for one in fields(config):
        value = getattr(config, one.name)
        if value != one.default:
            several = value if isinstance(value, tuple) else (value,)
            shown = [shlex.quote(v.name if isinstance(v, Path) else f"{v}") for v in several]
            option = one.name.replace("_", "-")
            between = f" --{option} " if isinstance(several[0], Path) else " "
            words += f" --{option} {between.join(shown)}"
    return words
