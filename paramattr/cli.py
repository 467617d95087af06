"""The command line: `paramattr STUDY COMMAND`; studies join it through an entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from paramattr.errors import ParamattrError

try:
    import typer
except ModuleNotFoundError:  # pragma: no cover
    sys.exit("the command line needs the extra 'cli': pip install 'paramattr[cli]'")

app = typer.Typer(
    name="paramattr",
    help="Which parameters of a fine-tuned model carry a given function?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Run the command line; a mistake that paramattr can name ends in one line and exit code 2."""
    for study in sorted(entry_points(group="paramattr.studies"), key=lambda point: point.name):
        app.add_typer(study.load(), name=study.name)
    try:
        app()
    except ParamattrError as error:
        print(f"paramattr: {error}", file=sys.stderr)
        raise SystemExit(2) from None
