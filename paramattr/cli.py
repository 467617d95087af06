"""The command line: `paramattr COMMAND`; studies join it through an entry point."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated, NoReturn

from paramattr.errors import ParamattrError, printable
from paramattr.files.writing import signals
from paramattr.runtime.torchrun import alone, shared

try:
    import typer

    from paramattr.commands.apply import apply
    from paramattr.commands.diff import diff
    from paramattr.commands.doctor import doctor
    from paramattr.commands.info import info
except ModuleNotFoundError:  # pragma: no cover
    print("paramattr: the command line needs: pip install 'paramattr[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

app = typer.Typer(
    name="paramattr",
    help="Which parameters of a fine-tuned model carry a given function?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


STOPPED = 130
"""The exit code of a command that Ctrl-C stopped."""


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
